//! Somebody who reads a topic while it is written.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::classes::ATTEMPT_HEADER;

/// A record of the output.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) value: u32,
    /// Where nobody has written which attempt it was, its place tells them apart.
    pub(crate) attempt: String,
}

/// Reads a topic from its begin, in a thread of its own, until it is dropped.
pub(crate) struct Reader {
    seen: Arc<Mutex<Vec<Vec<Entry>>>>,
    ended: Arc<Mutex<BTreeSet<i32>>>,
    is_over: Arc<AtomicBool>,
    partitions: i32,
}

impl Reader {
    pub(crate) fn start(bootstrap: &str, topic: &str, partitions: i32, isolation: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", format!("reader of {topic}"))
            .set("isolation.level", isolation)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let (seen, ended, is_over) = (Arc::default(), Arc::default(), Arc::default());
        let reader = Self { seen, ended, is_over, partitions };
        let seen = Arc::clone(&reader.seen);
        let (ended, is_over) = (Arc::clone(&reader.ended), Arc::clone(&reader.is_over));
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let poll = poll(&consumer, &ended);
                if !poll.is_empty() {
                    seen.lock().unwrap().push(poll);
                }
            }
        });
        reader
    }

    /// What was read, poll by poll.
    pub(crate) fn polls(&self) -> Vec<Vec<Entry>> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.seen.lock().unwrap().iter().flatten().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().iter().map(Vec::len).sum()
    }

    /// Whether it has been at the end of every partition since it began.
    pub(crate) fn is_at_end(&self) -> bool {
        self.ended.lock().unwrap().len() == usize::try_from(self.partitions).unwrap()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// The records that are there now.
fn poll(consumer: &BaseConsumer, ended: &Mutex<BTreeSet<i32>>) -> Vec<Entry> {
    let mut entries = Vec::new();
    while entries.len() < 500 {
        match consumer.poll(Duration::from_millis(20)) {
            Some(Ok(message)) => entries.push(entry(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.lock().unwrap().insert(partition);
            }
            // The broker may be down for a while.
            Some(Err(_)) => {}
            None => break,
        }
    }
    entries
}

fn entry(message: &BorrowedMessage<'_>) -> Entry {
    let header = |name| message.headers()?.iter().find(|it| it.key == name)?.value;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (partition, offset) = (message.partition(), message.offset());
    Entry {
        partition,
        offset,
        value: text(message.payload().unwrap()).parse().unwrap(),
        attempt: header(ATTEMPT_HEADER).map_or_else(|| format!("{partition}@{offset}"), text),
    }
}
