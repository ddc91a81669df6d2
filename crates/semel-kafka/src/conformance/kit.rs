//! What the cases share: calls with a deadline, a consumer that answers its events, and checks
//! that answer with a sentence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select, select_all};
use semel::{BoxFuture, Clock, SystemClock};

use super::Harness;
use crate::log::{
    Begin, Bounds, ConsumerSettings, Delivered, Event, Log, LogConsumer, LogError, LogErrorKind,
    LogProducer, Outgoing, Position, ProducerSettings, Record, TopicPartition,
};

pub(super) type Checked<T = ()> = Result<T, String>;

pub(super) struct Kit<'a> {
    pub(super) harness: &'a dyn Harness,
}

impl<'a> Kit<'a> {
    pub(super) fn new(harness: &'a dyn Harness) -> Self {
        Self { harness }
    }

    pub(super) fn log(&self) -> Arc<dyn Log> {
        self.harness.log()
    }

    pub(super) async fn topic(&self, partitions: i32) -> Checked<String> {
        self.done("creating a topic", self.harness.create_topic(partitions)).await
    }

    /// What a call answers, if it does in time.
    pub(super) async fn answer<T>(&self, what: &str, call: impl Future<Output = T>) -> Checked<T> {
        let patience = self.harness.patience();
        match select(pin!(call), SystemClock.sleep(patience)).await {
            Either::Left((answer, _)) => Ok(answer),
            Either::Right(_) => Err(format!("{what}: no answer within {patience:?}")),
        }
    }

    pub(super) async fn done<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, LogError>>,
    ) -> Checked<T> {
        let answer = self.answer(what, call).await?;
        answer.map_err(|error| format!("{what} failed: {error} ({:?})", error.kind()))
    }

    pub(super) async fn refused<T: Debug>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, LogError>>,
        kind: LogErrorKind,
    ) -> Checked {
        match self.answer(what, call).await? {
            Err(error) if error.kind() == kind => Ok(()),
            other => Err(format!("{what}: expected {kind:?}, saw {other:?}")),
        }
    }

    pub(super) async fn producer(&self, id: Option<&str>) -> Checked<Arc<dyn LogProducer>> {
        let transactional_id = id.map(ToOwned::to_owned);
        let settings = ProducerSettings { transactional_id, ..ProducerSettings::default() };
        self.done("making a producer", self.log().producer(&settings)).await
    }

    /// Sends values to a partition one after the other, each once the one before is delivered.
    pub(super) async fn send(
        &self,
        producer: &Arc<dyn LogProducer>,
        partition: &TopicPartition,
        values: &[&str],
    ) -> Checked<Vec<Delivered>> {
        let mut delivered = Vec::new();
        for value in values {
            let mut record = Outgoing::to(Arc::clone(&partition.topic)).value(value.to_string());
            record.partition = Some(partition.partition);
            delivered.push(self.done("a send", producer.send(record)).await?);
        }
        Ok(delivered)
    }

    /// Writes values to a partition without a transaction.
    pub(super) async fn write(&self, partition: &TopicPartition, values: &[&str]) -> Checked {
        let producer = self.producer(None).await?;
        self.send(&producer, partition, values).await.map(|_| ())
    }

    /// Joins the group that is named after the topic.
    pub(super) fn member(&self, topic: &str, begin: Begin) -> Checked<Member> {
        let settings = ConsumerSettings { begin, ..ConsumerSettings::new(group(topic), [topic]) };
        let consumer = self.log().consumer(&settings);
        let consumer = consumer.map_err(|error| format!("joining a group failed: {error}"))?;
        Ok(Member::new(consumer))
    }

    /// Lets members answer their events until something holds.
    pub(super) async fn until(
        &self,
        what: &str,
        members: &mut [&mut Member],
        mut holds: impl FnMut(&[&mut Member]) -> bool,
    ) -> Checked {
        let mut end = SystemClock.sleep(self.harness.patience());
        while !holds(members) {
            if !event(members, &mut end).await? {
                let seen = members.iter().map(|member| member.seen());
                let seen = seen.collect::<Vec<_>>().join("; ");
                return Err(format!("{what} did not come to pass; the members: {seen}"));
            }
        }
        Ok(())
    }

    /// Lets members answer their events for as long as it takes to see that nothing comes.
    pub(super) async fn calm(&self, members: &mut [&mut Member]) -> Checked {
        let mut end = SystemClock.sleep(self.harness.calm());
        while event(members, &mut end).await? {}
        Ok(())
    }

    /// Reads until so many values were read, and then watches that no more come.
    pub(super) async fn read(&self, member: &mut Member, expected: &[&str]) -> Checked {
        let what = format!("reading {expected:?}");
        self.until(&what, &mut [&mut *member], |members| {
            members.iter().all(|member| member.records.len() >= expected.len())
        })
        .await?;
        self.calm(&mut [&mut *member]).await?;
        same("the values read", member.values(), strings(expected))
    }

    /// The group's committed positions; asks again while the log is not ready.
    pub(super) async fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Checked<Vec<Option<i64>>> {
        let log = self.log();
        let asked = async {
            loop {
                match log.committed(group, partitions).await {
                    Err(error) if error.kind() == LogErrorKind::Unavailable => self.pause().await,
                    other => return other,
                }
            }
        };
        self.done("asking for the committed positions", asked).await
    }

    pub(super) async fn bounds(&self, partition: &TopicPartition) -> Checked<Bounds> {
        self.done("asking for the bounds", self.log().bounds(partition)).await
    }

    /// Waits until nothing in a partition is hidden by an open transaction.
    pub(super) async fn stable(&self, partition: &TopicPartition) -> Checked<Bounds> {
        let asked = async {
            loop {
                let bounds = self.bounds(partition).await?;
                if bounds.stable == bounds.high {
                    return Ok(bounds);
                }
                self.pause().await;
            }
        };
        self.answer("waiting for the end of all transactions", asked).await?
    }

    /// Between two looks at a log that tells nobody when it changes.
    async fn pause(&self) {
        SystemClock.sleep(self.harness.calm() / 10).await;
    }
}

/// Handles the first event that comes; `false` when the time is over.
async fn event(members: &mut [&mut Member], end: &mut BoxFuture<'static, ()>) -> Checked<bool> {
    if members.is_empty() {
        end.await;
        return Ok(false);
    }
    let next = select_all(members.iter_mut().map(|member| member.consumer.next()));
    // The end is asked first, so that errors without end do not keep it away.
    let (event, at) = match select(end, next).await {
        Either::Left(_) => return Ok(false),
        Either::Right(((event, at, _), _)) => (event, at),
    };
    if let Some(member) = members.get_mut(at) {
        member.take(event).await?;
    }
    Ok(true)
}

/// A consumer that answers its events and remembers what it read.
pub(super) struct Member {
    pub(super) consumer: Box<dyn LogConsumer>,
    /// Where to begin, in place of the committed position.
    pub(super) starts: BTreeMap<TopicPartition, i64>,
    /// Does not let revoked partitions go.
    pub(super) clings: bool,
    pub(super) owned: BTreeSet<TopicPartition>,
    pub(super) revoked: BTreeSet<TopicPartition>,
    pub(super) records: Vec<Record>,
}

impl Member {
    fn new(consumer: Box<dyn LogConsumer>) -> Self {
        Self {
            consumer,
            starts: BTreeMap::new(),
            clings: false,
            owned: BTreeSet::new(),
            revoked: BTreeSet::new(),
            records: Vec::new(),
        }
    }

    async fn take(&mut self, event: Result<Event, LogError>) -> Checked {
        match event {
            Err(error) if error.kind() == LogErrorKind::Unavailable => Ok(()),
            Err(error) => Err(format!("next failed: {error} ({:?})", error.kind())),
            Ok(Event::Assigned(partitions)) => {
                check(!partitions.is_empty(), "an assignment is empty")?;
                let start = |it: TopicPartition| (it.clone(), self.starts.get(&it).copied());
                let starts = partitions.iter().cloned().map(start).collect();
                self.owned.extend(partitions);
                said("assign", self.consumer.assign(starts).await)
            }
            Ok(Event::Revoked(partitions)) if self.clings => {
                self.revoked.extend(partitions);
                Ok(())
            }
            Ok(Event::Revoked(partitions) | Event::Lost(partitions)) => {
                self.let_go(partitions).await
            }
            Ok(Event::Records(records)) => {
                check(!records.is_empty(), "an event with records has none")?;
                for record in &records {
                    let what = format!("a record of {} came unasked", record.partition);
                    check(self.owned.contains(&record.partition), &what)?;
                }
                self.records.extend(records);
                Ok(())
            }
        }
    }

    pub(super) async fn let_go(&mut self, partitions: Vec<TopicPartition>) -> Checked {
        for partition in &partitions {
            self.owned.remove(partition);
            self.revoked.remove(partition);
        }
        said("unassign", self.consumer.unassign(partitions).await)
    }

    /// The values it has read, in the order in which they came.
    pub(super) fn values(&self) -> Vec<String> {
        self.records.iter().map(value_of).collect()
    }

    /// Behind what it has read.
    pub(super) fn positions(&self) -> Vec<Position> {
        let read = self.records.iter();
        let next: BTreeMap<_, _> =
            read.map(|record| (record.partition.clone(), record.offset + 1)).collect();
        next.into_iter().map(|(partition, next)| Position { partition, next }).collect()
    }

    fn seen(&self) -> String {
        let names = |set: &BTreeSet<TopicPartition>| {
            set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let (owned, revoked) = (names(&self.owned), names(&self.revoked));
        format!("owns [{owned}], revoked [{revoked}], has read {:?}", self.values())
    }
}

pub(super) fn group(topic: &str) -> String {
    format!("{topic}-group")
}

pub(super) fn partition(topic: &str, number: i32) -> TopicPartition {
    TopicPartition::new(topic, number)
}

pub(super) fn position(partition: &TopicPartition, next: i64) -> Position {
    Position { partition: partition.clone(), next }
}

pub(super) fn value_of(record: &Record) -> String {
    let value = record.value.as_deref().unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

pub(super) fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(super) fn check(holds: bool, what: &str) -> Checked {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

#[expect(clippy::needless_pass_by_value, reason = "reads better at the call")]
pub(super) fn same<T: PartialEq + Debug>(what: &str, seen: T, expected: T) -> Checked {
    if seen == expected {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:?}, saw {seen:?}"))
}

pub(super) fn said<T>(what: &str, answer: Result<T, LogError>) -> Checked<T> {
    answer.map_err(|error| format!("{what} failed: {error} ({:?})", error.kind()))
}
