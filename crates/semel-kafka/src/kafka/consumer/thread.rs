//! The thread that owns the client: it polls, serves, and stays in the group.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use semel::{Clock, SystemClock, Timestamp};
use tokio::sync::oneshot;

use super::super::{convert, fault};
use super::desk::Desk;
use super::serve;
use super::turn::{Client, told};
use crate::log::{LogError, LogErrorKind, TopicPartition};

/// How long librdkafka is asked at a time. A command waits that long at most.
const POLL: Duration = Duration::from_millis(1);
/// How long the thread sleeps without a signal.
const IDLE: Duration = Duration::from_millis(100);
/// How long the queue may be full before partitions are paused, which drops what librdkafka has
/// fetched of them.
const FULL_MAX: Duration = Duration::from_millis(500);
/// How many records are read before commands are looked for.
const BATCH: usize = 100;

/// Starts the thread. It ends when the desk is closed, and says so.
#[expect(clippy::disallowed_methods, reason = "the consumer closes the desk, and that ends it")]
pub(super) fn start(consumer: Client) -> Result<oneshot::Receiver<()>, LogError> {
    let (end, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name("semel-kafka".to_owned());
    let spawned = thread.spawn(move || {
        let desk = Arc::clone(&consumer.context().desk);
        let ending = Ending(&desk);
        run(&consumer, &desk);
        // Leaves the group, which calls back once more.
        drop(consumer);
        drop(ending);
        // Nobody may wait for it.
        drop(end);
    });
    spawned.map_err(|error| {
        let message = "the system gave no thread for a consumer";
        LogError::new(LogErrorKind::Unavailable, message).with_source(error)
    })?;
    Ok(ended)
}

/// Tells the async side that the thread is over, however it ended.
struct Ending<'a>(&'a Desk);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = "the consumer met a record that librdkafka cannot read, such as one with \
                           a header name that is no UTF-8; skip it by hand";
            self.0.report(LogError::new(LogErrorKind::Invalid, message));
        }
        self.0.end();
    }
}

fn run(consumer: &Client, desk: &Desk) {
    let mut topics = convert::Topics::default();
    let mut full_since: Option<Timestamp> = None;
    loop {
        while let Some(command) = desk.command() {
            serve::serve(consumer, command);
        }
        if desk.lock().is_closing {
            return;
        }
        let is_full = desk.is_full();
        let is_held = consumer.context().is_held.load(Ordering::Relaxed);
        if !is_full {
            full_since = None;
        }
        if is_full && !is_held {
            let since = *full_since.get_or_insert_with(|| SystemClock.now());
            if SystemClock.now().since(since) >= FULL_MAX {
                report(desk, hold(consumer));
            } else {
                desk.nap(IDLE);
            }
            continue;
        }
        if is_held && !is_full {
            report(desk, release(consumer));
        }
        if !read(consumer, desk, &mut topics) {
            desk.nap(IDLE);
        }
    }
}

/// Reads what is there; false when there was nothing.
fn read(consumer: &Client, desk: &Desk, topics: &mut convert::Topics) -> bool {
    for _ in 0..BATCH {
        match consumer.poll(POLL) {
            Some(Ok(message)) => desk.push(convert::record(&message, topics)),
            Some(Err(error)) => failed(consumer, desk, error),
            None => return consumer.context().has_turned.swap(false, Ordering::Relaxed),
        }
        if desk.is_full() {
            break;
        }
    }
    true
}

fn failed(consumer: &Client, desk: &Desk, error: KafkaError) {
    match error.rdkafka_error_code() {
        // The loss that follows says it better.
        Some(RDKafkaErrorCode::PollExceeded) => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            desk.report(is_missing(consumer, error));
        }
        _ => desk.report(fault::plain("give records", error)),
    }
}

/// A topic may be made after its consumer, so that is no reason to end. librdkafka looks for it as
/// often as `topic.metadata.refresh.interval.ms` says.
fn is_missing(consumer: &Client, error: KafkaError) -> LogError {
    let topics = consumer.subscription().map(|list| convert::partitions(&list));
    let topics = topics.unwrap_or_default();
    let names: Vec<_> = topics.iter().map(|it| &*it.topic).collect();
    let which = match &*names {
        [name] => format!("the topic `{name}` does not exist"),
        names => format!("one of the topics {} does not exist", names.join(", ")),
    };
    let message = format!("{which}; create it or mend its name; it is looked for again");
    LogError::new(LogErrorKind::Unavailable, message).with_source(error)
}

fn report(desk: &Desk, result: Result<(), LogError>) {
    if let Err(error) = result {
        desk.report(error);
    }
}

/// Pauses everything, so that polling serves the group and nothing else.
fn hold(consumer: &Client) -> Result<(), LogError> {
    consumer.context().is_held.store(true, Ordering::Relaxed);
    let list = convert::bare(&places(consumer))?;
    told("pause partitions", consumer.pause(&list))
}

fn release(consumer: &Client) -> Result<(), LogError> {
    consumer.context().is_held.store(false, Ordering::Relaxed);
    serve::unpause(consumer, &places(consumer))
}

fn places(consumer: &Client) -> Vec<TopicPartition> {
    consumer.context().desk.lock().places.keys().cloned().collect()
}
