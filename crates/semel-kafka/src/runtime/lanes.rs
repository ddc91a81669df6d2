//! Records in lanes: each lane in order, lanes side by side.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use semel::{BoxFuture, Error, Timestamp};
use tokio::task::{Id, JoinError, JoinSet};

use super::entry::Entry;
use super::lag::Lag;
use super::retries::{self, Gate, Retries};
use super::shelf::Leaving;
use super::{Meter, ended_by, leave};
use crate::failpoint;
use crate::log::{
    Delivered, Event, Log, LogConsumer, LogError, LogErrorKind, Outgoing, Position, Record,
    TopicPartition,
};
use crate::options::{ConsumerOptions, Order};
use crate::rejected::{Reason, Rejected, Then, letter};

/// How often it is said that records wait.
const WORD_EVERY: Duration = Duration::from_secs(10);

/// What became of a record.
#[derive(Debug)]
pub(crate) enum Ran {
    Handled,
    Duplicate,
    /// A letter was written.
    Posted(Delivered),
    /// It has to wait for something that is not its own fault.
    Wait {
        why: String,
        pause: Duration,
    },
    Rejected(Rejected),
}

/// What lanes run.
pub(crate) trait Job: Send + Sync + 'static {
    const CLASS: &'static str;

    /// Handles a record. Never panics over a handler's panic.
    fn handle(&self, record: Arc<Record>) -> BoxFuture<'static, Ran>;

    /// Writes a letter; a refusal is final.
    fn post(&self, letter: Outgoing) -> BoxFuture<'static, Ran>;
}

/// In what order a record has to be handled with others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LaneKey {
    partition: TopicPartition,
    within: Within,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Within {
    Alone(i64),
    Key(Bytes),
    Partition,
}

#[derive(Debug, Default)]
struct Lane {
    /// The first one is the one that runs or waits.
    records: VecDeque<Entry>,
    /// How often the first one was tried here.
    attempts: u32,
    leaving: Option<Leaving>,
    is_running: bool,
}

impl Lane {
    /// How often the first one was tried in all.
    fn attempts(&self) -> u32 {
        self.records.front().map_or(0, |entry| entry.attempts) + self.attempts
    }
}

/// How far a partition is.
#[derive(Debug, Default)]
struct Part {
    pending: BTreeSet<i64>,
    /// Behind the last record that was read.
    read: Option<i64>,
    committed: Option<i64>,
    /// The group knows that it is read.
    is_assigned: bool,
    is_paused: bool,
    is_stopped: bool,
    /// It is a partition of a retry topic.
    is_companion: bool,
}

impl Part {
    /// Everything before it is finished.
    fn position(&self) -> Option<i64> {
        self.pending.first().copied().or(self.read)
    }

    fn ahead(&self) -> usize {
        let first = self.pending.first().copied().or(self.read).unwrap_or(0);
        usize::try_from(self.read.unwrap_or(0) - first).unwrap_or(0)
    }
}

/// Reads, hands out records to lanes, commits what is contiguous, and answers the group.
pub(crate) struct Lanes<'a, J> {
    options: &'a ConsumerOptions,
    consumer: Box<dyn LogConsumer>,
    job: Arc<J>,
    meter: Meter,
    lag: Lag,
    retries: Option<Retries>,
    parts: BTreeMap<TopicPartition, Part>,
    lanes: HashMap<LaneKey, Lane>,
    ready: VecDeque<LaneKey>,
    waiting: BTreeSet<(Timestamp, u64)>,
    sleepers: HashMap<u64, LaneKey>,
    /// Lanes that can go neither on nor to the retry topic; every change of it lets them look.
    held: Vec<LaneKey>,
    running: JoinSet<Ran>,
    seats: HashMap<Id, (LaneKey, Entry)>,
    buffered: usize,
    next_sleeper: u64,
    next_word: Timestamp,
    tick: Timestamp,
}

enum Turn {
    Ended(Option<Result<(Id, Ran), JoinError>>),
    Event(Result<Event, LogError>),
    Parked(Result<Vec<Entry>, LogError>),
    Stop,
    Wake,
}

impl<'a, J: Job> Lanes<'a, J> {
    pub(crate) fn new(
        options: &'a ConsumerOptions,
        log: &Arc<dyn Log>,
        consumer: Box<dyn LogConsumer>,
        job: J,
    ) -> Result<Self, Error> {
        let meter = Meter::new(J::CLASS, &options.group);
        Ok(Self {
            retries: Retries::new(options, log)?,
            lag: Lag::new(Arc::clone(log), Arc::clone(&options.clock), meter.clone()),
            meter,
            tick: options.clock.now().after(options.commit_every),
            options,
            consumer,
            job: Arc::new(job),
            parts: BTreeMap::new(),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            sleepers: HashMap::new(),
            held: Vec::new(),
            running: JoinSet::new(),
            seats: HashMap::new(),
            buffered: 0,
            next_sleeper: 0,
            next_word: Timestamp::default(),
        })
    }

    /// Runs until `until` completes; then waits for what runs, commits and leaves.
    pub(crate) async fn run(mut self, until: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let mut until = std::pin::pin!(until);
        loop {
            self.start();
            let now = self.options.clock.now();
            let wake = self.waiting.first().map_or(self.tick, |(wake, _)| self.tick.min(*wake));
            let look = self.retries.as_ref().and_then(Retries::wake);
            let wake = wake.min(look.unwrap_or(wake));
            let rest = self.options.clock.sleep(wake.since(now));
            let turn = tokio::select! {
                biased;
                () = &mut until => Turn::Stop,
                ended = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    Turn::Ended(ended)
                }
                event = self.consumer.next() => Turn::Event(event),
                parked = retries::next(&mut self.retries) => Turn::Parked(parked),
                () = rest => Turn::Wake,
            };
            match turn {
                Turn::Stop => break,
                Turn::Ended(ended) => self.ended(ended).await?,
                Turn::Event(event) => self.react(event).await?,
                Turn::Parked(Ok(entries)) => self.store_parked(entries),
                Turn::Parked(Err(error)) => self.react(Err(error)).await?,
                Turn::Wake => self.wake().await?,
            }
        }
        let all: Vec<_> = self.parts.keys().cloned().collect();
        self.drain(&all).await?;
        self.commit(&all).await;
        leave(self.consumer).await;
        Ok(())
    }

    /// Starts what may run.
    fn start(&mut self) {
        while self.running.len() < self.options.concurrency {
            let Some(key) = self.ready.pop_front() else { return };
            let Some(lane) = self.lanes.get_mut(&key).filter(|lane| !lane.is_running) else {
                continue;
            };
            let Some(entry) = lane.records.front().cloned() else { continue };
            let gate = self.retries.as_ref().map_or(Gate::Handle, |it| it.gate(&entry));
            let work = match (&lane.leaving, gate, &self.retries) {
                (None, Gate::Wait, _) => {
                    self.held.push(key);
                    continue;
                }
                (None, Gate::Follow, Some(retries)) => self.job.post(retries.following(&entry)),
                (Some(Leaving::Parked(rejected)), _, Some(retries)) => {
                    self.job.post(retries.letter(&entry, rejected, lane.attempts()))
                }
                (Some(Leaving::Doomed(rejected)), _, _)
                    if let Then::DeadLetter(topic) = &self.options.poison.then =>
                {
                    let (group, attempts) = (&self.options.group, lane.attempts());
                    self.job.post(letter(topic, group, &entry.record, rejected, attempts))
                }
                _ => self.job.handle(Arc::clone(&entry.record)),
            };
            lane.is_running = true;
            let task = self.running.spawn(work);
            self.seats.insert(task.id(), (key, entry));
        }
    }

    async fn wake(&mut self) -> Result<(), Error> {
        let now = self.options.clock.now();
        while let Some((wake, sleeper)) = self.waiting.first().copied()
            && wake <= now
        {
            self.waiting.pop_first();
            self.ready.extend(self.sleepers.remove(&sleeper));
        }
        if let Some(retries) = &mut self.retries {
            let looked = retries.look().await;
            self.passing(|_| Box::pin(async { looked })).await?;
        }
        if now >= self.tick {
            self.tick = now.after(self.options.commit_every);
            let all: Vec<_> = self.parts.keys().cloned().collect();
            self.commit(&all).await;
            let positions = self.parts.iter().map(|(it, part)| (it.clone(), part.position()));
            self.lag.look(positions.collect());
            self.meter.lanes(self.lanes.len(), self.running.len());
            self.assign().await?;
            self.resume_if_there_is_room().await?;
        }
        Ok(())
    }

    async fn ended(&mut self, ended: Option<Result<(Id, Ran), JoinError>>) -> Result<(), Error> {
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
    fn tell_of_waiting(&mut self, entry: &Entry, why: &str) {
        let now = self.options.clock.now();
        if now < self.next_word {
            return;
        }
        self.next_word = now.after(WORD_EVERY);
        tracing::warn!(partition = %entry.at, offset = entry.offset, why, "records wait");
    }

    async fn finish(&mut self, key: &LaneKey, entry: &Entry, ran: &Ran) -> Result<(), Error> {
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
    fn ready_at(&mut self, key: LaneKey, not_before: Timestamp) {
        let pause = not_before.since(self.options.clock.now());
        if pause.is_zero() {
            self.ready.push_back(key);
        } else {
            self.put_to_sleep(key, pause);
        }
    }

    async fn reject(
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
    async fn stop(
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

    fn put_to_sleep(&mut self, key: LaneKey, pause: Duration) {
        let wake = self.options.clock.now().after(pause);
        self.next_sleeper += 1;
        self.waiting.insert((wake, self.next_sleeper));
        self.sleepers.insert(self.next_sleeper, key);
    }

    /// Drops the lanes of a partition; what runs is not waited for.
    fn empty(&mut self, partition: &TopicPartition) {
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

    async fn react(&mut self, event: Result<Event, LogError>) -> Result<(), Error> {
        match event {
            Ok(Event::Assigned(partitions)) => {
                for partition in &partitions {
                    self.parts.insert(partition.clone(), Part::default());
                }
                for companion in self.companions(&partitions) {
                    let part = Part { is_companion: true, ..Part::default() };
                    self.parts.insert(companion, part);
                }
                self.meter.assigned(self.owned());
                self.assign().await
            }
            Ok(Event::Revoked(partitions)) => {
                failpoint::pass("kafka:revoked");
                let mut all = self.companions(&partitions);
                all.extend(partitions.iter().cloned());
                self.drain(&all).await?;
                self.commit(&all).await;
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
                self.options.clock.sleep(super::UNREACHED_PAUSE).await;
                Ok(())
            }
        }
    }

    /// Answers the group about the partitions of which it has not heard; done again with every
    /// tick.
    async fn assign(&mut self) -> Result<(), Error> {
        let taken = self.take().await;
        self.passing(|_| Box::pin(async { taken })).await?;
        let unheard = self.parts.iter().filter(|(_, part)| !part.is_assigned && !part.is_companion);
        let unheard: Vec<_> = unheard.map(|(partition, _)| (partition.clone(), None)).collect();
        if unheard.is_empty() {
            return Ok(());
        }
        match self.consumer.assign(unheard.clone()).await {
            Ok(()) => {
                for (partition, _) in unheard {
                    if let Some(part) = self.parts.get_mut(&partition) {
                        part.is_assigned = true;
                    }
                }
                Ok(())
            }
            Err(error) => self.passing(|_| Box::pin(async { Err(error) })).await,
        }
    }

    /// Begins to read the retry topics of partitions that are new here. Until that is done their
    /// records are held.
    async fn take(&mut self) -> Result<(), LogError> {
        let Some(retries) = &mut self.retries else { return Ok(()) };
        let new =
            self.parts.iter().filter(|(it, part)| !part.is_companion && !retries.is_taken(it));
        let sources: Vec<_> = new.map(|(partition, _)| partition.clone()).collect();
        if sources.is_empty() {
            return Ok(());
        }
        let companions = retries.companions(&sources);
        let starts = self.consumer.committed(companions).await?;
        retries.take(&sources, &starts).await?;
        self.ready.extend(self.held.drain(..));
        Ok(())
    }

    fn companions(&self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        self.retries.as_ref().map_or_else(Vec::new, |retries| retries.companions(partitions))
    }

    /// How many partitions the group has given to this member.
    fn owned(&self) -> usize {
        self.parts.values().filter(|part| !part.is_companion).count()
    }

    /// A call whose failure the next tick or the group's next event mends.
    async fn passing<'s>(
        &'s mut self,
        call: impl FnOnce(&'s mut Self) -> BoxFuture<'s, Result<(), LogError>>,
    ) -> Result<(), Error> {
        match call(self).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == LogErrorKind::Fenced => Err(ended_by(error)),
            Err(error) if error.kind() == LogErrorKind::Invalid => Err(ended_by(error)),
            Err(error) => {
                tracing::warn!(%error, "the group is not answered");
                Ok(())
            }
        }
    }

    async fn part_with(&mut self, partitions: Vec<TopicPartition>) -> Result<(), Error> {
        for partition in partitions.iter().chain(&self.companions(&partitions)) {
            self.empty(partition);
            self.parts.remove(partition);
        }
        if let Some(retries) = &mut self.retries {
            let parted = retries.let_go(&partitions).await;
            self.passing(|_| Box::pin(async { parted })).await?;
        }
        self.meter.assigned(self.owned());
        self.passing(|it| Box::pin(it.consumer.unassign(partitions))).await?;
        self.resume_if_there_is_room().await
    }

    async fn store(&mut self, records: Vec<Record>) -> Result<(), Error> {
        for record in records {
            if self.put(Entry::new(record)) {
                self.buffered += 1;
            }
        }
        self.meter.buffered(self.buffered);
        let is_full = self.buffered >= self.options.buffer_max;
        let mut full = Vec::new();
        for (partition, part) in &mut self.parts {
            let is_over = is_full && !part.pending.is_empty();
            let is_over = is_over || part.ahead() >= self.options.ahead_max;
            if !part.is_paused && !part.is_companion && is_over {
                part.is_paused = true;
                full.push(partition.clone());
            }
        }
        if full.is_empty() {
            return Ok(());
        }
        self.passing(|it| Box::pin(it.consumer.pause(full))).await
    }

    fn store_parked(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.put(entry);
        }
        // The end of a retry topic may have been told.
        self.ready.extend(self.held.drain(..));
    }

    /// Puts a record into its lane; false when it is not wanted.
    fn put(&mut self, entry: Entry) -> bool {
        let Some(part) = self.parts.get_mut(&entry.at) else { return false };
        if part.is_stopped || part.read.is_some_and(|read| entry.offset < read) {
            return false;
        }
        part.read = Some(entry.offset + 1);
        part.pending.insert(entry.offset);
        let (key, not_before) = (self.lane_of(&entry), entry.not_before);
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.records.push_back(entry);
        if lane.records.len() == 1 {
            self.ready_at(key, not_before);
        }
        true
    }

    fn lane_of(&self, entry: &Entry) -> LaneKey {
        let within = match (self.options.order, &entry.record.key) {
            (Order::Partition, _) => Within::Partition,
            (Order::Key, Some(key)) => Within::Key(key.clone()),
            (Order::Key, None) => Within::Alone(entry.offset),
        };
        LaneKey { partition: entry.at.clone(), within }
    }

    async fn resume_if_there_is_room(&mut self) -> Result<(), Error> {
        if self.buffered > self.options.buffer_max / 2 {
            return Ok(());
        }
        let has_room = |part: &&Part| part.ahead() <= self.options.ahead_max / 2;
        let waits = |part: &&Part| part.is_paused && !part.is_stopped;
        let waiting = self.parts.iter().filter(|(_, part)| waits(part) && has_room(part));
        let waiting: Vec<_> = waiting.map(|(partition, _)| partition.clone()).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        match self.consumer.resume(waiting.clone()).await {
            Ok(()) => {
                for partition in &waiting {
                    if let Some(part) = self.parts.get_mut(partition) {
                        part.is_paused = false;
                    }
                }
                Ok(())
            }
            Err(error) => self.passing(|_| Box::pin(async { Err(error) })).await,
        }
    }

    /// Waits for what runs in these partitions, for a while; starts nothing new in them.
    async fn drain(&mut self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let is_of = |key: &LaneKey| partitions.contains(&key.partition);
        self.ready.retain(|key| !is_of(key));
        self.held.retain(|key| !is_of(key));
        let over = self.options.clock.sleep(self.options.drain_max);
        let mut over = std::pin::pin!(over);
        while self.seats.values().any(|(key, _)| is_of(key)) {
            let ended = tokio::select! {
                biased;
                ended = self.running.join_next_with_id() => ended,
                () = &mut over => {
                    tracing::warn!(?partitions, "handlers still run after drain_max; going on");
                    return Ok(());
                }
            };
            self.ended(ended).await?;
            // Its end made the next one of its lane ready.
            self.ready.retain(|key| !is_of(key));
        }
        Ok(())
    }

    /// Commits up to where everything is finished.
    async fn commit(&mut self, partitions: &[TopicPartition]) {
        let mut positions = Vec::new();
        for partition in partitions {
            let Some(part) = self.parts.get(partition) else { continue };
            if let Some(next) = part.position().filter(|next| part.committed != Some(*next)) {
                positions.push(Position { partition: partition.clone(), next });
            }
        }
        if positions.is_empty() {
            return;
        }
        failpoint::pass("kafka:before_position");
        let committed = self.consumer.commit(positions.clone()).await;
        failpoint::pass("kafka:after_position");
        match committed {
            Ok(()) => {
                for Position { partition, next } in positions {
                    if let Some(part) = self.parts.get_mut(&partition) {
                        part.committed = Some(next);
                    }
                }
            }
            // What is read again is recognised.
            Err(error) => tracing::warn!(%error, "positions are committed later"),
        }
    }
}
