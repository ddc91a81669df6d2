//! Records in batches, each batch in one transaction.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use semel::{Error, Timestamp};

use super::entry::{Batch, Entry};
use super::lag::Lag;
use super::retries::{self, Gate, Retries};
use super::shelf::{Leaving, Offer, Shelf, Trial};
use super::work::{Done, Problem, Work};
use super::{Meter, UNREACHED_PAUSE, ended_by, leave};
use crate::failpoint;
use crate::log::{
    Event, Log, LogConsumer, LogError, LogErrorKind, Outgoing, Position, Record, TopicPartition,
};
use crate::options::ConsumerOptions;
use crate::rejected::{Reason, Rejected, Then, letter};

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

    fn put_to_trial(&mut self, entry: &Entry, rejected: Rejected) {
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

    async fn try_alone(&mut self, partition: &TopicPartition) -> Result<(), Error> {
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

    fn letter(&self, entry: &Entry, leaving: &Leaving, attempts: u32) -> Option<Outgoing> {
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
    async fn stop(&mut self, entry: &Entry, rejected: &Rejected) -> Result<(), Error> {
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

    /// Reads on from where the truth is.
    async fn read_again(&mut self) -> Result<(), Error> {
        let read = self.shelves.iter().filter(|(_, shelf)| !shelf.is_stopped);
        let partitions: Vec<_> = read.map(|(partition, _)| partition.clone()).collect();
        // Also without partitions: what this member left open may hold up others.
        let starts = match self.work.starts(&partitions).await {
            Ok(starts) => starts,
            Err(problem) => return self.failed(problem, &Batch::default()).await,
        };
        let (mut positions, mut assigned) = (Vec::new(), Vec::new());
        let (mut sources, mut parked) = (Vec::new(), Vec::new());
        for (partition, start) in partitions.into_iter().zip(starts) {
            let Some(shelf) = self.shelves.get_mut(&partition) else { continue };
            shelf.records.clear();
            shelf.is_paused = false;
            if shelf.is_companion {
                parked.push((partition, start));
                continue;
            }
            sources.push(partition.clone());
            if !shelf.is_assigned {
                assigned.push((partition, start));
            } else if let Some(next) = start.or(shelf.first) {
                // Without a position nothing was ever finished; what was read first is still first.
                positions.push(Position { partition, next });
            }
        }
        let sought = async {
            self.take(parked).await?;
            self.assign(assigned).await?;
            self.consumer.seek(positions).await?;
            self.consumer.resume(sources).await
        };
        match sought.await {
            Ok(()) => {
                self.rewind = None;
                Ok(())
            }
            Err(error) => self.settle(Err(error)),
        }
    }

    /// Begins to read these partitions of retry topics.
    async fn take(&mut self, parked: Vec<(TopicPartition, Option<i64>)>) -> Result<(), LogError> {
        let Some(retries) = &mut self.retries else { return Ok(()) };
        let (companions, starts): (Vec<_>, Vec<_>) = parked.into_iter().unzip();
        let sources: Vec<_> = companions.iter().filter_map(|it| retries.source(it)).collect();
        retries.take(&sources, &starts).await
    }

    async fn react(&mut self, event: Result<Event, LogError>) -> Result<(), Error> {
        match event {
            Ok(Event::Assigned(partitions)) => self.welcome(partitions).await,
            Ok(Event::Revoked(partitions)) => {
                failpoint::pass("kafka:revoked");
                self.display().await;
                self.part_with(partitions).await
            }
            Ok(Event::Lost(partitions)) => {
                tracing::warn!(?partitions, "the group gave this member up");
                self.part_with(partitions).await
            }
            Ok(Event::Records(records)) => self.store(records).await,
            Err(error) if error.kind() == LogErrorKind::Fenced => Err(ended_by(error)),
            Err(error) if error.kind() == LogErrorKind::Invalid => Err(ended_by(error)),
            Err(error) => {
                tracing::warn!(%error, "the log cannot be read just now");
                self.options.clock.sleep(UNREACHED_PAUSE).await;
                Ok(())
            }
        }
    }

    async fn welcome(&mut self, mut partitions: Vec<TopicPartition>) -> Result<(), Error> {
        let count = partitions.len();
        for partition in &partitions {
            self.shelves.insert(partition.clone(), Shelf::default());
        }
        self.meter.assigned(self.owned());
        if let Some(retries) = &self.retries {
            let companions = retries.companions(&partitions);
            for companion in &companions {
                let shelf = Shelf { is_companion: true, ..Shelf::default() };
                self.shelves.insert(companion.clone(), shelf);
            }
            partitions.extend(companions);
        }
        match self.work.starts(&partitions).await {
            Ok(starts) => {
                let mut starts: Vec<_> = partitions.into_iter().zip(starts).collect();
                let parked = starts.split_off(count);
                let answered = async {
                    self.take(parked).await?;
                    self.assign(starts).await
                };
                let answered = answered.await;
                self.settle(answered)
            }
            // Answered once it is known from where to read. Asking the group for its position
            // instead could wait for a transaction that this very member has left open.
            Err(problem) => self.failed(problem, &Batch::default()).await,
        }
    }

    /// How many partitions the group has given to this member.
    fn owned(&self) -> usize {
        self.shelves.values().filter(|shelf| !shelf.is_companion).count()
    }

    /// Answers the group; done again by [`Self::read_again`] for what it did not hear.
    async fn assign(&mut self, starts: Vec<(TopicPartition, Option<i64>)>) -> Result<(), LogError> {
        if starts.is_empty() {
            return Ok(());
        }
        self.consumer.assign(starts.clone()).await?;
        for (partition, _) in starts {
            if let Some(shelf) = self.shelves.get_mut(&partition) {
                shelf.is_assigned = true;
            }
        }
        Ok(())
    }

    async fn part_with(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Error> {
        let mut all = partitions.clone();
        if let Some(retries) = &mut self.retries {
            all.extend(retries.companions(&partitions));
            let parted = retries.let_go(&partitions).await;
            self.settle(parted)?;
        }
        for partition in &all {
            self.shelves.remove(partition);
        }
        self.work.let_go(&all);
        self.meter.assigned(self.owned());
        let unassigned = self.consumer.unassign(partitions).await;
        self.settle(unassigned)?;
        self.resume_if_there_is_room().await
    }

    async fn store_parked(&mut self, parked: Result<Vec<Entry>, LogError>) -> Result<(), Error> {
        let entries = match parked {
            Ok(entries) => entries,
            Err(error) => return self.react(Err(error)).await,
        };
        for entry in entries {
            let shelf = self.shelves.get_mut(&entry.at);
            // Whatever is dropped here is read again before anything else is done.
            if let Some(shelf) = shelf.filter(|it| !it.is_stopped && self.rewind.is_none()) {
                shelf.put(entry);
            }
        }
        Ok(())
    }

    async fn store(&mut self, records: Vec<Record>) -> Result<(), Error> {
        for record in records {
            let shelf = self.shelves.get_mut(&record.partition);
            let Some(shelf) = shelf.filter(|shelf| !shelf.is_stopped) else { continue };
            if self.rewind.is_some() {
                // They are read again, from here where nothing was ever finished.
                shelf.first.get_or_insert(record.offset);
            } else {
                shelf.put(Entry::new(record));
            }
        }
        self.meter.buffered(self.buffered());
        if !self.is_full() || self.rest().is_zero() {
            return Ok(());
        }
        let mut full = Vec::new();
        for (partition, shelf) in &mut self.shelves {
            if !shelf.records.is_empty() && !shelf.is_paused && !shelf.is_companion {
                shelf.is_paused = true;
                full.push(partition.clone());
            }
        }
        let paused = self.consumer.pause(full).await;
        self.settle(paused)
    }

    async fn resume_if_there_is_room(&mut self) -> Result<(), Error> {
        if self.rewind.is_some() || self.buffered() > self.options.buffer_max / 2 {
            return Ok(());
        }
        let mut resumed = Vec::new();
        for (partition, shelf) in &mut self.shelves {
            if shelf.is_paused && !shelf.is_stopped {
                shelf.is_paused = false;
                resumed.push(partition.clone());
            }
        }
        if resumed.is_empty() {
            return Ok(());
        }
        let resumed = self.consumer.resume(resumed).await;
        self.settle(resumed)
    }

    fn is_full(&self) -> bool {
        self.buffered() >= self.options.buffer_max
    }

    fn buffered(&self) -> usize {
        // What is in retry topics has a bound of its own.
        let own = self.shelves.values().filter(|shelf| !shelf.is_companion);
        own.map(|shelf| shelf.records.len()).sum()
    }

    /// Shows in the group what is done. Nothing depends on it.
    async fn display(&mut self) {
        if !W::IS_DISPLAYED {
            return;
        }
        let done = self.shelves.iter().filter_map(|(partition, shelf)| {
            shelf.done.map(|next| Position { partition: partition.clone(), next })
        });
        let done: Vec<_> = done.collect();
        if done.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.commit(done).await {
            tracing::debug!(%error, "the group's display of the position is late");
        }
    }
}

enum Pick {
    Alone(TopicPartition),
    Entries(Vec<Entry>),
}
