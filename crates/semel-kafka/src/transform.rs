//! Consumers whose effect is in the log: outputs and positions in one Kafka transaction.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::{FutureExt, StreamExt, stream};
use semel::{Error, ErrorKind, Key, Operation, RecordId, Tenant};

use crate::failpoint;
use crate::identity::Identity;
use crate::log::{
    Delivered, Header, Log, LogConsumer, LogError, LogErrorKind, LogProducer, Membership, Outgoing,
    ProducerSettings, Record, TopicPartition,
};
use crate::options::{ConsumerOptions, Order};
use crate::rejected::{Failed, Reason, Rejected};
use crate::runtime::{Batch, Done, Driver, Entry, Problem, Work, ended_by};

/// The header that carries the key of an operation through all doors.
pub const KEY_HEADER: &str = "Idempotency-Key";

/// The time-out of a transaction unless another one is set.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// A consumer whose handler turns a record into other records.
///
/// **Guarantee:** for everyone who reads committed records, the outputs of each record are there
/// exactly once, in the order of their inputs, whatever crashes, pauses, rebalances or is delivered
/// again: outputs, dead letters and positions are committed in one Kafka transaction. Two *records*
/// with one id are two inputs and give two sets of outputs; only a consumer that remembers ids, an
/// [`Inbox`](crate::Inbox) or a [`Guarded`](crate::Guarded) one, tells them apart. To let it, each
/// output carries an `Idempotency-Key` header that is derived from the input's id and the output's
/// number, and so is the same in every attempt.
///
/// The handler has to be free of other effects: it may run again and its outputs be dropped.
/// Handlers of different keys run side by side, up to
/// [`concurrency`](ConsumerOptions::concurrency).
pub struct Transform {
    log: Arc<dyn Log>,
    transactional_id: String,
    transaction_timeout: Duration,
    identity: Identity,
    operation: Operation,
    options: ConsumerOptions,
}

impl fmt::Debug for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transform")
            .field("transactional_id", &self.transactional_id)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Transform {
    /// A consumer on this log. Nothing happens before [`run`](Self::run).
    ///
    /// The transactional id must be one of this instance alone, and the same after a restart: with
    /// it a restarted instance ends what it left open. Two instances with one id stop each other.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] names the setting that is refused.
    pub fn new(
        log: Arc<dyn Log>,
        transactional_id: impl Into<String>,
        identity: Identity,
        options: ConsumerOptions,
    ) -> Result<Self, Error> {
        options.check()?;
        let transactional_id = transactional_id.into();
        if transactional_id.is_empty() || transactional_id.len() > 249 {
            let message = "the transactional id must have 1 to 249 characters";
            return Err(Error::new(ErrorKind::Settings, message));
        }
        let operation = Operation::new(&options.group)?;
        let transaction_timeout = TRANSACTION_TIMEOUT;
        Ok(Self { log, transactional_id, transaction_timeout, identity, operation, options })
    }

    /// How long a transaction may stay open before the log aborts it. Default: one minute. Handlers
    /// run outside of it.
    #[must_use]
    pub fn transaction_timeout(mut self, transaction_timeout: Duration) -> Self {
        self.transaction_timeout = transaction_timeout;
        self
    }

    /// Consumes until `until` completes: finishes the running transaction, then leaves the group.
    ///
    /// A log that cannot be reached is waited for. **Cancellation:** dropping the future leaves the
    /// group; an open transaction is aborted by the next instance with this id, or by its time-out.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when the log refuses a setting; [`ErrorKind::ClaimLost`] when
    /// another instance uses the transactional id.
    pub async fn run<F, Fut>(
        &self,
        handler: F,
        until: impl Future<Output = ()> + Send,
    ) -> Result<(), Error>
    where
        F: Fn(Arc<Record>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Vec<Outgoing>, Failed>> + Send,
    {
        let mut work = Turning { transform: self, handler, producer: None };
        // Before the first record is read: it ends what an earlier instance left open.
        work.ready_patiently().await?;
        let consumer = self.log.consumer(&self.options.member()).map_err(ended_by)?;
        Driver::new(&self.options, &self.log, consumer, work)?.run(until).await
    }
}

/// The work of a transform.
struct Turning<'a, F> {
    transform: &'a Transform,
    handler: F,
    producer: Option<Arc<dyn LogProducer>>,
}

impl<F, Fut> Turning<'_, F>
where
    F: Fn(Arc<Record>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Vec<Outgoing>, Failed>> + Send,
{
    async fn ready_patiently(&mut self) -> Result<(), Error> {
        let clock = &self.transform.options.clock;
        loop {
            match self.producer().await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == LogErrorKind::Invalid => return Err(ended_by(error)),
                Err(error) => {
                    tracing::warn!(%error, "the log does not make a producer yet");
                    clock.sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn producer(&mut self) -> Result<Arc<dyn LogProducer>, LogError> {
        if let Some(producer) = &self.producer {
            return Ok(Arc::clone(producer));
        }
        let settings = ProducerSettings {
            transactional_id: Some(self.transform.transactional_id.clone()),
            transaction_timeout: Some(self.transform.transaction_timeout),
        };
        let made = self.transform.log.producer(&settings).await?;
        Ok(Arc::clone(self.producer.insert(made)))
    }

    /// The outputs of each record.
    async fn outputs(&self, entries: &[Entry]) -> Result<Vec<Vec<Outgoing>>, Problem> {
        let mut lanes: Vec<Vec<(usize, Arc<Record>)>> = Vec::new();
        let mut lane_of: HashMap<(&TopicPartition, Option<&Bytes>), usize> = HashMap::new();
        for (index, Entry { at, record, .. }) in entries.iter().enumerate() {
            let key = record.key.as_ref();
            let lane = match (self.transform.options.order, key) {
                // Without a key there is no order to keep.
                (Order::Key, None) => lanes.len(),
                (Order::Key, _) => *lane_of.entry((at, key)).or_insert(lanes.len()),
                (Order::Partition, _) => *lane_of.entry((at, None)).or_insert(lanes.len()),
            };
            if lane == lanes.len() {
                lanes.push(Vec::new());
            }
            lanes[lane].push((index, Arc::clone(record)));
        }
        let runs = lanes.into_iter().map(|lane| self.run_lane(lane));
        let concurrency = self.transform.options.concurrency;
        let mut ran = stream::iter(runs).buffer_unordered(concurrency);
        let mut outputs = vec![Vec::new(); entries.len()];
        let mut failed: Option<(usize, Rejected)> = None;
        while let Some(lane) = ran.next().await {
            for (index, result) in lane {
                match result {
                    Ok(made) => outputs[index] = made,
                    Err(rejected) if failed.as_ref().is_none_or(|(first, _)| index < *first) => {
                        failed = Some((index, rejected));
                    }
                    Err(_) => {}
                }
            }
        }
        match failed {
            None => Ok(outputs),
            Some((index, rejected)) => Err(Problem::Rejected { index, rejected }),
        }
    }

    async fn run_lane(
        &self,
        lane: Vec<(usize, Arc<Record>)>,
    ) -> Vec<(usize, Result<Vec<Outgoing>, Rejected>)> {
        let mut results = Vec::with_capacity(lane.len());
        for (index, record) in lane {
            let result = self.run_one(record).await;
            let is_over = result.is_err();
            results.push((index, result));
            if is_over {
                break;
            }
        }
        results
    }

    async fn run_one(&self, record: Arc<Record>) -> Result<Vec<Outgoing>, Rejected> {
        let id = self.transform.identity.of(&record)?;
        let handled = AssertUnwindSafe((self.handler)(record)).catch_unwind().await;
        let handled = handled.unwrap_or_else(|_| Err(Failed::retry("the handler panicked")));
        let mut outputs = handled.map_err(|failed| Rejected::of_handler(&failed))?;
        self.name(&id, &mut outputs)?;
        Ok(outputs)
    }

    /// Gives outputs the keys by which whoever reads them can recognise them.
    fn name(&self, id: &str, outputs: &mut [Outgoing]) -> Result<(), Rejected> {
        let key = Key::parse(id);
        let key = key.map_err(|error| Rejected::at_once(Reason::MissingId, error.to_string()))?;
        let operation = self.transform.operation.clone();
        let parent = RecordId { tenant: Tenant::single(), operation, key };
        for (number, output) in outputs.iter_mut().enumerate() {
            if output.headers.iter().all(|header| &*header.name != KEY_HEADER) {
                let key = Key::derived(&parent, &number.to_string());
                output.headers.push(Header::new(KEY_HEADER, key.as_str().to_owned()));
            }
        }
        Ok(())
    }

    /// One transaction with these outputs and positions.
    async fn transact(
        &mut self,
        outputs: Vec<Vec<Outgoing>>,
        batch: &Batch,
        membership: &Membership,
    ) -> Result<Vec<Delivered>, Problem> {
        let producer = self.producer().await?;
        let begun = self.transform.options.clock.now();
        match write(&*producer, outputs, batch, membership).await {
            Ok(delivered) => Ok(delivered),
            Err((about, error)) => {
                let took = self.transform.options.clock.now().since(begun);
                Err(self.give_up(&*producer, about, error, took).await)
            }
        }
    }

    async fn give_up(
        &mut self,
        producer: &dyn LogProducer,
        about: About,
        error: LogError,
        took: Duration,
    ) -> Problem {
        match error.kind() {
            LogErrorKind::Indefinite => {
                // What is still on its way is fenced by the next producer.
                self.producer = None;
                return Problem::Again(error.into());
            }
            LogErrorKind::Fenced if took >= self.transform.transaction_timeout => {
                self.producer = None;
                let message = format!(
                    "the transaction was open for {took:?}, longer than transaction_timeout, and \
                     the log aborted it; take smaller batches or a longer time-out: {error}"
                );
                return Problem::Again(message.into());
            }
            LogErrorKind::Fenced => {
                let id = &self.transform.transactional_id;
                let message = format!(
                    "another instance uses the transactional id `{id}`; give each its own: {error}"
                );
                return Problem::Stop(Error::new(ErrorKind::ClaimLost, message));
            }
            LogErrorKind::Abortable | LogErrorKind::Invalid | LogErrorKind::Unavailable => {}
        }
        if let Err(failed) = producer.abort().await {
            tracing::warn!(error = %failed, "a transaction was not aborted; its producer goes");
            self.producer = None;
        }
        match (error.kind(), about) {
            (LogErrorKind::Invalid, About::Output(index)) => {
                let rejected = Rejected::at_once(Reason::OutputRefused, error.to_string());
                Problem::Rejected { index, rejected }
            }
            (LogErrorKind::Invalid, About::Letter(index)) => {
                Problem::Refused { index, detail: error.to_string() }
            }
            _ => error.into(),
        }
    }
}

/// What an error of a transaction is about.
#[derive(Clone, Copy, Debug)]
enum About {
    Whole,
    /// An output of the record with this number.
    Output(usize),
    Letter(usize),
}

/// The calls of a transaction. Answers where the letters are.
async fn write(
    producer: &dyn LogProducer,
    outputs: Vec<Vec<Outgoing>>,
    batch: &Batch,
    membership: &Membership,
) -> Result<Vec<Delivered>, (About, LogError)> {
    let whole = |error| (About::Whole, error);
    failpoint::pass("kafka:before_transaction");
    producer.begin().await.map_err(whole)?;
    let outputs = outputs.into_iter().enumerate();
    let outputs = outputs
        .flat_map(|(index, made)| made.into_iter().map(move |it| (About::Output(index), it)));
    let letters = batch.letters().enumerate().map(|(index, it)| (About::Letter(index), it));
    let sends = outputs.chain(letters).map(|(about, record)| {
        let sent = producer.send(record);
        async move { sent.await.map_err(|error| (about, error)) }
    });
    // Collected first: a record is queued by the call, in order, and delivered by the future.
    let sends: Vec<_> = sends.collect();
    let mut delivered = try_join_all(sends).await?;
    failpoint::pass("kafka:after_send");
    producer.send_positions(batch.positions(), membership).await.map_err(whole)?;
    failpoint::pass("kafka:after_positions");
    failpoint::pass("kafka:before_commit");
    producer.commit().await.map_err(whole)?;
    failpoint::pass("kafka:after_commit");
    Ok(delivered.split_off(delivered.len() - batch.posted.len()))
}

impl<F, Fut> Work for Turning<'_, F>
where
    F: Fn(Arc<Record>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Vec<Outgoing>, Failed>> + Send,
{
    const CLASS: &'static str = "transform";
    const IS_DISPLAYED: bool = false;

    async fn starts(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, Problem> {
        // It ends a transaction whose fate is open, so that the positions are decided.
        self.producer().await?;
        let Transform { log, options, .. } = self.transform;
        Ok(log.committed(&options.group, partitions).await?)
    }

    async fn process(
        &mut self,
        consumer: &mut dyn LogConsumer,
        batch: &Batch,
    ) -> Result<Done, Problem> {
        // Taken before the work: if the partitions are given to somebody else meanwhile, the
        // generation is a stale one and the log refuses the positions.
        let membership = consumer.membership().await?;
        let outputs = self.outputs(&batch.handled).await?;
        failpoint::pass("kafka:after_effect");
        let delivered = self.transact(outputs, batch, &membership).await?;
        Ok(Done { delivered, ..Done::default() })
    }

    fn let_go(&mut self, _: &[TopicPartition]) {}
}
