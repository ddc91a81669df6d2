//! A log in the memory of this process: deterministic, with the true semantics of Kafka.
//!
//! It is for tests of what reads and writes a [log](crate::log), and passes the same conformance
//! program as Apache Kafka does. With a [`ManualClock`](semel::ManualClock) nothing in it depends
//! on time or chance: the same calls in the same order give the same answers.
//!
//! 1. Ends of transactions take an offset, so offsets have gaps, as in Kafka. Keys choose their
//!    partition by the hash of Kafka's own clients.
//! 2. A transaction that is open for too long is aborted, and its producer is fenced.
//! 3. A failed send, or positions that were refused, spoil their transaction: it can only be
//!    aborted.
//! 4. A group begins a new generation whenever a member comes or goes and whenever a partition is
//!    let go. A [`Membership`] is good for the generation in which it was taken. Nobody checks
//!    that the member owns the partitions: Kafka does not either.
//! 5. A member that has not asked for what is [next](crate::log::LogConsumer::next) for
//!    [`TestLog::with_poll_interval_max`], or has not let a revoked partition go for so long, is
//!    given up. It joins again once it has let go of everything it lost.
//! 6. Nothing moves by itself: time-outs take effect with the next call or while somebody waits.
//!
//! ```
//! # fn block_on<F: Future>(future: F) -> F::Output {
//! #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
//! #     let mut future = std::pin::pin!(future);
//! #     loop {
//! #         if let std::task::Poll::Ready(it) = future.as_mut().poll(&mut context) { return it }
//! #     }
//! # }
//! use semel_kafka::log::{Log, LogErrorKind, Outgoing, ProducerSettings};
//! use semel_kafka::{Op, TestLog};
//!
//! # block_on(async {
//! let log = TestLog::new();
//! log.create_topic("orders", 3);
//! let transactional_id = Some("shop".to_owned());
//! let settings = ProducerSettings { transactional_id, ..ProducerSettings::default() };
//! let producer = log.producer(&settings).await?;
//! producer.begin().await?;
//! producer.send(Outgoing::to("orders").key("42").value("paid")).await?;
//! assert!(log.topic_records("orders").is_empty(), "nobody sees it before the commit");
//!
//! log.fail_next(Op::Commit, LogErrorKind::Unavailable);
//! let refused = producer.commit().await.err();
//! assert_eq!(refused.map(|it| it.kind()), Some(LogErrorKind::Unavailable));
//! producer.commit().await?;
//! assert_eq!(log.topic_records("orders").len(), 1);
//! # Ok::<(), semel_kafka::log::LogError>(())
//! # }).unwrap();
//! ```

mod consumer;
mod faults;
mod groups;
mod producer;
mod reader;
mod state;
mod topics;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use semel::{BoxFuture, Clock, SystemClock};

pub use self::faults::Op;

use self::consumer::Consumer;
use self::faults::Fault;
use self::producer::Producer;
use self::reader::Reader;
use self::state::{Limits, Shared};
use self::topics::{Partition, Topic};
use crate::log::{
    Bounds, ConsumerSettings, Delivered, Log, LogConsumer, LogError, LogErrorKind, LogProducer,
    LogReader, Membership, Outgoing, ProducerSettings, Record, TopicPartition,
};

/// A [log](crate::log) in the memory of this process, for tests. Clones are the same log.
#[derive(Clone)]
pub struct TestLog {
    shared: Arc<Shared>,
}

/// Who sends positions: a member in a generation, or somebody who stands for the whole group.
#[derive(Clone, Debug)]
struct Member {
    group: Arc<str>,
    identity: Option<(u64, u64)>,
}

impl TestLog {
    /// An empty log on the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// An empty log on a clock of your own.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { shared: Arc::new(Shared::new(clock)) }
    }

    /// Sets how long a member may be silent before its group gives it up, and how long it may keep
    /// a revoked partition. Default: five minutes, like Kafka's `max.poll.interval.ms`.
    #[must_use]
    pub fn with_poll_interval_max(self, poll_interval_max: Duration) -> Self {
        self.limit(|limits| limits.poll_interval_max = poll_interval_max)
    }

    /// Sets how many bytes key, payload and headers of a record may have. Default: 1 MiB.
    #[must_use]
    pub fn with_record_bytes_max(self, record_bytes_max: usize) -> Self {
        self.limit(|limits| limits.record_bytes_max = record_bytes_max)
    }

    /// Sets how many records a consumer gets at once, at least one. Default: 500.
    #[must_use]
    pub fn with_batch_max(self, batch_max: usize) -> Self {
        self.limit(|limits| limits.batch_max = batch_max.max(1))
    }

    fn limit(self, set: impl FnOnce(&mut Limits)) -> Self {
        self.shared.with(|state, _| set(&mut state.limits));
        self
    }

    /// Creates a topic with at least one partition. One that is there already stays as it is.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.shared.with(|state, now| {
            let topic = || Topic::new(partitions.max(1));
            state.topics.entry(name.into()).or_insert_with(topic);
            for group in state.groups.values_mut().filter(|group| group.reads(name)) {
                group.rebalance(&state.topics, now);
            }
            state.touch();
        });
    }

    /// Writes a record without a transaction: it is committed at once.
    pub fn append(&self, record: Outgoing) -> Result<Delivered, LogError> {
        self.shared.with(|state, now| producer::append(state, record, now, None))
    }

    /// The committed records of a topic, also those that an open transaction hides, by partition
    /// and offset.
    #[must_use]
    pub fn topic_records(&self, topic: &str) -> Vec<Record> {
        self.shared.with(|state, _| {
            let topic = state.topics.get(topic).into_iter();
            let records = topic.flat_map(|topic| &topic.partitions).flat_map(Partition::committed);
            records.cloned().collect()
        })
    }

    /// The transactional ids with an open transaction.
    #[must_use]
    pub fn open_transactions(&self) -> Vec<String> {
        self.shared.with(|state, _| state.open_ids().iter().map(ToString::to_string).collect())
    }

    /// The members of a group, in the order in which they came.
    #[must_use]
    pub fn members(&self, group: &str) -> Vec<u64> {
        self.shared.with(|state, _| {
            state.groups.get(group).map(|group| group.members().collect()).unwrap_or_default()
        })
    }

    /// Makes the next call of `op`, whoever makes it, fail and have no effect.
    ///
    /// With [`LogErrorKind::Fenced`] another producer has taken the id over: the open transaction
    /// is aborted. With [`LogErrorKind::Indefinite`] the producer is of no use any more and its
    /// transaction stays open until the next producer of the id, or the time-out, aborts it.
    pub fn fail_next(&self, op: Op, kind: LogErrorKind) {
        self.shared.with(|state, _| {
            state.faults.add(op, Fault::Fails(kind));
            state.touch();
        });
    }

    /// Makes the next commit of a transaction [`Indefinite`](LogErrorKind::Indefinite). Either it
    /// took effect, or it did not and the transaction stays open as after
    /// [`fail_next`](Self::fail_next).
    pub fn lose_next_commit(&self, took_effect: bool) {
        let lost = Fault::Fails(LogErrorKind::Indefinite);
        let fault = if took_effect { Fault::AnswerLost } else { lost };
        self.shared.with(|state, _| state.faults.add(Op::Commit, fault));
    }

    /// Makes a group give a [member](Self::members) up, as if it had been silent for too long.
    /// Nothing happens when there is no such member.
    pub fn expel(&self, group: &str, member: u64) {
        self.shared.with(|state, now| {
            state.change(&group.into(), |group, topics| group.give_up(member, topics, now));
        });
    }

    /// Makes a group begin a new generation in which everybody keeps what he has.
    pub fn rebalance(&self, group: &str) {
        self.shared.with(|state, now| {
            state.change(&group.into(), |group, topics| group.rebalance(topics, now));
        });
    }

    /// Makes a group begin a new generation in which every partition belongs to the next member.
    pub fn rotate(&self, group: &str) {
        self.shared.with(|state, now| state.change(&group.into(), |group, _| group.rotate(now)));
    }

    /// Takes the log away and brings it back. While it is down everything that needs it is
    /// [`Unavailable`](LogErrorKind::Unavailable); a consumer hears it once and then waits.
    /// Transactions time out as ever; members get their whole time again when it comes back.
    pub fn set_down(&self, down: bool) {
        self.shared.with(|state, now| {
            state.down = down;
            for group in state.groups.values_mut() {
                group.forgive(now);
            }
            state.touch();
        });
    }
}

impl Default for TestLog {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestLog").finish_non_exhaustive()
    }
}

impl Log for TestLog {
    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn LogConsumer>, LogError> {
        Ok(Box::new(Consumer::new(&self.shared, settings)?))
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(Reader::new(&self.shared)))
    }

    fn producer<'a>(
        &'a self,
        settings: &'a ProducerSettings,
    ) -> BoxFuture<'a, Result<Arc<dyn LogProducer>, LogError>> {
        Box::pin(async {
            let producer: Arc<dyn LogProducer> = Arc::new(Producer::new(&self.shared, settings)?);
            Ok(producer)
        })
    }

    fn partitions<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<i32>, LogError>> {
        Box::pin(async move {
            self.shared.with(|state, _| {
                state.reachable()?;
                Ok(state.topics.get(topic).map(Topic::count))
            })
        })
    }

    fn bounds<'a>(
        &'a self,
        partition: &'a TopicPartition,
    ) -> BoxFuture<'a, Result<Bounds, LogError>> {
        Box::pin(async move {
            self.shared.with(|state, _| {
                state.reachable()?;
                state.bounds(partition)
            })
        })
    }

    fn committed<'a>(
        &'a self,
        group: &'a str,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<Vec<Option<i64>>, LogError>> {
        Box::pin(self.shared.committed(group, partitions))
    }

    fn outsider(&self, group: &str) -> Result<Membership, LogError> {
        Ok(Membership::new(Member { group: group.into(), identity: None }))
    }
}
