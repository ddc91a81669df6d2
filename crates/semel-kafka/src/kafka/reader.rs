//! Reading without a group: a thread that owns the client, and a shelf between it and the async
//! side.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use semel::BoxFuture;
use tokio::sync::{Notify, oneshot};

use super::context::Logs;
use super::options::{KafkaOptions, refused};
use super::{convert, fault};
use crate::log::{LogError, LogErrorKind, LogReader, Position, Read, Record, TopicPartition};

/// How long librdkafka is asked at a time. A command waits that long at most.
const POLL: Duration = Duration::from_millis(5);
/// How long the thread sleeps without a signal.
const IDLE: Duration = Duration::from_millis(100);

type Client = BaseConsumer<Logs>;
type Reply = oneshot::Sender<Result<(), LogError>>;

pub(super) fn make(options: &Arc<KafkaOptions>) -> Result<Box<dyn LogReader>, LogError> {
    // Refuses what is wrong with it before there is a thread.
    options.reader()?;
    let desk = Arc::new(Desk {
        state: Mutex::default(),
        bell: Condvar::new(),
        news: Notify::new(),
        queued_max: options.queued_max,
        queued_bytes_max: options.queued_bytes_max,
    });
    start(Arc::clone(options), Arc::clone(&desk))?;
    Ok(Box::new(KafkaReader { desk }))
}

struct KafkaReader {
    desk: Arc<Desk>,
}

struct Desk {
    state: Mutex<State>,
    /// Wakes the thread.
    bell: Condvar,
    /// Wakes the async side.
    news: Notify,
    queued_max: usize,
    queued_bytes_max: usize,
}

#[derive(Default)]
struct State {
    commands: VecDeque<(Command, Reply)>,
    read: VecDeque<Item>,
    bytes: usize,
    error: Option<LogError>,
    is_closing: bool,
    is_ended: bool,
}

enum Command {
    Start(Vec<Position>),
    Stop(Vec<TopicPartition>),
}

enum Item {
    Record(Record),
    End(TopicPartition),
}

impl Item {
    fn partition(&self) -> &TopicPartition {
        match self {
            Self::Record(record) => &record.partition,
            Self::End(partition) => partition,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Record(record) => convert::weight(record),
            Self::End(_) => 0,
        }
    }
}

impl State {
    fn push(&mut self, item: Item) {
        self.bytes += item.weight();
        self.read.push_back(item);
    }

    fn strip(&mut self, partitions: &[TopicPartition]) {
        self.read.retain(|item| !partitions.contains(item.partition()));
        self.bytes = self.read.iter().map(Item::weight).sum();
    }

    fn take(&mut self) -> Option<Read> {
        let mut records = Vec::new();
        while let Some(item) = self.read.pop_front() {
            self.bytes -= item.weight();
            match item {
                Item::Record(record) => records.push(record),
                Item::End(partition) if records.is_empty() => return Some(Read::End(partition)),
                end @ Item::End(_) => {
                    self.read.push_front(end);
                    break;
                }
            }
        }
        (!records.is_empty()).then_some(Read::Records(records))
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, state: &State) -> bool {
        state.read.len() >= self.queued_max || state.bytes >= self.queued_bytes_max
    }

    /// Waits for something to do.
    fn wait(&self) {
        let is_idle = |state: &mut State| state.commands.is_empty() && !state.is_closing;
        drop(self.bell.wait_timeout_while(self.lock(), IDLE, is_idle));
    }

    fn tell(&self, item: Item) {
        self.lock().push(item);
        self.news.notify_one();
    }

    async fn next(&self) -> Result<Read, LogError> {
        loop {
            let news = self.news.notified();
            {
                let mut state = self.lock();
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                if let Some(read) = state.take() {
                    self.bell.notify_one();
                    return Ok(read);
                }
                if state.is_ended {
                    return Err(ended());
                }
            }
            news.await;
        }
    }

    fn ask(&self, command: Command) -> BoxFuture<'static, Result<(), LogError>> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        if !state.is_ended {
            state.commands.push_back((command, reply));
        }
        drop(state);
        self.bell.notify_one();
        Box::pin(async { answer.await.unwrap_or_else(|_| Err(ended())) })
    }
}

fn ended() -> LogError {
    LogError::new(LogErrorKind::Fenced, "the reader is closed; make a new one")
}

#[expect(clippy::disallowed_methods, reason = "dropping the reader ends the thread")]
fn start(options: Arc<KafkaOptions>, desk: Arc<Desk>) -> Result<(), LogError> {
    let thread = std::thread::Builder::new().name("semel-kafka-reader".to_owned());
    let spawned = thread.spawn(move || {
        let ending = Ending(&desk);
        Reading { options, desk: &desk, clients: BTreeMap::new() }.run();
        drop(ending);
    });
    spawned.map(|_| ()).map_err(|error| {
        let message = "the system gave no thread for a reader";
        LogError::new(LogErrorKind::Unavailable, message).with_source(error)
    })
}

/// Tells the async side that the thread is over, however it ended.
struct Ending<'a>(&'a Desk);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_ended = true;
        let commands = std::mem::take(&mut state.commands);
        drop(state);
        drop(commands);
        self.0.news.notify_one();
    }
}

/// The thread's side.
struct Reading<'a> {
    options: Arc<KafkaOptions>,
    desk: &'a Desk,
    /// One for each topic: librdkafka's word about an end carries only a partition's number.
    clients: BTreeMap<Arc<str>, Topic>,
}

struct Topic {
    client: Client,
    /// Whether the end of a partition has been told.
    partitions: BTreeMap<i32, bool>,
}

impl Reading<'_> {
    fn run(mut self) {
        let mut topics = convert::Topics::default();
        loop {
            let next = self.desk.lock().commands.pop_front();
            if let Some((command, reply)) = next {
                // Whoever stopped waiting for a reply has decided to do without it.
                drop(reply.send(self.serve(command)));
                continue;
            }
            let (is_closing, is_full) = {
                let state = self.desk.lock();
                (state.is_closing, self.desk.is_full(&state))
            };
            if is_closing {
                return;
            }
            let is_idle = self.clients.values().all(|topic| topic.partitions.is_empty());
            if is_full || is_idle {
                self.desk.wait();
                continue;
            }
            for (name, topic) in &mut self.clients {
                topic.read(name, self.desk, &mut topics);
            }
        }
    }

    fn serve(&mut self, command: Command) -> Result<(), LogError> {
        match command {
            Command::Stop(partitions) => self.stop(&partitions),
            Command::Start(positions) => {
                let partitions: Vec<_> = positions.iter().map(|it| it.partition.clone()).collect();
                self.stop(&partitions)?;
                positions.iter().try_for_each(|position| self.start(position))
            }
        }
    }

    fn stop(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        for partition in partitions {
            let Some(topic) = self.clients.get_mut(&partition.topic) else { continue };
            if topic.partitions.remove(&partition.partition).is_some() {
                let taken = topic.client.incremental_unassign(&convert::bare([partition])?);
                taken.map_err(|error| fault::plain("stop reading", error))?;
            }
        }
        self.desk.lock().strip(partitions);
        Ok(())
    }

    fn start(&mut self, position: &Position) -> Result<(), LogError> {
        let TopicPartition { topic, partition } = &position.partition;
        let list = convert::positions(std::slice::from_ref(position))?;
        let topic = match self.clients.entry(Arc::clone(topic)) {
            Entry::Occupied(topic) => topic.into_mut(),
            Entry::Vacant(free) => {
                let client = self.options.reader()?.create_with_context(Logs);
                let client = client.map_err(|error| refused(&error))?;
                free.insert(Topic { client, partitions: BTreeMap::new() })
            }
        };
        let given = topic.client.incremental_assign(&list);
        given.map_err(|error| fault::plain("start reading", error))?;
        topic.partitions.insert(*partition, false);
        Ok(())
    }
}

impl Topic {
    fn read(&mut self, name: &Arc<str>, desk: &Desk, topics: &mut convert::Topics) {
        match self.client.poll(POLL) {
            None => {}
            Some(Ok(message)) if !self.partitions.contains_key(&message.partition()) => {}
            Some(Ok(message)) => desk.tell(Item::Record(convert::record(&message, topics))),
            Some(Err(KafkaError::PartitionEOF(number))) => {
                if let Some(is_told @ false) = self.partitions.get_mut(&number) {
                    *is_told = true;
                    desk.tell(Item::End(TopicPartition::new(Arc::clone(name), number)));
                }
            }
            Some(Err(error)) => {
                desk.lock().error = Some(fault::plain("give records", error));
                desk.news.notify_one();
            }
        }
    }
}

impl LogReader for KafkaReader {
    fn next(&mut self) -> BoxFuture<'_, Result<Read, LogError>> {
        Box::pin(self.desk.next())
    }

    fn start(&mut self, positions: Vec<Position>) -> BoxFuture<'_, Result<(), LogError>> {
        self.desk.ask(Command::Start(positions))
    }

    fn stop(&mut self, partitions: Vec<TopicPartition>) -> BoxFuture<'_, Result<(), LogError>> {
        self.desk.ask(Command::Stop(partitions))
    }
}

/// The thread ends by itself.
impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.desk.lock().is_closing = true;
        self.desk.bell.notify_one();
    }
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaReader")
            .field("queued", &self.desk.lock().read.len())
            .finish_non_exhaustive()
    }
}
