//! How records end.

use std::sync::Arc;
use std::time::Duration;

use semel::{Error, Timestamp};
use tokio::task::{Id, JoinError};

use super::super::entry::Entry;
use super::super::retries::Gate;
use super::super::shelf::Leaving;
use super::{Job, LaneKey, Lanes, Ran, WORD_EVERY};
use crate::log::TopicPartition;
use crate::rejected::{Reason, Rejected, Then};

impl<J: Job> Lanes<'_, J> {
    pub(super) async fn ended(
        &mut self,
        ended: Option<Result<(Id, Ran), JoinError>>,
    ) -> Result<(), Error> {
        let Some(ended) = ended else { return Ok(()) };
        let (id, ran) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                let detail = "the handler panicked";
                let rejected = Rejected::for_now(Reason::HandlerFailed, detail);
                (error.id(), Ran::Rejected(rejected))
            }
        };
        let Some((key, entry)) = self.seats.remove(&id) else { return Ok(()) };
        // The partition may have gone, and come again, while it ran.
        let is_same = |it: &Entry| Arc::ptr_eq(&it.record, &entry.record);
        let lane = self.lanes.get_mut(&key);
        let Some(lane) = lane.filter(|lane| lane.records.front().is_some_and(is_same)) else {
            return Ok(());
        };
        lane.is_running = false;
        match ran {
            Ran::Wait { why, pause } => {
                self.tell_of_waiting(&entry, &why);
                self.put_to_sleep(key, pause);
                Ok(())
            }
            Ran::Rejected(rejected) => self.reject(key, &entry, rejected).await,
            ran => self.finish(&key, &entry, &ran).await,
        }
    }

    /// Says why records wait, without saying it for each of them.
    pub(super) fn tell_of_waiting(&mut self, entry: &Entry, why: &str) {
        let now = self.options.clock.now();
        if now < self.next_word {
            return;
        }
        self.next_word = now.after(WORD_EVERY);
        tracing::warn!(partition = %entry.at, offset = entry.offset, why, "records wait");
    }

    pub(super) async fn finish(
        &mut self,
        key: &LaneKey,
        entry: &Entry,
        ran: &Ran,
    ) -> Result<(), Error> {
        let Some(lane) = self.lanes.get_mut(key) else { return Ok(()) };
        match (lane.leaving.take(), ran) {
            (Some(Leaving::Doomed(rejected)), _) => self.meter.dead_letter(rejected.reason),
            (_, Ran::Posted(delivered)) => {
                self.meter.parked(1);
                if let Some(retries) = &mut self.retries {
                    retries.parked(entry, delivered);
                }
            }
            (_, Ran::Duplicate) => self.meter.duplicates(1),
            _ => self.meter.handled(1),
        }
        lane.records.pop_front();
        lane.attempts = 0;
        let next = lane.records.front().map(|next| next.not_before);
        match next {
            None => drop(self.lanes.remove(key)),
            Some(not_before) => self.ready_at(key.clone(), not_before),
        }
        let Some(part) = self.parts.get_mut(&key.partition) else { return Ok(()) };
        part.pending.remove(&entry.offset);
        if part.is_companion {
            if let Some(retries) = &mut self.retries {
                retries.finished(entry);
            }
            self.ready.extend(self.held.drain(..));
        } else {
            self.buffered -= 1;
        }
        self.resume_if_there_is_room().await
    }

    /// Lets a lane go on once its first record may be tried.
    pub(super) fn ready_at(&mut self, key: LaneKey, not_before: Timestamp) {
        let pause = not_before.since(self.options.clock.now());
        if pause.is_zero() {
            self.ready.push_back(key);
        } else {
            self.put_to_sleep(key, pause);
        }
    }

    pub(super) async fn reject(
        &mut self,
        key: LaneKey,
        entry: &Entry,
        rejected: Rejected,
    ) -> Result<(), Error> {
        let poison = &self.options.poison;
        let Some(lane) = self.lanes.get_mut(&key) else { return Ok(()) };
        let gate = self.retries.as_ref().map_or(Gate::Handle, |it| it.gate(entry));
        let reason = match &lane.leaving {
            Some(Leaving::Parked(first) | Leaving::Doomed(first)) => Some(first.reason),
            None if gate == Gate::Follow => Some(Reason::Follows),
            None => None,
        };
        if let Some(reason) = reason {
            let detail = format!("its letter was refused: {}", rejected.detail);
            return self.stop(&key.partition, entry, reason, &detail).await;
        }
        lane.attempts += 1;
        let attempts = lane.attempts();
        let is_over = !rejected.is_passing || attempts >= poison.attempts_max;
        let retries = self.retries.as_ref().filter(|_| !is_over);
        let is_parked = retries.is_some_and(|retries| retries.takes(entry, attempts));
        tracing::warn!(
            partition = %key.partition, offset = entry.offset, attempts,
            reason = rejected.reason.name(), detail = rejected.detail, is_over, is_parked,
            "a record was not handled"
        );
        if !is_over {
            self.meter.retried(rejected.reason);
            if is_parked {
                lane.leaving = Some(Leaving::Parked(rejected));
                self.ready.push_back(key);
            } else {
                let pause = poison.pause_after(attempts);
                self.put_to_sleep(key, pause);
            }
            return Ok(());
        }
        if poison.then == Then::Stop {
            return self.stop(&key.partition, entry, rejected.reason, &rejected.detail).await;
        }
        lane.leaving = Some(Leaving::Doomed(rejected));
        self.ready.push_back(key);
        Ok(())
    }

    /// Nothing of this partition is handled any more.
    pub(super) async fn stop(
        &mut self,
        partition: &TopicPartition,
        entry: &Entry,
        reason: Reason,
        detail: &str,
    ) -> Result<(), Error> {
        tracing::error!(
            %partition, offset = entry.offset, reason = reason.name(), detail,
            "the partition stops before this record, because it cannot be handled; mend the cause \
             and restart this consumer, or choose dead letters"
        );
        let Some(part) = self.parts.get_mut(partition) else { return Ok(()) };
        part.is_stopped = true;
        let is_companion = part.is_companion;
        self.empty(partition);
        self.meter.stopped(self.parts.values().filter(|part| part.is_stopped).count());
        if is_companion {
            return Ok(());
        }
        let stopped = vec![partition.clone()];
        self.passing(|it| Box::pin(it.consumer.pause(stopped))).await
    }

    pub(super) fn put_to_sleep(&mut self, key: LaneKey, pause: Duration) {
        let wake = self.options.clock.now().after(pause);
        self.next_sleeper += 1;
        self.waiting.insert((wake, self.next_sleeper));
        self.sleepers.insert(self.next_sleeper, key);
    }

    /// Drops the lanes of a partition; what runs is not waited for.
    pub(super) fn empty(&mut self, partition: &TopicPartition) {
        let is_companion = self.parts.get(partition).is_some_and(|part| part.is_companion);
        let mut dropped = 0;
        self.lanes.retain(|key, lane| {
            let is_kept = key.partition != *partition;
            dropped += if is_kept { 0 } else { lane.records.len() };
            is_kept
        });
        let is_kept = |key: &LaneKey| key.partition != *partition;
        self.ready.retain(is_kept);
        self.held.retain(is_kept);
        self.sleepers.retain(|_, key| is_kept(key));
        if !is_companion {
            self.buffered -= dropped;
        }
    }
}
