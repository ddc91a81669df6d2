//! A consumer of the test log.

use std::collections::BTreeMap;
use std::sync::Arc;

use semel::{BoxFuture, Timestamp};

use super::Member;
use super::faults::Op;
use super::producer::invalid;
use super::state::{Shared, State};
use crate::log::{
    Begin, ConsumerSettings, Event, LogConsumer, LogError, LogErrorKind, Membership, Position,
    Record, TopicPartition,
};

#[derive(Debug)]
pub(super) struct Consumer {
    shared: Arc<Shared>,
    group: Arc<str>,
    id: u64,
    begin: Begin,
    reading: Reading,
}

/// What the client side of a consumer knows.
#[derive(Debug, Default)]
struct Reading {
    partitions: BTreeMap<TopicPartition, Place>,
    /// Served first next time, so that a full partition does not starve the others.
    turn: Option<TopicPartition>,
    /// An outage is reported once.
    knows_it_is_down: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    next: i64,
    paused: bool,
}

impl Consumer {
    pub(super) fn new(shared: &Arc<Shared>, settings: &ConsumerSettings) -> Result<Self, LogError> {
        if settings.group.is_empty() || settings.topics.is_empty() {
            return Err(invalid("a consumer needs a group and topics; name them"));
        }
        let group: Arc<str> = settings.group.as_str().into();
        let topics = settings.topics.iter().map(|name| name.as_str().into()).collect();
        let id = shared.with(|state, now| {
            let id = state.number();
            state.change(&group, |group, all| group.join(id, topics, all, now));
            id
        });
        let (shared, begin) = (Arc::clone(shared), settings.begin);
        Ok(Self { shared, group, id, begin, reading: Reading::default() })
    }

    fn member(&self) -> Member {
        let (group, id) = (Arc::clone(&self.group), self.id);
        self.shared.with(|state, _| {
            let generation = state.groups.get(&group).map_or(0, |group| group.generation_of(id));
            Member { group, identity: Some((id, generation)) }
        })
    }

    async fn assign_now(
        &mut self,
        starts: Vec<(TopicPartition, Option<i64>)>,
    ) -> Result<(), LogError> {
        let without = starts.iter().filter(|(_, start)| start.is_none());
        let without: Vec<_> = without.map(|(partition, _)| partition.clone()).collect();
        let committed = self.shared.committed(&self.group, &without).await?;
        let committed: BTreeMap<_, _> = without.into_iter().zip(committed).collect();
        let begin = self.begin;
        let places = self.shared.with(|state, _| {
            let places = starts.into_iter().map(|(partition, start)| {
                let bounds = state.bounds(&partition)?;
                let start = start.or_else(|| committed.get(&partition).copied().flatten());
                let begin = match begin {
                    Begin::Earliest => bounds.low,
                    Begin::Latest => bounds.stable,
                };
                let next = start.filter(|at| (bounds.low..=bounds.high).contains(at));
                Ok((partition, Place { next: next.unwrap_or(begin), paused: false }))
            });
            places.collect::<Result<Vec<_>, LogError>>()
        })?;
        self.reading.partitions.extend(places);
        Ok(())
    }

    fn seek_now(&mut self, positions: Vec<Position>) -> Result<(), LogError> {
        self.shared.with(|state, _| state.check_positions(&positions))?;
        for Position { partition, .. } in &positions {
            if !self.reading.partitions.contains_key(partition) {
                let message = format!("partition {partition} is not assigned; assign it first");
                return Err(invalid(message));
            }
        }
        for Position { partition, next } in positions {
            if let Some(place) = self.reading.partitions.get_mut(&partition) {
                place.next = next;
            }
        }
        Ok(())
    }

    fn set_paused(&mut self, partitions: &[TopicPartition], paused: bool) {
        for partition in partitions {
            if let Some(place) = self.reading.partitions.get_mut(partition) {
                place.paused = paused;
            }
        }
    }

    fn commit_now(&self, positions: Vec<Position>) -> Result<(), LogError> {
        let member = self.member();
        self.shared.with(|state, _| {
            state.reachable()?;
            state.faults.check(Op::ConsumerCommit)?;
            member.check(state)?;
            state.check_positions(&positions)?;
            let group = state.groups.entry(member.group).or_default();
            for Position { partition, next } in positions {
                group.committed.insert(partition, next);
            }
            Ok(())
        })
    }
}

impl Reading {
    fn step(
        &mut self,
        (group, id): (&Arc<str>, u64),
        state: &mut State,
        now: Timestamp,
    ) -> Option<Result<Event, LogError>> {
        if let Err(error) = state.reachable() {
            let is_known = std::mem::replace(&mut self.knows_it_is_down, true);
            return (!is_known).then_some(Err(error));
        }
        self.knows_it_is_down = false;
        if let Err(error) = state.faults.check(Op::Next) {
            return Some(Err(error));
        }
        let event = state.change(group, |group, topics| group.poll(id, topics, now));
        if let Some(event) = event {
            return Some(Ok(event));
        }
        let records = self.records((group, id), state);
        (!records.is_empty()).then_some(Ok(Event::Records(records)))
    }

    fn records(&mut self, (group, id): (&Arc<str>, u64), state: &State) -> Vec<Record> {
        let Some(group) = state.groups.get(group) else { return Vec::new() };
        let mut order: Vec<TopicPartition> = self.partitions.keys().cloned().collect();
        let first = order.iter().position(|it| Some(it) >= self.turn.as_ref()).unwrap_or(0);
        order.rotate_left(first);
        let (mut records, mut left) = (Vec::new(), state.limits.batch_max);
        for partition in order {
            let Some(place) = self.partitions.get_mut(&partition) else { continue };
            let topic = state.topics.get(&partition.topic);
            let log = topic.and_then(|topic| topic.partition(partition.partition));
            let (Some(log), false) = (log, place.paused || group.is_leaving(id, &partition)) else {
                continue;
            };
            if left == 0 {
                self.turn = Some(partition);
                return records;
            }
            let (read, next) = log.read(place.next, left);
            place.next = next;
            left -= read.len();
            records.extend(read);
        }
        self.turn = None;
        records
    }
}

impl LogConsumer for Consumer {
    fn next(&mut self) -> BoxFuture<'_, Result<Event, LogError>> {
        let Self { shared, group, id, reading, .. } = self;
        let waiting = Waiting { shared, group, id: *id };
        Box::pin(async move {
            let waiting = waiting;
            let client = (waiting.group, waiting.id);
            waiting.shared.wait(|state, now| reading.step(client, state, now)).await
        })
    }

    fn assign(
        &mut self,
        starts: Vec<(TopicPartition, Option<i64>)>,
    ) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(self.assign_now(starts))
    }

    fn unassign(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>> {
        self.reading.partitions.retain(|partition, _| !partitions.contains(partition));
        self.shared.with(|state, now| {
            state.change(&self.group, |group, _| group.let_go(self.id, &partitions, now));
        });
        Box::pin(async { Ok(()) })
    }

    fn seek(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>> {
        let answer = self.seek_now(positions);
        Box::pin(async { answer })
    }

    fn pause(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>> {
        self.set_paused(&partitions, true);
        Box::pin(async { Ok(()) })
    }

    fn resume(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>> {
        self.set_paused(&partitions, false);
        Box::pin(async { Ok(()) })
    }

    fn commit(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async { self.commit_now(positions) })
    }

    fn committed(
        &mut self,
        partitions: Vec<TopicPartition>,
    ) -> BoxFuture<'_, Result<Vec<Option<i64>>, LogError>> {
        Box::pin(async move { self.shared.committed(&self.group, &partitions).await })
    }

    fn membership(&mut self) -> BoxFuture<'_, Result<Membership, LogError>> {
        let member = self.member();
        Box::pin(async { Ok(Membership::new(member)) })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), LogError>> {
        Box::pin(async {
            drop(self);
            Ok(())
        })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.with(|state, now| {
            state.change(&self.group, |group, topics| group.leave(self.id, topics, now));
        });
    }
}

/// A consumer is alive as long as it waits for what happens next.
struct Waiting<'a> {
    shared: &'a Shared,
    group: &'a Arc<str>,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.with(|state, now| {
            state.change(self.group, |group, _| group.left_next(self.id, now));
        });
    }
}

impl Member {
    /// Whether positions may be committed in this member's name.
    pub(super) fn check(&self, state: &State) -> Result<(), LogError> {
        let Some((id, generation)) = self.identity else { return Ok(()) };
        let group = state.groups.get(&self.group);
        if group.is_some_and(|group| group.is_current(id, generation)) {
            return Ok(());
        }
        let group = &self.group;
        let message = format!(
            "generation {generation} of the group {group} is over; abort and read again from the \
             committed positions"
        );
        Err(LogError::new(LogErrorKind::Abortable, message))
    }
}
