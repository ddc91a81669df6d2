//! Runs `conformance/cases.json`, which every binding runs, over the stores that are there.
//! `conformance/README.md` says what the words of the file mean.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic and print"
)]

mod data;
mod runner;

use std::sync::OnceLock;

use data::{File, HandoverEntry};
use runner::{Bound, Run};
use semel::{FingerprintKey, Key, MemoryStore, Operation, RecordId, Store, Tenant};
use semel_stores::{Opened, Purpose};
use semel_tasks::{canonical_json, fingerprint_of_json};
use semel_testkit::servers::{Postgres, Redis, skips};

fn file() -> &'static File {
    static FILE: OnceLock<File> = OnceLock::new();
    FILE.get_or_init(|| {
        let file: File =
            serde_json::from_str(include_str!("../../conformance/cases.json")).unwrap();
        assert_eq!(file.version, 1);
        file
    })
}

fn bound(opened: Opened) -> Bound {
    let store: std::sync::Arc<dyn Store> = opened.store;
    Bound { store, secret: opened.fingerprint_key }
}

async fn open(url: &str) -> Bound {
    bound(semel_stores::open(url, Purpose::Serve).await.unwrap())
}

/// Runs every case on a store, and the handover from one program to another.
async fn conforms(store: &Bound) {
    let file = file();
    for (number, case) in file.cases.iter().enumerate() {
        Run::new(store, case, &format!("{}-{number}-", std::process::id())).all().await;
    }
    write(store, &file.handover).await;
    read(store, &file.handover).await;
    println!("{} cases", file.cases.len());
}

async fn write(store: &Bound, entries: &[HandoverEntry]) {
    for entry in entries {
        Run::handover(store, entry).write().await;
    }
}

async fn read(store: &Bound, entries: &[HandoverEntry]) {
    for entry in entries {
        Run::handover(store, entry).read().await;
    }
}

#[tokio::test]
async fn the_cases_hold_in_memory() {
    let secret = FingerprintKey::from_secret(b"sixteen bytes or more").unwrap();
    conforms(&Bound { store: std::sync::Arc::new(MemoryStore::new()), secret }).await;
}

#[tokio::test]
async fn the_cases_hold_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&open(&format!("sqlite:{}", folder.path().join("semel.db").display())).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cases_hold_on_postgres() {
    if skips(Postgres::missing()) {
        return;
    }
    let server = Postgres::start().unwrap();
    let options = semel_stores::postgres::PostgresOptions::default();
    semel_stores::postgres::migrate::up(&server.url(), options).await.unwrap();
    conforms(&open(&server.url()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cases_hold_on_redis() {
    if skips(Redis::missing()) {
        return;
    }
    let server = Redis::start().unwrap();
    conforms(&open(&server.url()).await).await;
}

/// One half of the handover, on a store that a program in another language uses as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handover_to_or_from_another_program() {
    let Ok(half) = std::env::var("SEMEL_HANDOVER") else { return };
    let store = open(&std::env::var("SEMEL_STORE").expect("SEMEL_STORE names the store")).await;
    match &*half {
        "write" => write(&store, &file().handover).await,
        "read" => read(&store, &file().handover).await,
        other => panic!("SEMEL_HANDOVER is `{other}`; use write or read"),
    }
}

#[test]
fn payloads_and_step_keys_have_one_spelling_in_every_language() {
    let file = file();
    for (text, expected) in &file.canonical {
        assert_eq!(&canonical_json(text).unwrap(), expected, "{text}");
    }
    for vector in &file.fingerprints {
        let secret = FingerprintKey::from_secret(vector.secret.as_bytes()).unwrap();
        let fingerprint = fingerprint_of_json(&secret, &vector.json).unwrap();
        let hex: String = fingerprint.as_bytes().iter().map(|it| format!("{it:02x}")).collect();
        assert_eq!(hex, vector.hex, "{}", vector.json);
    }
    for vector in &file.step_keys {
        let id = RecordId {
            tenant: Tenant::new(&vector.tenant).unwrap(),
            operation: Operation::new(&vector.operation).unwrap(),
            key: Key::parse(&vector.key).unwrap(),
        };
        assert_eq!(Key::derived(&id, &vector.step).as_str(), vector.step_key);
    }
}
