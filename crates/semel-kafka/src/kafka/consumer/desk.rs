//! Where the consumer's thread and its async side meet.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::ConsumerGroupMetadata;
use tokio::sync::{Notify, oneshot};

use super::super::convert;
use crate::log::{Event, LogError, LogErrorKind, Membership, Position, Record, TopicPartition};

pub(super) type Reply<T> = oneshot::Sender<Result<T, LogError>>;

/// What the async side asks of the thread.
pub(super) enum Command {
    Assign(Vec<(TopicPartition, Option<i64>)>, Reply<()>),
    Unassign(Vec<TopicPartition>, Reply<()>),
    Seek(Vec<Position>, Reply<()>),
    Pause(Vec<TopicPartition>, Reply<()>),
    Resume(Vec<TopicPartition>, Reply<()>),
    Commit(Vec<Position>, Reply<()>),
    Committed(Vec<TopicPartition>, Reply<Vec<Option<i64>>>),
    Membership(Reply<Membership>),
}

/// The desk. The lock is never held while librdkafka is called: it calls back.
pub(in super::super) struct Desk {
    state: Mutex<State>,
    /// Wakes the thread.
    bell: Condvar,
    /// Wakes the async side.
    news: Notify,
    queued_max: usize,
    queued_bytes_max: usize,
    companion_suffix: Option<String>,
}

#[derive(Default)]
pub(super) struct State {
    commands: VecDeque<Command>,
    is_rung: bool,
    pub(super) is_closing: bool,
    is_ended: bool,
    events: VecDeque<Event>,
    error: Option<LogError>,
    records: VecDeque<Record>,
    bytes: usize,
    pub(super) places: HashMap<TopicPartition, Place>,
    /// How often `unassign` is still to be said for partitions that are gone already.
    owed: HashMap<TopicPartition, u32>,
    /// Answered when the assignment that they belong to is in place.
    pub(super) assigns: Vec<Reply<()>>,
}

/// A partition of this member.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Where to begin, once it is said.
    pub(super) start: Option<Option<i64>>,
    /// librdkafka has it, paused, although nobody has said where to begin.
    pub(super) is_late: bool,
    /// The async side wants nothing of it for now.
    pub(super) is_paused: bool,
    /// It is being taken away.
    pub(super) is_leaving: bool,
}

impl Desk {
    pub(super) fn new(
        queued_max: usize,
        queued_bytes_max: usize,
        companion_suffix: Option<String>,
    ) -> Self {
        Self {
            state: Mutex::default(),
            bell: Condvar::new(),
            news: Notify::new(),
            queued_max,
            queued_bytes_max,
            companion_suffix,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread; librdkafka calls this from its own threads.
    pub(super) fn ring(&self) {
        self.lock().is_rung = true;
        self.bell.notify_one();
    }

    pub(super) fn close(&self) {
        self.lock().is_closing = true;
        self.bell.notify_one();
    }

    /// Hands a command over; drops it when the thread has ended.
    pub(super) fn ask(&self, command: Command) {
        let mut state = self.lock();
        if !state.is_ended && !state.is_closing {
            state.commands.push_back(command);
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Waits for something to do, and says whether there is.
    pub(super) fn nap(&self, longest: Duration) -> bool {
        let state = self.lock();
        let is_idle = |it: &mut State| !it.is_rung && !it.is_closing && it.commands.is_empty();
        let waited = self.bell.wait_timeout_while(state, longest, is_idle);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_rung = false;
        !timeout.timed_out()
    }

    /// Waits that long, whatever is to do.
    pub(super) fn pause(&self, time: Duration) {
        drop(self.bell.wait_timeout_while(self.lock(), time, |it| !it.is_closing));
    }

    pub(super) fn command(&self) -> Option<Command> {
        self.lock().commands.pop_front()
    }

    pub(super) fn tell(&self, event: Event) {
        self.lock().events.push_back(event);
        self.news.notify_one();
    }

    pub(super) fn report(&self, error: LogError) {
        self.lock().error = Some(error);
        self.news.notify_one();
    }

    /// Queues a record, unless its partition is not read.
    pub(super) fn push(&self, record: Record) {
        let mut state = self.lock();
        let place = state.places.get(&record.partition);
        if place.is_some_and(|place| place.start.is_some() && !place.is_paused) {
            state.bytes += convert::weight(&record);
            state.records.push_back(record);
            drop(state);
            self.news.notify_one();
        }
    }

    pub(super) fn is_full(&self) -> bool {
        let state = self.lock();
        state.records.len() >= self.queued_max || state.bytes >= self.queued_bytes_max
    }

    /// What the async side is told next.
    pub(super) async fn next(&self) -> Result<Event, LogError> {
        loop {
            let news = self.news.notified();
            if let Some(next) = self.take() {
                return next;
            }
            news.await;
        }
    }

    fn take(&self) -> Option<Result<Event, LogError>> {
        let mut state = self.lock();
        if let Some(event) = state.events.pop_front() {
            return Some(Ok(event));
        }
        if let Some(error) = state.error.take() {
            return Some(Err(error));
        }
        if state.is_ended {
            return Some(Err(ended()));
        }
        let records = state.drain();
        drop(state);
        if records.is_empty() {
            return None;
        }
        // The thread may have waited for room.
        self.ring();
        Some(Ok(Event::Records(records)))
    }

    /// The thread is over; nothing is held any more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.is_ended = true;
        state.places.clear();
        state.records.clear();
        let commands = std::mem::take(&mut state.commands);
        let assigns = std::mem::take(&mut state.assigns);
        drop(state);
        drop((commands, assigns));
        self.news.notify_one();
    }

    /// Whether positions of these partitions may be committed.
    pub(in super::super) fn check(&self, positions: &[Position]) -> Result<(), LogError> {
        let state = self.lock();
        let is_held = |partition: &TopicPartition| {
            let suffix = self.companion_suffix.as_deref();
            let source = suffix.and_then(|suffix| partition.topic.strip_suffix(suffix));
            let source = source.map(|topic| TopicPartition::new(topic, partition.partition));
            let is_source_held = source.is_some_and(|it| state.is_known(&it));
            is_source_held || state.is_known(partition)
        };
        let gone = positions.iter().find(|it| !is_held(&it.partition));
        let Some(position) = gone else {
            return Ok(());
        };
        let message = format!(
            "{} is not this member's any more; abort and leave its records to the new owner",
            position.partition
        );
        Err(LogError::new(LogErrorKind::Abortable, message))
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        f.debug_struct("Desk")
            .field("places", &state.places)
            .field("queued", &state.records.len())
            .finish_non_exhaustive()
    }
}

impl State {
    /// Takes out what may be returned.
    fn drain(&mut self) -> Vec<Record> {
        let is_going = self.places.values().any(|it| it.is_leaving);
        let records = std::mem::take(&mut self.records);
        self.bytes = 0;
        if !is_going {
            return records.into();
        }
        let is_leaving = |it: &Record| self.is_leaving(&it.partition);
        let (kept, out): (Vec<_>, Vec<_>) = records.into_iter().partition(is_leaving);
        self.bytes = kept.iter().map(convert::weight).sum();
        self.records = kept.into();
        out
    }

    /// Whether the async side means this assignment of the partition when it names it: not while it
    /// has still to hear of the loss of an earlier one.
    pub(super) fn is_known(&self, partition: &TopicPartition) -> bool {
        self.places.contains_key(partition) && !self.owed.contains_key(partition)
    }

    fn is_leaving(&self, partition: &TopicPartition) -> bool {
        self.places.get(partition).is_some_and(|place| place.is_leaving)
    }

    /// Takes a partition's records out and returns the first of their offsets.
    pub(super) fn strip(&mut self, partition: &TopicPartition) -> Option<i64> {
        let first = self.records.iter().find(|it| it.partition == *partition);
        let first = first.map(|record| record.offset);
        if first.is_some() {
            self.records.retain(|it| it.partition != *partition);
            self.bytes = self.records.iter().map(convert::weight).sum();
        }
        first
    }

    /// Lets a partition go.
    pub(super) fn remove(&mut self, partition: &TopicPartition) {
        self.places.remove(partition);
        self.strip(partition);
    }

    /// Lets a partition go for which `unassign` is still to come that often.
    pub(super) fn expel(&mut self, partition: &TopicPartition, owed: u32) {
        self.remove(partition);
        *self.owed.entry(partition.clone()).or_default() += owed;
    }

    /// The async side lets a partition go.
    pub(super) fn unassign(&mut self, partition: &TopicPartition) {
        match self.owed.get_mut(partition) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => drop(self.owed.remove(partition)),
            None => self.remove(partition),
        }
    }
}

pub(super) fn ended() -> LogError {
    LogError::new(LogErrorKind::Fenced, "the consumer is closed; join the group with a new one")
}

/// Who a consumer is in its group, and what it holds.
pub(in super::super) struct Member {
    pub(in super::super) metadata: Arc<ConsumerGroupMetadata>,
    /// None for an outsider, who holds nothing.
    pub(in super::super) desk: Option<Arc<Desk>>,
}

impl Member {
    /// Refuses positions of partitions that were taken away: the generation alone would let them
    /// pass when it is that of the rebalance that took them.
    pub(in super::super) fn check(&self, positions: &[Position]) -> Result<(), LogError> {
        self.desk.as_ref().map_or(Ok(()), |desk| desk.check(positions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_lost_assignment_does_not_mean_the_next_one() {
        let desk = Desk::new(1, 1, None);
        let partition = TopicPartition::new("orders", 0);
        let position = [Position { partition: partition.clone(), next: 7 }];
        desk.lock().places.insert(partition.clone(), Place::default());
        assert!(desk.check(&position).is_ok());
        desk.lock().expel(&partition, 1);
        desk.lock().places.insert(partition.clone(), Place::default());
        assert_eq!(desk.check(&position).unwrap_err().kind(), LogErrorKind::Abortable);
        desk.lock().unassign(&partition);
        assert!(desk.check(&position).is_ok());
    }
}
