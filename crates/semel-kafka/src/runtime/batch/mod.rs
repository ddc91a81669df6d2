//! Records in batches, each batch in one transaction.

mod group;
mod trials;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use semel::{Error, Timestamp};

use super::entry::{Batch, Entry};
use super::lag::Lag;
use super::retries::{self, Gate, Retries};
use super::shelf::{Leaving, Offer, Shelf};
use super::work::{Done, Problem, Work};
use super::{Meter, leave};
use crate::log::{Event, Log, LogConsumer, LogError, TopicPartition};
use crate::options::ConsumerOptions;
use crate::rejected::{Reason, Rejected};

/// The first pause before reading again; it doubles up to [`REWIND_PAUSE_MAX`].
const REWIND_PAUSE: Duration = Duration::from_millis(50);
const REWIND_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Reads, hands out batches, and answers the group.
pub(crate) struct Driver<'a, W> {
    options: &'a ConsumerOptions,
    consumer: Box<dyn LogConsumer>,
    work: W,
    meter: Meter,
    lag: Lag,
    retries: Option<Retries>,
    shelves: BTreeMap<TopicPartition, Shelf>,
    /// When to read again, after how many failures in a row.
    rewind: Option<Timestamp>,
    failures: u32,
    tick: Timestamp,
}

enum Turn {
    Event(Result<Event, LogError>),
    Parked(Result<Vec<Entry>, LogError>),
    Stop,
    Work,
}

impl<'a, W: Work> Driver<'a, W> {
    pub(crate) fn new(
        options: &'a ConsumerOptions,
        log: &Arc<dyn Log>,
        consumer: Box<dyn LogConsumer>,
        work: W,
    ) -> Result<Self, Error> {
        let meter = Meter::new(W::CLASS, &options.group);
        Ok(Self {
            lag: Lag::new(Arc::clone(log), Arc::clone(&options.clock), meter.clone()),
            retries: Retries::new(options, log)?,
            tick: options.clock.now().after(options.commit_every),
            options,
            consumer,
            work,
            meter,
            shelves: BTreeMap::new(),
            rewind: None,
            failures: 0,
        })
    }

    /// Runs until `until` completes; then leaves the group in an orderly way.
    pub(crate) async fn run(mut self, until: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let mut until = std::pin::pin!(until);
        loop {
            let rest = self.rest();
            // With enough to do, the rest stays with the log: pausing partitions throws away what
            // it has fetched, and is for when there is nothing to do with a full buffer.
            let is_sated = rest.is_zero() && self.is_full();
            let rest = self.options.clock.sleep(rest);
            let turn = tokio::select! {
                biased;
                () = &mut until => Turn::Stop,
                event = self.consumer.next(), if !is_sated => Turn::Event(event),
                parked = retries::next(&mut self.retries) => Turn::Parked(parked),
                () = rest => Turn::Work,
            };
            match turn {
                Turn::Stop => break,
                Turn::Event(event) => self.react(event).await?,
                Turn::Parked(parked) => self.store_parked(parked).await?,
                Turn::Work => self.work().await?,
            }
        }
        if self.rewind.is_some() {
            // What this member left open would hold up the others until its time-out.
            drop(self.work.starts(&[]).await);
        }
        self.display().await;
        leave(self.consumer).await;
        Ok(())
    }

    /// How long there is nothing to do.
    fn rest(&self) -> Duration {
        let now = self.options.clock.now();
        let mut wake = self.tick;
        if let Some(rewind) = self.rewind {
            return rewind.min(wake).since(now);
        }
        wake = wake.min(self.retries.as_ref().and_then(Retries::wake).unwrap_or(wake));
        for shelf in self.shelves.values() {
            match shelf.offer(now) {
                Offer::Nothing(until) => wake = wake.min(until.unwrap_or(wake)),
                Offer::Alone | Offer::Many(_)
                    if shelf.records.front().is_some_and(|it| self.waits(it)) => {}
                Offer::Alone | Offer::Many(_) => return Duration::ZERO,
            }
        }
        wake.since(now)
    }

    fn waits(&self, entry: &Entry) -> bool {
        self.retries.as_ref().is_some_and(|retries| retries.gate(entry) == Gate::Wait)
    }

    async fn work(&mut self) -> Result<(), Error> {
        let now = self.options.clock.now();
        if now >= self.tick {
            self.display().await;
            let positions = self.shelves.iter();
            let positions = positions.map(|(it, shelf)| (it.clone(), shelf.done.or(shelf.first)));
            self.lag.look(positions.collect());
            self.work.tidy().await;
            self.tick = self.options.clock.now().after(self.options.commit_every);
        }
        if let Some(rewind) = self.rewind {
            return if now < rewind { Ok(()) } else { self.read_again().await };
        }
        if let Some(retries) = &mut self.retries
            && let Err(error) = retries.look().await
        {
            return self.settle(Err(error));
        }
        match self.pick(now) {
            Pick::Alone(partition) => self.try_alone(&partition).await,
            Pick::Entries(entries) if entries.is_empty() => Ok(()),
            Pick::Entries(entries) => {
                let batch = self.arrange(entries);
                self.try_batch(batch).await.map(|_| ())
            }
        }
    }

    /// Takes the records of the next batch off their shelves.
    fn pick(&mut self, now: Timestamp) -> Pick {
        let mut offers = Vec::new();
        for (partition, shelf) in &self.shelves {
            let count = match shelf.offer(now) {
                Offer::Nothing(_) => continue,
                Offer::Alone if shelf.records.front().is_some_and(|it| self.waits(it)) => continue,
                Offer::Alone => return Pick::Alone(partition.clone()),
                Offer::Many(count) if self.retries.is_none() => count,
                Offer::Many(count) => {
                    let records = shelf.records.iter().take(count);
                    records.take_while(|entry| !self.waits(entry)).count()
                }
            };
            offers.push((partition.clone(), count));
        }
        offers.retain(|(_, count)| *count > 0);
        // An equal share for each, so that a long backlog does not starve the others.
        let share = self.options.batch_max.div_ceil(offers.len().max(1));
        let mut entries = Vec::new();
        for (partition, count) in offers {
            let room = self.options.batch_max - entries.len();
            let Some(shelf) = self.shelves.get_mut(&partition) else { continue };
            entries.extend(shelf.records.drain(..count.min(share).min(room)));
        }
        Pick::Entries(entries)
    }

    /// What is handled and what goes to the retry topic.
    fn arrange(&self, entries: Vec<Entry>) -> Batch {
        let Some(retries) = &self.retries else {
            return Batch { handled: entries, posted: Vec::new() };
        };
        let mut batch = Batch::default();
        for entry in entries {
            if retries.gate(&entry) == Gate::Follow {
                let letter = retries.following(&entry);
                batch.posted.push((entry, letter));
            } else {
                batch.handled.push(entry);
            }
        }
        batch
    }

    /// Whether it is done.
    async fn try_batch(&mut self, batch: Batch) -> Result<bool, Error> {
        match self.work.process(&mut *self.consumer, &batch).await {
            Ok(done) => {
                self.failures = 0;
                self.meter.duplicates(done.duplicates);
                self.meter.handled(batch.handled.len().saturating_sub(done.duplicates));
                self.finish(&batch, &done);
                self.resume_if_there_is_room().await?;
                Ok(true)
            }
            Err(problem) => {
                self.put_back(&batch);
                self.failed(problem, &batch).await?;
                Ok(false)
            }
        }
    }

    fn put_back(&mut self, batch: &Batch) {
        let mut entries: Vec<_> = batch.entries().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.offset));
        for entry in entries {
            if let Some(shelf) = self.shelves.get_mut(&entry.at) {
                shelf.records.push_front(entry.clone());
            }
        }
    }

    fn finish(&mut self, batch: &Batch, done: &Done) {
        for entry in batch.entries() {
            let Some(shelf) = self.shelves.get_mut(&entry.at) else { continue };
            shelf.finish(entry.offset);
            if let Some(retries) = self.retries.as_mut().filter(|_| shelf.is_companion) {
                retries.finished(entry);
            }
        }
        let Some(retries) = &mut self.retries else { return };
        for ((entry, letter), delivered) in batch.posted.iter().zip(&done.delivered) {
            if letter.topic == retries.companion(&entry.at).topic {
                retries.parked(entry, delivered);
                self.meter.parked(1);
            }
        }
    }

    async fn failed(&mut self, problem: Problem, batch: &Batch) -> Result<(), Error> {
        match problem {
            Problem::Stop(error) => Err(error),
            Problem::Again(error) => {
                self.plan_to_read_again(&*error);
                Ok(())
            }
            Problem::Rejected { index, rejected } => {
                let Some(entry) = batch.handled.get(index) else { return Ok(()) };
                self.put_to_trial(entry, rejected);
                Ok(())
            }
            Problem::Refused { index, detail } => {
                let Some((entry, letter)) = batch.posted.get(index) else { return Ok(()) };
                let shelf = self.shelves.get(&entry.at);
                let trial = shelf.and_then(|shelf| shelf.trial.as_ref());
                let reason = match trial.and_then(|trial| trial.leaving.as_ref()) {
                    Some(Leaving::Parked(rejected) | Leaving::Doomed(rejected)) => rejected.reason,
                    None => Reason::Follows,
                };
                let detail = format!("`{}` refused its letter: {detail}", letter.topic);
                self.stop(entry, &Rejected::at_once(reason, detail)).await
            }
        }
    }

    /// After a call to the group that failed nothing is certain.
    fn settle(&mut self, answer: Result<(), LogError>) -> Result<(), Error> {
        let Err(error) = answer else { return Ok(()) };
        match Problem::from(error) {
            Problem::Stop(error) => Err(error),
            Problem::Again(error) => {
                self.plan_to_read_again(&*error);
                Ok(())
            }
            // Those are about records.
            Problem::Rejected { .. } | Problem::Refused { .. } => Ok(()),
        }
    }

    fn plan_to_read_again(&mut self, why: &(dyn std::error::Error + 'static)) {
        self.failures += 1;
        let doubled = 2_u32.saturating_pow((self.failures - 1).min(20));
        let pause = REWIND_PAUSE.saturating_mul(doubled).min(REWIND_PAUSE_MAX);
        tracing::warn!(error = %why, ?pause, "it is not certain what happened; reading again");
        self.meter.rewound();
        for shelf in self.shelves.values_mut() {
            shelf.records.clear();
        }
        self.rewind = Some(self.options.clock.now().after(pause));
    }
}

enum Pick {
    Alone(TopicPartition),
    Entries(Vec<Entry>),
}
