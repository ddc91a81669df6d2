//! Rebalances: partitions come and go while librdkafka waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use semel::{Clock, SystemClock};

use super::super::{context, convert, fault};
use super::desk::{Desk, Place, State};
use super::serve;
use crate::log::{Event, LogError, TopicPartition};

/// How often a wait looks for what nobody tells.
const LOOK: Duration = Duration::from_millis(100);

/// Hears from librdkafka.
pub(super) struct Turns {
    pub(super) desk: Arc<Desk>,
    pub(super) times: super::Times,
    /// A rebalance was handled since this was last read.
    pub(super) has_turned: AtomicBool,
    /// Partitions are paused because the queue is full.
    pub(super) is_held: AtomicBool,
}

impl ClientContext for Turns {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::write_log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        context::write_error(&error, reason);
    }
}

impl ConsumerContext for Turns {
    /// The whole rebalance. What librdkafka's default does around the two callbacks would assign
    /// twice.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        self.has_turned.store(true, Ordering::Relaxed);
        let partitions = convert::partitions(list);
        let result = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.assigned(consumer, &partitions)
            }
            _ => self.revoked(consumer, &partitions, list),
        };
        if let Err(error) = result {
            self.desk.report(error);
        }
    }
}

impl Turns {
    fn assigned(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[TopicPartition],
    ) -> Result<(), LogError> {
        if !partitions.is_empty() && !self.desk.lock().is_closing {
            let places = partitions.iter().map(|it| (it.clone(), Place::default()));
            self.desk.lock().places.extend(places);
            self.desk.tell(Event::Assigned(partitions.to_vec()));
            let is_answered = |state: &State| {
                let is_said = |it| state.places.get(it).is_none_or(|place| place.start.is_some());
                partitions.iter().all(is_said)
            };
            self.wait(consumer, self.times.assign, is_answered);
        }
        let (list, late) = self.starts(partitions)?;
        // Since an earlier assignment they may be paused: librdkafka keeps that for itself.
        told("resume partitions", consumer.resume(&convert::bare(partitions)?))?;
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&list),
            _ => consumer.assign(&list),
        };
        let result = result.map_err(|error| fault::plain("give partitions", error));
        let quiet = if self.is_held.load(Ordering::Relaxed) { partitions } else { &late };
        if result.is_ok() && !quiet.is_empty() {
            let paused = consumer.pause(&convert::bare(quiet)?);
            paused.map_err(|error| fault::plain("pause partitions", error))?;
        }
        let assigns = std::mem::take(&mut self.desk.lock().assigns);
        for reply in assigns {
            let answer = result.as_ref().map(|&()| ()).map_err(again);
            // Whoever stopped waiting has decided to do without the answer.
            drop(reply.send(answer));
        }
        result
    }

    /// Where each partition begins, and for which nobody has said it.
    fn starts(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<(TopicPartitionList, Vec<TopicPartition>), LogError> {
        let mut late = Vec::new();
        let mut state = self.desk.lock();
        let mut starts = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let offset = match state.places.get_mut(partition) {
                Some(Place { start: Some(Some(offset)), .. }) => Offset::Offset(*offset),
                Some(place) if place.start.is_none() => {
                    place.is_late = true;
                    late.push(partition.clone());
                    // Paused, so that it reads nothing; librdkafka need not ask where to begin.
                    Offset::Beginning
                }
                _ => Offset::Invalid,
            };
            starts.push((partition, offset));
        }
        drop(state);
        Ok((convert::list(starts)?, late))
    }

    fn revoked(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[TopicPartition],
        list: &TopicPartitionList,
    ) -> Result<(), LogError> {
        if !partitions.is_empty() {
            if consumer.assignment_lost() {
                self.expel(partitions, 1);
            } else {
                self.ask_back(consumer, partitions);
            }
        }
        let result = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
        result.map_err(|error| fault::plain("take partitions back", error))
    }

    /// Waits for the async side to let partitions go, and takes them if that takes too long.
    fn ask_back(&self, consumer: &BaseConsumer<Self>, partitions: &[TopicPartition]) {
        let mut state = self.desk.lock();
        for partition in partitions {
            if let Some(place) = state.places.get_mut(partition) {
                place.is_leaving = true;
            }
        }
        drop(state);
        self.desk.tell(Event::Revoked(partitions.to_vec()));
        let is_gone = |state: &State| !partitions.iter().any(|it| state.places.contains_key(it));
        if self.wait(consumer, self.times.revoke, is_gone) || self.desk.lock().is_closing {
            return;
        }
        let kept: Vec<_> = {
            let state = self.desk.lock();
            let kept = partitions.iter().filter(|it| state.places.contains_key(*it));
            kept.cloned().collect()
        };
        tracing::warn!(partitions = kept.len(), "revoked partitions were not let go in time");
        // Both events are answered, the one before and the one now.
        self.expel(&kept, 2);
    }

    fn expel(&self, partitions: &[TopicPartition], owed: u32) {
        let mut state = self.desk.lock();
        for partition in partitions {
            state.expel(partition, owed);
        }
        drop(state);
        self.desk.tell(Event::Lost(partitions.to_vec()));
    }

    /// Serves commands until `is_done`; false when the time is over, the consumer is dropped, or
    /// the group has given this member up.
    fn wait(
        &self,
        consumer: &BaseConsumer<Self>,
        longest: Duration,
        is_done: impl Fn(&State) -> bool,
    ) -> bool {
        let over = SystemClock.now().after(longest);
        loop {
            while let Some(command) = self.desk.command() {
                serve::serve(consumer, command);
            }
            let is_over = consumer.assignment_lost() || SystemClock.now() >= over;
            let state = self.desk.lock();
            if is_done(&state) {
                return true;
            }
            if state.is_closing || is_over {
                return false;
            }
            drop(state);
            self.desk.nap(LOOK);
        }
    }
}

/// The same error for one more listener.
fn again(error: &LogError) -> LogError {
    LogError::new(error.kind(), error.to_string())
}

/// Shorter to write.
pub(super) type Client = BaseConsumer<Turns>;

/// What librdkafka says to a call about partitions.
pub(super) fn told(what: &str, result: KafkaResult<()>) -> Result<(), LogError> {
    result.map_err(|error| fault::plain(what, error))
}
