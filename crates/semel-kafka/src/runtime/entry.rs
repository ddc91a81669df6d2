//! Records on their way through a consumer.

use std::collections::BTreeMap;
use std::sync::Arc;

use semel::Timestamp;

use crate::log::{Outgoing, Position, Record, TopicPartition};

/// A record that was read, and where.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Where it was read: its own partition, or that one's partition of the retry topic.
    pub(crate) at: TopicPartition,
    /// Its place there.
    pub(crate) offset: i64,
    /// How often it was tried before it came here.
    pub(crate) attempts: u32,
    /// When it may be tried again.
    pub(crate) not_before: Timestamp,
    /// The record as it was in its own topic.
    pub(crate) record: Arc<Record>,
}

impl Entry {
    /// A record in its own topic.
    pub(crate) fn new(record: Record) -> Self {
        Self {
            at: record.partition.clone(),
            offset: record.offset,
            attempts: 0,
            not_before: Timestamp::default(),
            record: Arc::new(record),
        }
    }
}

/// What is done together: all of it or nothing.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// For the handler, in the order of their offsets in each partition.
    pub(crate) handled: Vec<Entry>,
    /// Not for the handler: this is written in their place.
    pub(crate) posted: Vec<(Entry, Outgoing)>,
}

impl Batch {
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.handled.iter().chain(self.posted.iter().map(|(entry, _)| entry))
    }

    /// Behind its records.
    pub(crate) fn positions(&self) -> Vec<Position> {
        let mut next: BTreeMap<&TopicPartition, i64> = BTreeMap::new();
        for entry in self.entries() {
            let behind = next.entry(&entry.at).or_default();
            *behind = (entry.offset + 1).max(*behind);
        }
        let position = |(partition, next): (&TopicPartition, i64)| Position {
            partition: partition.clone(),
            next,
        };
        next.into_iter().map(position).collect()
    }

    pub(crate) fn letters(&self) -> impl Iterator<Item = Outgoing> {
        self.posted.iter().map(|(_, letter)| letter.clone())
    }
}
