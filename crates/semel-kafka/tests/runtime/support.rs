//! What the tests of consumers share.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use semel_kafka::log::{ConsumerSettings, Event, Log, Outgoing, Record};
use semel_kafka::{ConsumerOptions, Poison, TestLog};
use tokio::sync::watch;

/// A test that takes longer than this hangs. A transaction that a member leaves open when it is
/// stopped holds up the others for its time-out, a minute.
const TEST_MAX: Duration = Duration::from_secs(150);

pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    // Shown when a test fails.
    drop(tracing_subscriber::fmt().with_test_writer().try_init());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(TEST_MAX, test).await.expect("it hangs") })
}

/// A log with the topics `in` and `out` of three partitions and `dead` of one.
pub(crate) fn log() -> TestLog {
    let log = TestLog::new();
    log.create_topic("in", 3);
    log.create_topic("out", 3);
    log.create_topic("dead", 1);
    log
}

/// Numbered records; number `n` has the key `n % keys`.
pub(crate) fn fill(log: &TestLog, numbers: std::ops::Range<u32>, keys: u32) {
    for number in numbers {
        let record = Outgoing::to("in").key((number % keys).to_string());
        let record = record.value(number.to_string()).header("id", format!("id-{number}"));
        log.append(record).unwrap();
    }
}

pub(crate) fn options(topic: &str) -> ConsumerOptions {
    let poison = Poison::dead_letter("dead", 3).pause(Duration::from_millis(1));
    ConsumerOptions::new("group", [topic], poison)
        .batch_max(20)
        .buffer_max(100)
        .commit_every(Duration::from_millis(20))
}

/// A switch that ends consumers.
#[derive(Clone)]
pub(crate) struct Switch(Arc<watch::Sender<bool>>);

impl Switch {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    pub(crate) fn off(&self) {
        self.0.send_replace(true);
    }

    /// Completes when the switch is off.
    pub(crate) fn until(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut seen = self.0.subscribe();
        async move {
            drop(seen.wait_for(|off| *off).await);
        }
    }
}

/// Reads a topic as somebody who reads committed records, until `enough`.
pub(crate) async fn read_until(
    log: &TestLog,
    topic: &str,
    mut enough: impl FnMut(&[Record]) -> bool,
) -> Vec<Record> {
    let settings = ConsumerSettings::new(format!("reader of {topic}"), [topic]);
    let mut reader = log.consumer(&settings).unwrap();
    let mut read = Vec::new();
    while !enough(&read) {
        match reader.next().await {
            Ok(Event::Assigned(partitions)) => {
                let starts = partitions.into_iter().map(|it| (it, Some(0))).collect();
                reader.assign(starts).await.unwrap();
            }
            Ok(Event::Revoked(partitions) | Event::Lost(partitions)) => {
                reader.unassign(partitions).await.unwrap();
            }
            Ok(Event::Records(records)) => read.extend(records),
            Err(_) => tokio::task::yield_now().await,
        }
    }
    reader.close().await.unwrap();
    read
}

pub(crate) async fn read(log: &TestLog, topic: &str, count: usize) -> Vec<Record> {
    read_until(log, topic, |read| read.len() >= count).await
}

pub(crate) fn number(record: &Record) -> u32 {
    std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse().unwrap()
}

pub(crate) fn header(record: &Record, name: &str) -> String {
    let value = record.header(name).unwrap_or_else(|| panic!("no header {name} in {record:?}"));
    String::from_utf8(value.to_vec()).unwrap()
}

/// Every number once, and the numbers of each key in order.
pub(crate) fn assert_once_and_in_order(numbers: &[u32], count: u32, keys: u32) {
    let mut latest: BTreeMap<u32, u32> = BTreeMap::new();
    for number in numbers {
        if let Some(latest) = latest.insert(number % keys, *number) {
            assert!(latest < *number, "key {}: {number} after {latest}", number % keys);
        }
    }
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..count).collect::<Vec<_>>());
}
