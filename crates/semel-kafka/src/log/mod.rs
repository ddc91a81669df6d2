//! What the door needs of a log: records in partitions, consumer groups, transactions.
//!
//! Two logs are here: `KafkaLog`, which is Apache Kafka through librdkafka, and
//! `TestLog`, which lives in the process and is deterministic. Both pass the same
//! conformance program (feature `conformance`).
//!
//! # Rules for every log
//!
//! 1. A consumer reads committed records only, in the order of their offsets, up to the last
//!    stable offset: an open transaction hides what comes after it.
//! 2. A partition has one owner in a group at a time. A change of owner is an [`Event`], and the
//!    old owner keeps a revoked partition until it says [`unassign`](LogConsumer::unassign).
//! 3. An offset is committed as the **next** one to read. Callers never count: they hand over
//!    [`Position`]s that this crate computed from records.
//! 4. A transaction with the positions of a member whose generation is over fails with
//!    [`LogErrorKind::Abortable`] and has no effect.
//! 5. [`Log::producer`] with a transactional id fences every earlier producer of that id and ends
//!    its open transaction before it returns.
//! 6. No call blocks the thread of an async task.

mod error;
mod record;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use semel::BoxFuture;

pub use self::error::{LogError, LogErrorKind};
pub use self::record::{Header, Outgoing, Record, TopicPartition};

/// A log with topics.
pub trait Log: fmt::Debug + Send + Sync {
    /// Joins a group. Fails with [`LogErrorKind::Invalid`] when a setting is refused.
    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn LogConsumer>, LogError>;

    /// Reads partitions without a group: what is read is up to the caller.
    fn reader(&self) -> Result<Box<dyn LogReader>, LogError>;

    /// Makes a producer. With a transactional id it is ready for transactions when this returns;
    /// see rule 5 in the [module's page](self).
    fn producer<'a>(
        &'a self,
        settings: &'a ProducerSettings,
    ) -> BoxFuture<'a, Result<Arc<dyn LogProducer>, LogError>>;

    /// How many partitions a topic has; none when there is no such topic.
    fn partitions<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<i32>, LogError>>;

    /// Where a partition begins and ends.
    fn bounds<'a>(
        &'a self,
        partition: &'a TopicPartition,
    ) -> BoxFuture<'a, Result<Bounds, LogError>>;

    /// The committed positions of a group, in the order of the partitions. Waits for transactions
    /// that are about to decide them.
    fn committed<'a>(
        &'a self,
        group: &'a str,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<Vec<Option<i64>>, LogError>>;

    /// Stands for a group without being a member of it. Positions sent with it are fenced by the
    /// transactional id alone; for groups that nobody joins.
    fn outsider(&self, group: &str) -> Result<Membership, LogError>;
}

/// How a consumer joins its group.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// The group.
    pub group: String,
    /// The topics.
    pub topics: Vec<String>,
    /// Where to begin in a partition without a committed position.
    pub begin: Begin,
    /// What the names of companion topics end with: whoever owns a partition of `orders` may also
    /// commit positions of the same partition of `orders` and this suffix. None without them.
    pub companion_suffix: Option<String>,
}

impl ConsumerSettings {
    /// A member of this group on these topics, from the first record on.
    pub fn new<T: Into<String>>(
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
    ) -> Self {
        let topics = topics.into_iter().map(Into::into).collect();
        Self { group: group.into(), topics, begin: Begin::Earliest, companion_suffix: None }
    }
}

/// Where to begin in a partition for which there is no position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// At its first record: nothing is skipped.
    #[default]
    Earliest,
    /// At its end: only what arrives from now on.
    Latest,
}

/// How a producer is made.
#[derive(Clone, Debug, Default)]
pub struct ProducerSettings {
    /// Under which id it writes transactions; none for a producer without them.
    pub transactional_id: Option<String>,
    /// How long a transaction may stay open before the log aborts it. Default: one minute.
    pub transaction_timeout: Option<Duration>,
}

/// The next offset to read in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset behind the last finished record.
    pub next: i64,
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that is kept.
    pub low: i64,
    /// The end of what a consumer can read: the last stable offset.
    pub stable: i64,
    /// The end of the log, with what open transactions have written.
    pub high: i64,
}

/// What happens to a consumer.
#[derive(Debug)]
pub enum Event {
    /// Partitions are given to it. Nothing of them is read before
    /// [`assign`](LogConsumer::assign) says from where.
    Assigned(Vec<TopicPartition>),
    /// Partitions are taken away; nobody else has them before
    /// [`unassign`](LogConsumer::unassign). Finish and commit first, soon: the group waits.
    Revoked(Vec<TopicPartition>),
    /// Partitions were taken away already, because the group had given this member up. Nothing of
    /// them may be committed. Say [`unassign`](LogConsumer::unassign) all the same.
    Lost(Vec<TopicPartition>),
    /// Records, in the order of their offsets in each partition; never empty.
    Records(Vec<Record>),
}

/// A member of a group. Dropping it leaves the group without committing anything.
pub trait LogConsumer: fmt::Debug + Send {
    /// Waits for what happens next. Dropping the future loses nothing.
    ///
    /// [`LogErrorKind::Unavailable`] means that it goes on trying and the next call may succeed.
    fn next(&mut self) -> BoxFuture<'_, Result<Event, LogError>>;

    /// Answers [`Event::Assigned`]: begins to read, where no position is given from the committed
    /// one or, without one, at [`ConsumerSettings::begin`].
    fn assign(
        &mut self,
        starts: Vec<(TopicPartition, Option<i64>)>,
    ) -> BoxFuture<'_, Result<(), LogError>>;

    /// Answers [`Event::Revoked`] and [`Event::Lost`]: lets the partitions go. No record of them
    /// is returned any more.
    fn unassign(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>>;

    /// Reads these partitions again from these positions. Records of them that were on their way
    /// are dropped.
    fn seek(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>>;

    /// Reads nothing more of these partitions until [`resume`](Self::resume). The membership
    /// lives on.
    fn pause(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>>;

    /// Ends [`pause`](Self::pause).
    fn resume(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>>;

    /// Commits positions for the group. Fails with [`LogErrorKind::Abortable`] when this member's
    /// generation is over.
    fn commit(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>>;

    /// The committed positions of these partitions, in their order.
    fn committed(
        &mut self,
        partitions: Vec<TopicPartition>,
    ) -> BoxFuture<'_, Result<Vec<Option<i64>>, LogError>>;

    /// Who this is in the group, for [`LogProducer::send_positions`].
    fn membership(&mut self) -> BoxFuture<'_, Result<Membership, LogError>>;

    /// Leaves the group in an orderly way; commits nothing.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), LogError>>;
}

/// What a [`LogReader`] has read.
#[derive(Debug)]
pub enum Read {
    /// Committed records, in the order of their offsets in each partition; never empty.
    Records(Vec<Record>),
    /// Everything of this partition that was readable when [`start`](LogReader::start) was called
    /// was returned. Said once after each start.
    End(TopicPartition),
}

/// Reads partitions that its caller names. Belongs to no group and commits nothing.
pub trait LogReader: fmt::Debug + Send {
    /// Waits for what was read. Dropping the future loses nothing.
    ///
    /// [`LogErrorKind::Unavailable`] means that it goes on trying and the next call may succeed.
    fn next(&mut self) -> BoxFuture<'_, Result<Read, LogError>>;

    /// Reads these partitions from these positions on, also if it reads them already. What was
    /// read of them and not returned is dropped. A position before the first record that is kept
    /// means that record.
    fn start(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>>;

    /// Reads these partitions no more. Nothing of them is returned after this.
    fn stop(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>>;
}

/// A member's full identity in its group, generation included: a group's id alone fences nobody
/// (KIP-447). Only the log that made it can read it.
#[derive(Clone)]
pub struct Membership(Arc<dyn Any + Send + Sync>);

impl Membership {
    /// Wraps what a log needs to know.
    #[must_use]
    pub fn new(inner: impl Any + Send + Sync) -> Self {
        Self(Arc::new(inner))
    }

    /// What the log put in, if it is of that type.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Membership")
    }
}

/// Where a record was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The partition.
    pub partition: TopicPartition,
    /// Its offset there.
    pub offset: i64,
}

/// Writes records.
///
/// With a transactional id: [`begin`](Self::begin), sends, [`commit`](Self::commit) or
/// [`abort`](Self::abort), one transaction at a time. After [`LogErrorKind::Fenced`] or
/// [`LogErrorKind::Indefinite`] every call fails with [`LogErrorKind::Fenced`]: make a new one.
pub trait LogProducer: fmt::Debug + Send + Sync {
    /// Begins a transaction.
    fn begin(&self) -> BoxFuture<'_, Result<(), LogError>>;

    /// Queues a record at once and returns its delivery, which **must be awaited**: a record that
    /// is not delivered is not written, and a commit before would wait or lose it. Records of one
    /// call after the other keep that order in a partition, without gaps and duplicates.
    fn send(&self, record: Outgoing) -> BoxFuture<'static, Result<Delivered, LogError>>;

    /// Adds the positions of a consumer to the transaction.
    fn send_positions<'a>(
        &'a self,
        positions: Vec<Position>,
        membership: &'a Membership,
    ) -> BoxFuture<'a, Result<(), LogError>>;

    /// Commits the transaction.
    fn commit(&self) -> BoxFuture<'_, Result<(), LogError>>;

    /// Aborts the transaction; succeeds when there is none.
    fn abort(&self) -> BoxFuture<'_, Result<(), LogError>>;
}
