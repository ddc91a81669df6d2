//! The programs of this folder on a real broker.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "real processes are watched with the real clock")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kafka_orders::ORDERS;
use semel_kafka::KafkaLog;
use semel_kafka::ledger::Trail;
use semel_kafka::log::{Log, Outgoing, ProducerSettings};
use semel_testkit::servers::{Kafka, skips};

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start(program: &str, brokers: &str, db: &Path) -> Running {
    let mut command = Command::new(program);
    command.args(["--brokers", brokers, "--db"]).arg(db).stdout(Stdio::piped());
    Running(command.spawn().unwrap())
}

fn count(db: &Path, table: &str) -> i64 {
    let Ok(db) = rusqlite::Connection::open(db) else { return 0 };
    db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap_or(0)
}

/// Waits until `seen` is true; a minute is much more than it takes.
fn wait_for(what: &str, mut seen: impl FnMut() -> bool) {
    let started = Instant::now();
    while !seen() {
        assert!(started.elapsed() < Duration::from_secs(60), "no {what} after a minute");
        std::thread::yield_now();
    }
}

fn post(address: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /orders HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nIdempotency-Key: \"17\"\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn produce(brokers: &str, record: Outgoing) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = KafkaLog::connect(brokers).unwrap();
        let producer = log.producer(&ProducerSettings::default()).await.unwrap();
        producer.send(record).await.unwrap();
    });
}

fn order(item: &str, id: &str) -> Outgoing {
    let record = Outgoing::to(ORDERS).key(item.to_owned()).value(item.to_owned());
    record.header("Idempotency-Key", id.to_owned())
}

#[test]
fn one_key_makes_one_order_one_record_and_one_invoice() {
    if skips(Kafka::missing()) {
        return;
    }
    let kafka = Kafka::start().unwrap();
    kafka.create_topic(ORDERS, 3).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("shop.db");
    let mut shop = start(env!("CARGO_BIN_EXE_shop"), &kafka.bootstrap(), &db);
    let mut line = String::new();
    BufReader::new(shop.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();

    let first = post(&address, r#"{"item":"book"}"#);
    assert!(first.starts_with("HTTP/1.1 201"), "{first}");
    wait_for("invoice", || count(&db, "invoice") == 1);
    let retry = post(&address, r#"{"item":"book"}"#).to_lowercase();
    assert!(retry.contains("idempotent-replayed: true"), "{retry}");
    drop(shop);

    // Killed and started again, it does nothing twice and goes on.
    let _shop = start(env!("CARGO_BIN_EXE_shop"), &kafka.bootstrap(), &db);
    produce(&kafka.bootstrap(), order("pen", "18"));
    wait_for("second invoice", || count(&db, "invoice") == 2);
    assert_eq!((count(&db, "orders"), count(&db, "invoice")), (1, 2));
    let ledger = semel_kafka::SqliteLedger::open(&db).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(ledger.seen("18")).unwrap()[0].group, "billing");
}

#[test]
fn the_twin_bills_an_order_that_was_written_twice_once() {
    if skips(Kafka::missing()) {
        return;
    }
    let kafka = Kafka::start().unwrap();
    kafka.create_topic(ORDERS, 1).unwrap();
    for (item, id) in [("book", "1"), ("book", "1"), ("pen", "2"), ("ink", "3")] {
        produce(&kafka.bootstrap(), order(item, id));
    }
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("safe.db");
    let safe = start(env!("CARGO_BIN_EXE_safe"), &kafka.bootstrap(), &db);
    wait_for("invoices", || count(&db, "invoice") == 3);
    drop(safe);
    // As long as nothing dies and nothing is rebalanced, the plain one does the same.
    let db = folder.path().join("listener.db");
    let _listener = start(env!("CARGO_BIN_EXE_listener"), &kafka.bootstrap(), &db);
    produce(&kafka.bootstrap(), order("cup", "4"));
    wait_for("invoice of the listener", || count(&db, "invoice") >= 1);
}
