//! Records that were not handled.

use std::time::Duration;

use semel::Error;

use super::super::entry::{Batch, Entry};
use super::super::shelf::{Leaving, Trial};
use super::super::work::Work;
use super::Driver;
use crate::log::{Outgoing, TopicPartition};
use crate::rejected::{Rejected, Then, letter};

impl<W: Work> Driver<'_, W> {
    pub(super) fn put_to_trial(&mut self, entry: &Entry, rejected: Rejected) {
        let Some(shelf) = self.shelves.get_mut(&entry.at) else { return };
        let attempts = shelf.attempts(entry);
        let poison = &self.options.poison;
        let is_over = !rejected.is_passing || attempts >= poison.attempts_max;
        let retries = self.retries.as_ref().filter(|_| !is_over);
        let is_parked = retries.is_some_and(|retries| retries.takes(entry, attempts));
        tracing::warn!(
            partition = %entry.at, offset = entry.offset, attempts,
            reason = rejected.reason.name(), detail = rejected.detail, is_over, is_parked,
            "a record was not handled"
        );
        if !is_over {
            self.meter.retried(rejected.reason);
        }
        let (pause, leaving) = match (is_over, is_parked) {
            (true, _) => (Duration::ZERO, Some(Leaving::Doomed(rejected))),
            (false, true) => (Duration::ZERO, Some(Leaving::Parked(rejected))),
            (false, false) => (poison.pause_after(attempts), None),
        };
        let not_before = self.options.clock.now().after(pause);
        shelf.trial = Some(Trial { offset: entry.offset, attempts, not_before, leaving });
    }

    pub(super) async fn try_alone(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        let Some(shelf) = self.shelves.get_mut(partition) else { return Ok(()) };
        let Some(entry) = shelf.records.pop_front() else { return Ok(()) };
        let trial = shelf.trial.as_ref().filter(|trial| trial.offset == entry.offset);
        let attempts = trial.map_or(entry.attempts, |trial| trial.attempts);
        let leaving = trial.and_then(|trial| trial.leaving.clone());
        let buried = match &leaving {
            Some(Leaving::Doomed(rejected)) if self.options.poison.then == Then::Stop => {
                return self.stop(&entry, rejected).await;
            }
            Some(Leaving::Doomed(rejected)) => Some(rejected.reason),
            Some(Leaving::Parked(_)) | None => None,
        };
        let batch = match leaving.and_then(|it| self.letter(&entry, &it, attempts)) {
            Some(letter) => Batch { handled: Vec::new(), posted: vec![(entry, letter)] },
            None => self.arrange(vec![entry]),
        };
        if self.try_batch(batch).await?
            && let Some(reason) = buried
        {
            self.meter.dead_letter(reason);
        }
        Ok(())
    }

    pub(super) fn letter(
        &self,
        entry: &Entry,
        leaving: &Leaving,
        attempts: u32,
    ) -> Option<Outgoing> {
        match leaving {
            Leaving::Parked(rejected) => {
                self.retries.as_ref().map(|it| it.letter(entry, rejected, attempts))
            }
            Leaving::Doomed(rejected) => {
                let Then::DeadLetter(topic) = &self.options.poison.then else { return None };
                let group = &self.options.group;
                Some(letter(topic, group, &entry.record, rejected, attempts))
            }
        }
    }

    /// Nothing of this partition is handled any more.
    pub(super) async fn stop(&mut self, entry: &Entry, rejected: &Rejected) -> Result<(), Error> {
        tracing::error!(
            partition = %entry.at, offset = entry.offset,
            reason = rejected.reason.name(), detail = rejected.detail,
            "the partition stops before this record, because it cannot be handled; mend the cause \
             and restart this consumer, or choose dead letters"
        );
        let Some(shelf) = self.shelves.get_mut(&entry.at) else { return Ok(()) };
        shelf.is_stopped = true;
        shelf.records.clear();
        let is_companion = shelf.is_companion;
        self.meter.stopped(self.shelves.values().filter(|shelf| shelf.is_stopped).count());
        if is_companion {
            return Ok(());
        }
        let paused = self.consumer.pause(vec![entry.at.clone()]).await;
        self.settle(paused)
    }
}
