//! Records in lanes: each lane in order, lanes side by side.

mod endings;
mod group;

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
use super::{Meter, leave};
use crate::log::{Delivered, Event, Log, LogConsumer, LogError, Outgoing, Record, TopicPartition};
use crate::options::ConsumerOptions;
use crate::rejected::{Rejected, Then, letter};

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
}
