//! Records and their places.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use semel::Timestamp;

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// A partition of a topic.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

/// `topic-partition`, as Kafka's own tools write it.
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A named value beside a record. A name may be there several times; the order is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: Arc<str>,
    /// The value; Kafka allows none.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with a value.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self { name: name.into(), value: Some(value.into()) }
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it lies.
    pub partition: TopicPartition,
    /// Its place in the partition.
    pub offset: i64,
    /// The key; records of one key are in one partition and keep their order.
    pub key: Option<Bytes>,
    /// The payload; none is a tombstone.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Vec<Header>,
    /// When it was made or appended, as the topic is set up.
    pub timestamp: Option<Timestamp>,
}

impl Record {
    /// The value of the last header of that name, as Kafka's clients read it.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        let last = self.headers.iter().rev().find(|header| &*header.name == name);
        last.and_then(|header| header.value.as_ref())
    }
}

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub topic: Arc<str>,
    /// The partition; none leaves it to the key, or to chance where there is no key.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Bytes>,
    /// The payload.
    pub value: Option<Bytes>,
    /// The headers.
    pub headers: Vec<Header>,
    /// When it was made; none is now.
    pub timestamp: Option<Timestamp>,
}

impl Outgoing {
    /// An empty record for a topic.
    #[must_use]
    pub fn to(topic: impl Into<Arc<str>>) -> Self {
        let topic = topic.into();
        Self {
            topic,
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp: None,
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header::new(name, value));
        self
    }
}
