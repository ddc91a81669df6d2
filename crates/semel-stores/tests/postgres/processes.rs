//! Real processes and a real server, killed with SIGKILL.
//!
//! A child is this test program again, told by an environment variable to run one case of this
//! file as its work instead of its check.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use semel::store::Claimed;
use semel::{Store, TransactionalStore};
use semel_stores::postgres::{PostgresOptions, PostgresStore, migrate};
use semel_testkit::servers::{Postgres, skips};

use super::support::{
    Place, acquire, answer, block_on, completion, finish, id, patient, request, sql,
};

pub(crate) const WORK: &str = "SEMEL_TEST_WORK";
const URL: &str = "SEMEL_TEST_URL";
pub(crate) const SCHEMA: &str = "SEMEL_TEST_SCHEMA";

/// Starts this test program as a worker of the named case.
pub(crate) fn child(case: &str, place: &Place, work: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", case, "--nocapture", "--test-threads=1"])
        .env(WORK, work)
        .env(URL, &place.url)
        .env(SCHEMA, &place.schema)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What this process is to do, if it is a worker.
pub(crate) fn work() -> Option<String> {
    std::env::var(WORK).ok()
}

fn options() -> PostgresOptions {
    patient().schema(&std::env::var(SCHEMA).unwrap())
}

pub(crate) async fn worker_store() -> PostgresStore {
    options().connect(&std::env::var(URL).unwrap()).await.unwrap()
}

/// How often a server or a process is killed; the default suits every day.
fn cycles() -> usize {
    std::env::var("SEMEL_TEST_KILL_CYCLES").map_or(10, |number| number.parse().unwrap())
}

#[test]
fn two_processes_never_hold_one_claim_and_never_share_a_counter() {
    const KEYS: usize = 300;
    const CASE: &str = "processes::two_processes_never_hold_one_claim_and_never_share_a_counter";
    if let Some(name) = work() {
        // The test harness has begun a line of its own.
        println!();
        return block_on(async {
            let store = worker_store().await;
            let claims = (0..KEYS * 4).map(|it| {
                let (store, name) = (&store, &name);
                async move {
                    let key = format!("k{}", it % KEYS);
                    if let Claimed::Acquired { fence, .. } =
                        store.claim(&request(&key)).await.unwrap()
                    {
                        store.complete(&completion(&key, fence, &key)).await.unwrap();
                        println!("won {key} {} {name}", fence.counter);
                    }
                }
            });
            futures_util::future::join_all(claims).await;
        });
    }
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let children: Vec<_> = ["a", "b", "c"].map(|name| child(CASE, &place, name)).into();
        let (mut winners, mut counters) = (BTreeMap::<String, usize>::new(), BTreeMap::new());
        for mut child in children {
            for line in BufReader::new(child.stdout.take().unwrap()).lines() {
                let line = line.unwrap();
                let Some(won) = line.strip_prefix("won ") else { continue };
                let words: Vec<_> = won.split(' ').collect();
                *winners.entry(words[0].to_owned()).or_default() += 1;
                *counters.entry(words[1].to_owned()).or_insert(0) += 1;
            }
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(winners.len(), KEYS);
        assert!(winners.values().all(|many| *many == 1), "{winners:?}");
        assert!(counters.values().all(|many| *many == 1), "{counters:?}");
    });
}

#[test]
fn no_acknowledged_completion_is_lost_to_a_killed_server() {
    if skips(Postgres::missing()) {
        return;
    }
    block_on(async {
        let mut server = Postgres::start().unwrap();
        let url = server.url();
        migrate::up(&url, PostgresOptions::default()).await.unwrap();
        let options = patient().response_timeout(Duration::from_secs(5));
        let store = Arc::new(options.connect(&url).await.unwrap());
        let (mut kept, mut unsaid) = (0, 0);
        for cycle in 0..cycles() {
            let stops = Arc::new(AtomicBool::new(false));
            let workers: Vec<_> = (0..16)
                .map(|worker| {
                    let (store, stops) = (Arc::clone(&store), Arc::clone(&stops));
                    tokio::spawn(async move {
                        let mut acknowledged = Vec::new();
                        for it in 0.. {
                            if stops.load(Ordering::Relaxed) {
                                break;
                            }
                            let key = format!("c{cycle}-{worker}-{it}");
                            // Every operation outlives the crash: it is sent again.
                            finish(&*store, &key, &key).await.unwrap();
                            acknowledged.push(key);
                        }
                        acknowledged
                    })
                })
                .collect();
            let first = format!("c{cycle}-0-0");
            while store.get(&id(&first)).await.ok().flatten().is_none() {}
            server.kill();
            server.start_again().unwrap();
            stops.store(true, Ordering::Relaxed);
            for worker in workers {
                let acknowledged = worker.await.unwrap();
                kept += acknowledged.len();
                unsaid += usize::from(acknowledged.is_empty());
                for key in acknowledged.iter().rev().take(20) {
                    assert_eq!(answer(&*store, key).await, *key);
                }
            }
        }
        println!("{} kills, {kept} acknowledged completions, all there", cycles());
        assert!(kept > cycles(), "too little work: {kept}");
        assert!(unsaid < cycles() * 16, "no worker ever finished anything");
        let query = "SELECT count(*) FROM semel.done";
        let client = super::support::client(&url).await;
        let stored: i64 = client.query_one(query, &[]).await.unwrap().get(0);
        assert!(stored >= i64::try_from(kept).unwrap(), "{stored} stored, {kept} acknowledged");
        let twice = "SELECT count(*) FROM (
            SELECT key FROM semel.done GROUP BY key HAVING count(*) > 1) AS t";
        let twice: i64 = client.query_one(twice, &[]).await.unwrap().get(0);
        assert_eq!(twice, 0, "a key finished twice");
    });
}

/// An order in the transaction of the store, halting at a point where the process is killed.
async fn order(store: &PostgresStore, key: &str) {
    let Claimed::Acquired { fence, .. } = store.claim(&request(key)).await.unwrap() else {
        panic!("the key must be free");
    };
    let transaction = store.begin().await.unwrap();
    let schema = std::env::var(SCHEMA).unwrap();
    let insert = format!("INSERT INTO {schema}.orders VALUES ('{key}')");
    transaction.batch_execute(&insert).await.unwrap();
    halt("before_commit");
    store.commit(transaction, &completion(key, fence, "ordered")).await.unwrap();
    halt("after_answer");
}

fn halt(point: &str) {
    if std::env::var(WORK).is_ok_and(|work| work == point) {
        println!("halted");
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn effect_and_record_exist_together_or_not_at_all() {
    const CASE: &str = "processes::effect_and_record_exist_together_or_not_at_all";
    if work().is_some() {
        semel::failpoint::install(halt);
        return block_on(async { order(&worker_store().await, "k").await });
    }
    let rounds = std::env::var("SEMEL_TEST_ROUNDS").map_or(5, |it| it.parse().unwrap());
    block_on(async {
        if super::support::url().is_none() {
            return;
        }
        let points = [
            ("before_commit", false),
            ("in_tx_before_commit", false),
            ("after_commit", true),
            ("after_answer", true),
        ];
        for (round, (point, is_committed)) in
            (0..rounds).flat_map(|round| points.map(|point| (round, point)))
        {
            let place = Place::new().await.unwrap();
            place.sql("CREATE TABLE semel.orders (item text NOT NULL)").await;
            let mut doomed = child(CASE, &place, point);
            let mut lines = BufReader::new(doomed.stdout.take().unwrap()).lines();
            let halted = lines.any(|line| line.is_ok_and(|line| line.ends_with("halted")));
            assert!(halted, "{point} was never passed");
            doomed.kill().unwrap();
            doomed.wait().unwrap();
            let store = place.postgres();
            // The server notices the lost connection; until then the row is locked.
            let state = loop {
                let record = store.get(&id("k")).await.unwrap().unwrap();
                let open = "SELECT count(*) FROM pg_locks \
                            WHERE relation = 'semel.orders'::regclass \
                            AND mode = 'RowExclusiveLock'";
                if place.number(open).await == 0 {
                    break record.state.name();
                }
            };
            let orders = place.number("SELECT count(*) FROM semel.orders").await;
            let seen = (orders, state == "completed");
            assert_eq!(seen, (i64::from(is_committed), is_committed), "{round} {point}");
            if !is_committed {
                // What did not commit provably did nothing, so it is run again after the lease.
                place.sql("UPDATE semel.shift SET millis = millis + 60000").await;
                let fence = acquire(&*store, "k").await;
                let transaction = store.begin().await.unwrap();
                let insert = format!("INSERT INTO {}.orders VALUES ('k')", place.schema);
                transaction.batch_execute(&insert).await.unwrap();
                store.commit(transaction, &completion("k", fence, "ordered")).await.unwrap();
            }
            let orders = place.number("SELECT count(*) FROM semel.orders").await;
            assert_eq!((orders, answer(&*store, "k").await.as_str()), (1, "ordered"), "{point}");
            sql(&place.url, &format!("DROP SCHEMA {} CASCADE", place.schema)).await;
        }
    });
}
