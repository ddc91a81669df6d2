//! Records in batches, each batch in one transaction.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use semel::{BoxError, Error, Timestamp};

use super::lag::Lag;
use super::shelf::{Offer, Shelf, Trial};
use super::{Meter, UNREACHED_PAUSE, ended_by, leave};
use crate::failpoint;
use crate::log::{
    Event, Log, LogConsumer, LogError, LogErrorKind, Position, Record, TopicPartition,
};
use crate::options::ConsumerOptions;
use crate::rejected::{Rejected, Then, letter};

/// What a class of consumer does with a batch.
pub(crate) trait Work: Send {
    const CLASS: &'static str;

    /// Whether the group's positions in the log are only for display, and have to be committed
    /// apart.
    const IS_DISPLAYED: bool;

    /// Where to read on in these partitions; none where nothing is known. Called when they come
    /// and whenever it is uncertain what happened.
    fn starts(
        &mut self,
        partitions: &[TopicPartition],
    ) -> impl Future<Output = Result<Vec<Option<i64>>, Problem>> + Send;

    /// Handles records, all or none.
    fn process(
        &mut self,
        consumer: &mut dyn LogConsumer,
        records: &[Arc<Record>],
    ) -> impl Future<Output = Result<Done, Problem>> + Send;

    /// Writes a dead letter and moves on behind its record.
    fn bury(
        &mut self,
        consumer: &mut dyn LogConsumer,
        record: &Record,
        letter: crate::log::Outgoing,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// These partitions are somebody else's.
    fn let_go(&mut self, partitions: &[TopicPartition]);

    /// Work that is done now and then.
    fn tidy(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// Records that were handled before.
    pub(crate) duplicates: usize,
}

/// A batch was not handled.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Nothing is certain: read again from where the truth is.
    Again(BoxError),
    /// One record cannot be handled; nothing happened.
    Rejected { index: usize, rejected: Rejected },
    /// The consumer has to end.
    Stop(Error),
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        match error.kind() {
            LogErrorKind::Abortable | LogErrorKind::Indefinite | LogErrorKind::Unavailable => {
                Self::Again(error.into())
            }
            LogErrorKind::Fenced | LogErrorKind::Invalid => Self::Stop(ended_by(error)),
        }
    }
}

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
    shelves: BTreeMap<TopicPartition, Shelf>,
    /// When to read again, after how many failures in a row.
    rewind: Option<Timestamp>,
    failures: u32,
    tick: Timestamp,
}

enum Turn {
    Event(Result<Event, LogError>),
    Stop,
    Work,
}

impl<'a, W: Work> Driver<'a, W> {
    pub(crate) fn new(
        options: &'a ConsumerOptions,
        log: &Arc<dyn Log>,
        consumer: Box<dyn LogConsumer>,
        work: W,
    ) -> Self {
        let meter = Meter::new(W::CLASS, &options.group);
        let lag = Lag::new(Arc::clone(log), Arc::clone(&options.clock), meter.clone());
        let tick = options.clock.now().after(options.commit_every);
        let shelves = BTreeMap::new();
        Self { options, consumer, work, meter, lag, shelves, rewind: None, failures: 0, tick }
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
                () = rest => Turn::Work,
            };
            match turn {
                Turn::Stop => break,
                Turn::Event(event) => self.react(event).await?,
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
        for shelf in self.shelves.values() {
            match shelf.offer(now) {
                Offer::Nothing(until) => wake = wake.min(until.unwrap_or(wake)),
                Offer::Alone | Offer::Many(_) => return Duration::ZERO,
            }
        }
        wake.since(now)
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
        match self.pick(now) {
            Pick::Alone(partition) => self.try_alone(&partition).await,
            Pick::Batch(batch) if batch.is_empty() => Ok(()),
            Pick::Batch(batch) => self.try_batch(batch).await,
        }
    }

    /// Takes the records of the next batch off their shelves.
    fn pick(&mut self, now: Timestamp) -> Pick {
        let mut offers = Vec::new();
        for (partition, shelf) in &mut self.shelves {
            match shelf.offer(now) {
                Offer::Alone => return Pick::Alone(partition.clone()),
                Offer::Many(count) => offers.push((shelf, count)),
                Offer::Nothing(_) => {}
            }
        }
        // An equal share for each, so that a long backlog does not starve the others.
        let share = self.options.batch_max.div_ceil(offers.len().max(1));
        let mut batch = Vec::new();
        for (shelf, count) in offers {
            let room = self.options.batch_max - batch.len();
            batch.extend(shelf.records.drain(..count.min(share).min(room)));
        }
        Pick::Batch(batch)
    }

    async fn try_batch(&mut self, batch: Vec<Arc<Record>>) -> Result<(), Error> {
        let done = self.work.process(&mut *self.consumer, &batch).await;
        match done {
            Ok(done) => {
                for record in &batch {
                    self.finish(record);
                }
                self.succeeded(batch.len(), done).await
            }
            Err(problem) => {
                for record in batch.iter().rev() {
                    if let Some(shelf) = self.shelves.get_mut(&record.partition) {
                        shelf.records.push_front(Arc::clone(record));
                    }
                }
                self.failed(problem, &batch)
            }
        }
    }

    fn finish(&mut self, record: &Record) {
        if let Some(shelf) = self.shelves.get_mut(&record.partition) {
            shelf.finish(record.offset);
        }
    }

    async fn succeeded(&mut self, count: usize, done: Done) -> Result<(), Error> {
        self.failures = 0;
        self.meter.duplicates(done.duplicates);
        self.meter.handled(count.saturating_sub(done.duplicates));
        self.resume_if_there_is_room().await
    }

    fn failed(&mut self, problem: Problem, batch: &[Arc<Record>]) -> Result<(), Error> {
        match problem {
            Problem::Stop(error) => Err(error),
            Problem::Again(error) => {
                self.plan_to_read_again(&*error);
                Ok(())
            }
            Problem::Rejected { index, rejected } => {
                let Some(record) = batch.get(index) else { return Ok(()) };
                self.put_to_trial(record, rejected);
                Ok(())
            }
        }
    }

    /// After a call to the group that failed nothing is certain.
    fn settle(&mut self, answer: Result<(), LogError>) -> Result<(), Error> {
        answer.or_else(|error| self.failed(error.into(), &[]))
    }

    fn put_to_trial(&mut self, record: &Record, rejected: Rejected) {
        let Some(shelf) = self.shelves.get_mut(&record.partition) else { return };
        let attempts = shelf.attempts(record.offset);
        let poison = &self.options.poison;
        let is_over = !rejected.is_passing || attempts >= poison.attempts_max;
        tracing::warn!(
            partition = %record.partition, offset = record.offset, attempts,
            reason = rejected.reason.name(), detail = rejected.detail, is_over,
            "a record was not handled"
        );
        let pause = if is_over { Duration::ZERO } else { poison.pause_after(attempts) };
        if !is_over {
            self.meter.retried(rejected.reason);
        }
        let not_before = self.options.clock.now().after(pause);
        let doomed = is_over.then_some(rejected);
        shelf.trial = Some(Trial { offset: record.offset, attempts, not_before, doomed });
    }

    async fn try_alone(&mut self, partition: &TopicPartition) -> Result<(), Error> {
        let Some(shelf) = self.shelves.get_mut(partition) else { return Ok(()) };
        let Some(record) = shelf.records.front().cloned() else { return Ok(()) };
        let trial = shelf.trial.as_ref();
        let Some(rejected) = trial.and_then(|trial| trial.doomed.clone()) else {
            shelf.records.pop_front();
            return self.try_batch(vec![record]).await;
        };
        let attempts = trial.map_or(1, |trial| trial.attempts);
        let Then::DeadLetter(topic) = &self.options.poison.then else {
            return self.stop(&record, &rejected).await;
        };
        let letter = letter(topic, &self.options.group, &record, &rejected, attempts);
        match self.work.bury(&mut *self.consumer, &record, letter).await {
            Ok(()) => {
                self.meter.dead_letter(rejected.reason);
                if let Some(shelf) = self.shelves.get_mut(partition) {
                    shelf.records.pop_front();
                    shelf.finish(record.offset);
                }
                self.failures = 0;
                Ok(())
            }
            Err(Problem::Rejected { rejected: refused, .. }) => {
                let why = format!("its dead letter was refused: {}", refused.detail);
                let rejected = Rejected { detail: why, ..rejected };
                self.stop(&record, &rejected).await
            }
            Err(problem) => self.failed(problem, &[record]),
        }
    }

    /// Nothing of this partition is handled any more.
    async fn stop(&mut self, record: &Record, rejected: &Rejected) -> Result<(), Error> {
        tracing::error!(
            partition = %record.partition, offset = record.offset,
            reason = rejected.reason.name(), detail = rejected.detail,
            "the partition stops before this record, because it cannot be handled; mend the cause \
             and restart this consumer, or choose dead letters"
        );
        if let Some(shelf) = self.shelves.get_mut(&record.partition) {
            shelf.is_stopped = true;
            shelf.records.clear();
        }
        self.meter.stopped(self.shelves.values().filter(|shelf| shelf.is_stopped).count());
        let paused = self.consumer.pause(vec![record.partition.clone()]).await;
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
            Err(problem) => return self.failed(problem, &[]),
        };
        let (mut positions, mut assigned) = (Vec::new(), Vec::new());
        for (partition, start) in partitions.iter().zip(starts) {
            let Some(shelf) = self.shelves.get_mut(partition) else { continue };
            shelf.records.clear();
            shelf.is_paused = false;
            if !shelf.is_assigned {
                assigned.push((partition.clone(), start));
            } else if let Some(next) = start.or(shelf.first) {
                // Without a position nothing was ever finished; what was read first is still first.
                positions.push(Position { partition: partition.clone(), next });
            }
        }
        let sought = async {
            self.assign(assigned).await?;
            self.consumer.seek(positions).await?;
            self.consumer.resume(partitions).await
        };
        match sought.await {
            Ok(()) => {
                self.rewind = None;
                Ok(())
            }
            Err(error) => self.settle(Err(error)),
        }
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

    async fn welcome(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Error> {
        for partition in &partitions {
            self.shelves.insert(partition.clone(), Shelf::default());
        }
        self.meter.assigned(self.shelves.len());
        match self.work.starts(&partitions).await {
            Ok(starts) => {
                let assigned = self.assign(partitions.into_iter().zip(starts).collect()).await;
                self.settle(assigned)
            }
            // Answered once it is known from where to read. Asking the group for its position
            // instead could wait for a transaction that this very member has left open.
            Err(problem) => self.failed(problem, &[]),
        }
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
        for partition in &partitions {
            self.shelves.remove(partition);
        }
        self.work.let_go(&partitions);
        self.meter.assigned(self.shelves.len());
        let unassigned = self.consumer.unassign(partitions).await;
        self.settle(unassigned)?;
        self.resume_if_there_is_room().await
    }

    async fn store(&mut self, records: Vec<Record>) -> Result<(), Error> {
        for record in records {
            let shelf = self.shelves.get_mut(&record.partition);
            let Some(shelf) = shelf.filter(|shelf| !shelf.is_stopped) else { continue };
            if self.rewind.is_some() {
                // They are read again, from here where nothing was ever finished.
                shelf.first.get_or_insert(record.offset);
            } else {
                shelf.put(Arc::new(record));
            }
        }
        self.meter.buffered(self.buffered());
        if !self.is_full() || self.rest().is_zero() {
            return Ok(());
        }
        let mut full = Vec::new();
        for (partition, shelf) in &mut self.shelves {
            if !shelf.records.is_empty() && !shelf.is_paused {
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
        self.shelves.values().map(|shelf| shelf.records.len()).sum()
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
    Batch(Vec<Arc<Record>>),
}
