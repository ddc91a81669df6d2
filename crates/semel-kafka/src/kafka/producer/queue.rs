//! Records on their way out, in their order, and what became of them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;
use rdkafka::{ClientConfig, ClientContext, Message};
use semel::{BoxFuture, Clock, SystemClock};
use tokio::sync::{Notify, oneshot};

use super::super::options::refused;
use super::super::release::release;
use super::super::{context, convert, fault};
use crate::log::{Delivered, LogError, LogErrorKind, Outgoing, TopicPartition};

pub(super) type Threaded = ThreadedProducer<Deliveries>;

/// How often a record that waits for room looks for it at the latest.
const ROOM: Duration = Duration::from_millis(10);

type Reply = oneshot::Sender<Result<Delivered, LogError>>;

/// A producer of librdkafka, and before it the records for which its queue has no room.
pub(super) struct Queue {
    /// Taken out only when it is dropped.
    producer: Option<Threaded>,
    shared: Arc<Shared>,
    is_transactional: bool,
    delivery_max: Duration,
}

struct Shared {
    state: Mutex<State>,
    /// How many records wait for room.
    waiting: AtomicUsize,
    room: Notify,
}

#[derive(Default)]
struct State {
    /// Why nothing works any more.
    poison: Option<String>,
    is_open: bool,
    /// Why the open transaction cannot be committed.
    failure: Option<String>,
    waiting: VecDeque<Waiting>,
    last: u64,
}

struct Waiting {
    number: u64,
    record: Outgoing,
    reply: Reply,
}

impl Queue {
    pub(super) fn new(
        config: &ClientConfig,
        is_transactional: bool,
        delivery_max: Duration,
    ) -> Result<Self, LogError> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
        });
        let context = Deliveries { shared: Arc::clone(&shared), is_transactional };
        let producer = config.create_with_context(context).map_err(|error| refused(&error))?;
        Ok(Self { producer: Some(producer), shared, is_transactional, delivery_max })
    }

    pub(super) fn producer(&self) -> Result<&Threaded, LogError> {
        let gone = || LogError::new(LogErrorKind::Fenced, "the producer is closed");
        self.producer.as_ref().ok_or_else(gone)
    }

    /// Queues a record behind those before it.
    pub(super) fn send(
        self: &Arc<Self>,
        record: Outgoing,
    ) -> BoxFuture<'static, Result<Delivered, LogError>> {
        let (reply, delivery) = oneshot::channel();
        match self.accept(record, reply) {
            Err(error) => {
                self.shared.note(&error);
                Box::pin(std::future::ready(Err(error)))
            }
            Ok(waiting) => Box::pin(Arc::clone(self).deliver(delivery, waiting)),
        }
    }

    /// The number under which the record waits for room, if it has to.
    fn accept(&self, record: Outgoing, reply: Reply) -> Result<Option<u64>, LogError> {
        convert::check_topic(&record.topic)?;
        let mut state = self.shared.lock();
        state.check()?;
        if self.is_transactional && !state.is_open {
            return Err(not_open());
        }
        let refused =
            if state.waiting.is_empty() { self.enqueue(&record, reply)? } else { Some(reply) };
        let Some(reply) = refused else {
            return Ok(None);
        };
        state.last += 1;
        let number = state.last;
        state.waiting.push_back(Waiting { number, record, reply });
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        Ok(Some(number))
    }

    /// Gives the reply back when there is no room.
    fn enqueue(&self, record: &Outgoing, reply: Reply) -> Result<Option<Reply>, LogError> {
        let ticket = Box::new(Ticket { topic: Arc::clone(&record.topic), reply });
        let native = BaseRecord {
            topic: &record.topic,
            partition: record.partition,
            payload: record.value.as_deref(),
            key: record.key.as_deref(),
            timestamp: record.timestamp.and_then(|it| i64::try_from(it.as_millis()).ok()),
            headers: convert::native_headers(&record.headers)?,
            delivery_opaque: ticket,
        };
        match self.producer()?.send(native) {
            Ok(()) => Ok(None),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), native)) => {
                Ok(Some(native.delivery_opaque.reply))
            }
            Err((error, _)) => {
                Err(fault::plain(&format!("take a record for {}", record.topic), error))
            }
        }
    }

    /// Moves records into librdkafka while it has room.
    fn advance(&self) {
        let mut state = self.shared.lock();
        while let Some(Waiting { number, record, reply }) = state.waiting.pop_front() {
            match self.enqueue(&record, reply) {
                Ok(None) => {
                    self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(Some(reply)) => {
                    state.waiting.push_front(Waiting { number, record, reply });
                    break;
                }
                Err(error) => {
                    // The reply is gone with the refused record; its future sees that.
                    self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                    state.fail(error.to_string());
                }
            }
        }
    }

    async fn deliver(
        self: Arc<Self>,
        mut delivery: oneshot::Receiver<Result<Delivered, LogError>>,
        waiting: Option<u64>,
    ) -> Result<Delivered, LogError> {
        if let Some(number) = waiting {
            let mut over = SystemClock.sleep(self.delivery_max);
            loop {
                let room = self.shared.room.notified();
                self.advance();
                if !self.shared.is_waiting(number) {
                    break;
                }
                tokio::select! {
                    result = &mut delivery => return settle(result),
                    () = room => {}
                    // librdkafka makes room only after it has told the last delivery.
                    () = SystemClock.sleep(ROOM) => {}
                    () = &mut over => return Err(self.give_up(number)),
                }
            }
        }
        let result = settle(delivery.await);
        // librdkafka says of the records of a fenced producer only that it dropped them.
        if result.is_err() { self.check().and(result) } else { result }
    }

    /// Fails when nothing works any more.
    fn check(&self) -> Result<(), LogError> {
        if let Some((code, reason)) = self.producer()?.client().fatal_error() {
            self.poison(format!("{code}: {reason}"));
        }
        self.shared.lock().check()
    }

    /// Takes a record out that found no room in time, and everything behind it: what came later
    /// must not overtake it.
    fn give_up(&self, number: u64) -> LogError {
        let mut state = self.shared.lock();
        let before = state.waiting.partition_point(|it| it.number < number);
        let left = state.waiting.split_off(before);
        self.shared.waiting.fetch_sub(left.len(), Ordering::Relaxed);
        let message = "the queue of librdkafka had no room for a record within \
                       `delivery.timeout.ms`; send fewer at once";
        state.fail(message.to_owned());
        let in_transaction = self.is_transactional;
        let kind = if in_transaction { LogErrorKind::Abortable } else { LogErrorKind::Unavailable };
        LogError::new(kind, message)
    }

    /// Remembers what an error means for what comes next.
    pub(super) fn note(&self, error: &LogError) {
        self.shared.note(error);
    }

    pub(super) fn poison(&self, why: String) {
        self.shared.lock().poison.get_or_insert(why);
    }

    pub(super) fn opened(&self) {
        let mut state = self.shared.lock();
        state.is_open = true;
        state.failure = None;
    }

    pub(super) fn closed(&self) {
        self.shared.lock().is_open = false;
    }

    /// Drops the records that never got into the transaction.
    pub(super) fn clear(&self) {
        let dropped = std::mem::take(&mut self.shared.lock().waiting);
        self.shared.waiting.fetch_sub(dropped.len(), Ordering::Relaxed);
        drop(dropped);
        self.shared.room.notify_waiters();
    }

    pub(super) fn is_open(&self) -> Result<bool, LogError> {
        self.check()?;
        Ok(self.shared.lock().is_open)
    }

    pub(super) fn check_open(&self) -> Result<(), LogError> {
        if self.is_open()? { Ok(()) } else { Err(not_open()) }
    }

    pub(super) fn check_closed(&self) -> Result<(), LogError> {
        if !self.is_transactional {
            let message = "the producer has no transactional id; set \
                           `ProducerSettings::transactional_id` for transactions";
            return Err(LogError::new(LogErrorKind::Invalid, message));
        }
        if self.is_open()? {
            let message = "a transaction is open; commit or abort it before the next one";
            return Err(LogError::new(LogErrorKind::Invalid, message));
        }
        Ok(())
    }

    /// Whether the open transaction holds all that it should hold.
    pub(super) fn check_whole(&self) -> Result<(), LogError> {
        self.check_open()?;
        let state = self.shared.lock();
        if let Some(failure) = &state.failure {
            let message = format!("the transaction is incomplete; abort it: {failure}");
            return Err(LogError::new(LogErrorKind::Abortable, message));
        }
        if !state.waiting.is_empty() {
            let message = "records still wait for room; await their deliveries before a commit";
            return Err(LogError::new(LogErrorKind::Abortable, message));
        }
        Ok(())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            release(producer);
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_waiting(&self, number: u64) -> bool {
        self.lock().waiting.binary_search_by_key(&number, |it| it.number).is_ok()
    }

    fn note(&self, error: &LogError) {
        let mut state = self.lock();
        match error.kind() {
            LogErrorKind::Fenced | LogErrorKind::Indefinite => {
                state.poison.get_or_insert(error.to_string());
            }
            LogErrorKind::Abortable | LogErrorKind::Invalid => state.fail(error.to_string()),
            LogErrorKind::Unavailable => {}
        }
    }
}

impl State {
    fn check(&self) -> Result<(), LogError> {
        let Some(why) = &self.poison else {
            return Ok(());
        };
        let message = format!("the producer cannot be used any more; make a new one: {why}");
        Err(LogError::new(LogErrorKind::Fenced, message))
    }

    fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }
}

fn not_open() -> LogError {
    LogError::new(LogErrorKind::Invalid, "no transaction is open; begin one first")
}

fn settle(
    result: Result<Result<Delivered, LogError>, oneshot::error::RecvError>,
) -> Result<Delivered, LogError> {
    result.unwrap_or_else(|_| {
        let message = "a record left the queue undelivered: it was refused, a record before it \
                       found no room, or the transaction was aborted";
        Err(LogError::new(LogErrorKind::Abortable, message))
    })
}

/// Hears from librdkafka what became of each record.
pub(super) struct Deliveries {
    shared: Arc<Shared>,
    is_transactional: bool,
}

/// Who waits for a delivery.
pub(super) struct Ticket {
    topic: Arc<str>,
    reply: Reply,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::write_log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        context::write_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let Ticket { topic, reply } = *ticket;
        let result = match result {
            Ok(message) => {
                let partition = TopicPartition { topic, partition: message.partition() };
                Ok(Delivered { partition, offset: message.offset() })
            }
            Err((error, _)) => {
                let error = fault::delivery(self.is_transactional, error.clone());
                self.shared.note(&error);
                Err(error)
            }
        };
        // Whoever stopped waiting has decided to do without the answer.
        drop(reply.send(result));
        if self.shared.waiting.load(Ordering::Relaxed) > 0 {
            self.shared.room.notify_waiters();
        }
    }
}
