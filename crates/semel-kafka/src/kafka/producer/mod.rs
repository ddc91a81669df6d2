//! The producer: transactions one after the other, on threads that may block.

mod queue;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::producer::Producer;
use semel::{BoxFuture, Clock, SystemClock};
use tokio::sync::{Mutex, oneshot};

use self::queue::{Queue, Threaded};
use super::consumer::Member;
use super::convert;
use super::fault::{self, Step};
use super::options::{KafkaOptions, Times};
use crate::log::{
    Delivered, LogError, LogErrorKind, LogProducer, Membership, Outgoing, Position,
    ProducerSettings,
};

/// How much longer than it should a call of librdkafka may take before it is left alone: while a
/// group's coordinator is away, its own time-out does not hold.
const GRACE: Duration = Duration::from_secs(1);

/// Makes a producer; with a transactional id it takes it over first.
pub(super) async fn make(
    options: &KafkaOptions,
    settings: &ProducerSettings,
) -> Result<Arc<dyn LogProducer>, LogError> {
    let (config, times) = options.producer(settings)?;
    let is_transactional = settings.transactional_id.is_some();
    let init_max = options.request_max;
    let work = move || {
        let queue = Queue::new(&config, is_transactional, times.delivery)?;
        if is_transactional {
            let result = queue.producer()?.init_transactions(init_max);
            result.map_err(|error| fault::transactional(Step::Init, error))?;
        }
        Ok(queue)
    };
    let made = tokio::task::spawn_blocking(work).await;
    let queue = made.map_err(|_| {
        LogError::new(LogErrorKind::Unavailable, "the runtime stopped while a producer was made")
    })??;
    Ok(Arc::new(KafkaProducer { queue: Arc::new(queue), times, turn: Mutex::new(()) }))
}

/// Makes a call on a thread of its own. A runtime waits for its blocking threads when it ends, and
/// this call may take for ever.
#[expect(clippy::disallowed_methods, reason = "it ends with its call, or with the process")]
fn apart(call: impl FnOnce() + Send + 'static) -> Result<(), LogError> {
    let spawned = std::thread::Builder::new().name("semel-kafka-call".to_owned()).spawn(call);
    spawned.map(drop).map_err(|error| {
        let message = "the system gave no thread for a call of librdkafka";
        LogError::new(LogErrorKind::Abortable, message).with_source(error)
    })
}

struct KafkaProducer {
    queue: Arc<Queue>,
    times: Times,
    /// One call at a time: librdkafka refuses the second.
    turn: Mutex<()>,
}

impl KafkaProducer {
    /// Runs a call that may block. Whoever drops the future half-way leaves a producer behind
    /// whose state nobody knows.
    async fn run(
        &self,
        step: Step,
        work: impl FnOnce(&Threaded) -> rdkafka::error::KafkaResult<()> + Send + 'static,
    ) -> Result<(), LogError> {
        let mut left = Left { queue: &self.queue, step, is_done: false };
        let queue = Arc::clone(&self.queue);
        let (reply, answer) = oneshot::channel();
        let call = move || {
            let producer = queue.producer();
            let result = producer.and_then(|producer| {
                work(producer).map_err(|error| fault::transactional(step, error))
            });
            // Whoever stopped waiting has decided to do without the answer.
            drop(reply.send(result));
        };
        match step {
            Step::Positions => apart(call)?,
            _ => drop(tokio::task::spawn_blocking(call)),
        }
        // Dropping `left` says that nobody knows.
        let unknown = |why| {
            let message = format!("{why} on the way to {}", step.what());
            LogError::new(LogErrorKind::Indefinite, message)
        };
        let result = tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| unknown("the runtime stopped"))?,
            () = SystemClock.sleep(self.times.transaction + GRACE) => {
                return Err(unknown("librdkafka did not come back"));
            }
        };
        left.is_done = true;
        if let Err(error) = &result {
            self.queue.note(error);
        }
        result
    }

    async fn add_positions(
        &self,
        positions: Vec<Position>,
        membership: &Membership,
    ) -> Result<(), LogError> {
        let _turn = self.turn.lock().await;
        self.queue.check_open()?;
        let Some(member) = membership.get::<Member>() else {
            let message = "the membership is of another log; take it from a consumer of this one";
            return Err(LogError::new(LogErrorKind::Invalid, message));
        };
        if positions.is_empty() {
            return Ok(());
        }
        let list: TopicPartitionList = convert::positions(&positions)?;
        if let Err(error) = member.check(&positions) {
            self.queue.note(&error);
            return Err(error);
        }
        let metadata = Arc::clone(&member.metadata);
        let time = self.times.transaction;
        let work =
            move |producer: &Threaded| producer.send_offsets_to_transaction(&list, &metadata, time);
        self.run(Step::Positions, work).await
    }
}

impl LogProducer for KafkaProducer {
    fn begin(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async {
            let _turn = self.turn.lock().await;
            self.queue.check_closed()?;
            self.run(Step::Begin, Producer::begin_transaction).await?;
            self.queue.opened();
            Ok(())
        })
    }

    fn send(&self, record: Outgoing) -> BoxFuture<'static, Result<Delivered, LogError>> {
        self.queue.send(record)
    }

    fn send_positions<'a>(
        &'a self,
        positions: Vec<Position>,
        membership: &'a Membership,
    ) -> BoxFuture<'a, Result<(), LogError>> {
        Box::pin(self.add_positions(positions, membership))
    }

    fn commit(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async {
            let _turn = self.turn.lock().await;
            self.queue.check_whole()?;
            let time = self.times.transaction;
            self.run(Step::Commit, move |it: &Threaded| it.commit_transaction(time)).await?;
            self.queue.closed();
            Ok(())
        })
    }

    fn abort(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async {
            let _turn = self.turn.lock().await;
            if !self.queue.is_open()? {
                return Ok(());
            }
            self.queue.clear();
            let time = self.times.transaction;
            self.run(Step::Abort, move |it: &Threaded| it.abort_transaction(time)).await?;
            self.queue.closed();
            Ok(())
        })
    }
}

impl fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaProducer").field("times", &self.times).finish_non_exhaustive()
    }
}

/// Poisons a producer whose call was left half-way.
struct Left<'a> {
    queue: &'a Queue,
    step: Step,
    is_done: bool,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.queue.poison(format!("a call to {} was left half-way", self.step.what()));
        }
    }
}
