//! The numbers and names of a consumer.

use std::sync::Arc;
use std::time::Duration;

use semel::{Clock, Error, ErrorKind, SystemClock};

use crate::log::{Begin, ConsumerSettings};
use crate::rejected::Poison;

/// What must be handled in the order of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Records of one key in one partition; keys run side by side, records without a key as well.
    #[default]
    Key,
    /// All records of a partition.
    Partition,
}

/// The settings that all classes of consumers share. Every bound has a default and a reason.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    pub(crate) group: String,
    pub(crate) topics: Vec<String>,
    pub(crate) poison: Poison,
    pub(crate) begin: Begin,
    pub(crate) order: Order,
    pub(crate) batch_max: usize,
    pub(crate) buffer_max: usize,
    pub(crate) ahead_max: usize,
    pub(crate) concurrency: usize,
    pub(crate) commit_every: Duration,
    pub(crate) drain_max: Duration,
    pub(crate) clock: Arc<dyn Clock>,
}

impl ConsumerOptions {
    /// A member of this group on these topics. What becomes of a record that cannot be handled is
    /// a choice that nothing makes for you.
    pub fn new<T: Into<String>>(
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
        poison: Poison,
    ) -> Self {
        Self {
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            poison,
            begin: Begin::Earliest,
            order: Order::Key,
            batch_max: 500,
            buffer_max: 5_000,
            ahead_max: 10_000,
            concurrency: 100,
            commit_every: Duration::from_secs(1),
            drain_max: Duration::from_secs(30),
            clock: Arc::new(SystemClock),
        }
    }

    /// Where to begin in a partition without a position. Default: at its first record.
    #[must_use]
    pub fn begin(mut self, begin: Begin) -> Self {
        self.begin = begin;
        self
    }

    /// What must be handled in the order of the log, where the class can run records side by side.
    /// Default: records of one key.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// The most records in one transaction. Default: 500. A larger one is faster and makes others
    /// wait longer for its end; when one record of it fails, the others are done again.
    #[must_use]
    pub fn batch_max(mut self, batch_max: usize) -> Self {
        self.batch_max = batch_max;
        self
    }

    /// The most records that wait in this consumer; more are left in the log. Default: 5,000.
    #[must_use]
    pub fn buffer_max(mut self, buffer_max: usize) -> Self {
        self.buffer_max = buffer_max;
        self
    }

    /// How far a partition may run ahead of its oldest unfinished record, in records, where keys
    /// run side by side. Default: 10,000. At the bound the partition waits for that record.
    #[must_use]
    pub fn ahead_max(mut self, ahead_max: usize) -> Self {
        self.ahead_max = ahead_max;
        self
    }

    /// How many handlers run at once, where keys run side by side. Default: 100.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// How often positions are committed to the group, where that is not a part of every
    /// transaction. Default: every second. After a crash so much is read again and recognised.
    #[must_use]
    pub fn commit_every(mut self, commit_every: Duration) -> Self {
        self.commit_every = commit_every;
        self
    }

    /// How long a partition that is taken away, or a stop, may wait for handlers that run.
    /// Default: 30 s. Then it goes without them; what they do is fenced or recognised.
    #[must_use]
    pub fn drain_max(mut self, drain_max: Duration) -> Self {
        self.drain_max = drain_max;
        self
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.poison.check()?;
        let names = [("a group", &*self.group)].into_iter();
        let names = names.chain(self.topics.iter().map(|topic| ("a topic", &**topic)));
        let suffix = self.poison.retry_topics.as_ref().map_or("", |it| &it.suffix);
        for (what, name) in names {
            let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if name.is_empty() || name.len() + suffix.len() > 249 || !name.bytes().all(is_fine) {
                let name = name.escape_debug();
                let max = 249_usize.saturating_sub(suffix.len());
                let message = format!(
                    "{what} named `{name}` is refused; take 1 to {max} of a-z A-Z 0-9 . _ -"
                );
                return Err(Error::new(ErrorKind::Settings, message));
            }
        }
        if self.topics.is_empty() {
            return Err(Error::new(ErrorKind::Settings, "the consumer has no topic to read"));
        }
        let bounds = [
            ("batch_max", self.batch_max),
            ("buffer_max", self.buffer_max),
            ("ahead_max", self.ahead_max),
            ("concurrency", self.concurrency),
        ];
        for (name, bound) in bounds {
            if bound == 0 || bound > 1_000_000 {
                let message = format!("{name} is {bound}; take 1 to 1000000");
                return Err(Error::new(ErrorKind::Settings, message));
            }
        }
        if let Some(retry) = &self.poison.retry_topics {
            if self.order == Order::Partition {
                let message = "retry topics keep the order of each key, not that of a partition; \
                               choose Order::Key or do without them";
                return Err(Error::new(ErrorKind::Settings, message));
            }
            if let Some(topic) = self.topics.iter().find(|it| it.ends_with(&retry.suffix)) {
                let message = format!(
                    "`{topic}` ends with the suffix of retry topics, `{}`; a retry topic is read \
                     by its consumer without being named",
                    retry.suffix
                );
                return Err(Error::new(ErrorKind::Settings, message));
            }
        }
        if self.buffer_max < self.batch_max {
            let message = "buffer_max is smaller than batch_max, so no batch would ever be full";
            return Err(Error::new(ErrorKind::Settings, message));
        }
        Ok(())
    }

    pub(crate) fn member(&self) -> ConsumerSettings {
        let Self { group, topics, begin, .. } = self.clone();
        let companion_suffix = self.poison.retry_topics.as_ref().map(|it| it.suffix.clone());
        ConsumerSettings { group, topics, begin, companion_suffix }
    }
}
