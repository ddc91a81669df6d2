//! Consumers whose effect is in a database: id, effect and position in one transaction.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::try_join_all;
use semel::{BoxFuture, Error, ErrorKind};

use crate::failpoint;
use crate::identity::Identity;
use crate::ledger::{Ledger, Move, Owned, Sighting};
use crate::log::{
    Delivered, Log, LogConsumer, LogError, LogErrorKind, LogProducer, Outgoing, Position,
    ProducerSettings, Record, TopicPartition,
};
use crate::options::ConsumerOptions;
use crate::rejected::{Failed, Rejected};
use crate::runtime::{Batch, Done, Driver, Entry, Problem, Work, ended_by};
use crate::window::Window;

/// How many ids are forgotten in one go.
const FORGET_MAX: usize = 5_000;

/// A consumer whose handler writes into the ledger's own database.
///
/// **Guarantee:** while the ids are in the [`Window`], what the handler writes through its
/// transaction is there exactly once for each id, in the order of each partition, whatever crashes,
/// pauses, rebalances or is delivered again: the id, the handler's rows and the position are
/// committed together. What the handler does elsewhere (an HTTP call, say) is at least once; use
/// [`Guarded`](crate::Guarded) for that.
///
/// Records are handled one after the other, many in one transaction. When one of them fails, the
/// transaction is rolled back, the records before it are handled again and committed, and it is
/// tried alone. So a handler may run more often than its writes take effect.
///
/// Positions are read from the ledger when a partition comes; those in Kafka are for display only.
///
/// # Example
///
/// ```no_run
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// # use semel_kafka::ledger::Ledger;
/// # use semel_kafka::log::{Log, Record};
/// # use semel_kafka::{Clockwork, ConsumerOptions, Identity, Inbox, Poison, Refresh, Window};
/// # async fn example<L: Ledger>(log: Arc<dyn Log>, ledger: Arc<L>) -> Result<(), semel::Error> {
/// let week = Window::of(Duration::from_secs(7 * 86_400), Clockwork::Event, Refresh::Fixed)?;
/// let poison = Poison::dead_letter("orders.dead", 5);
/// let options = ConsumerOptions::new("billing", ["orders"], poison);
/// let inbox = Inbox::new(log, ledger, Identity::header("Idempotency-Key"), week, options)?;
/// inbox
///     .run(
///         |record, transaction| {
///             Box::pin(async move {
///                 // Write through `transaction`; an error undoes it.
///                 Ok(())
///             })
///         },
///         std::future::pending(),
///     )
///     .await
/// # }
/// ```
pub struct Inbox<L> {
    log: Arc<dyn Log>,
    ledger: Arc<L>,
    identity: Identity,
    window: Window,
    options: ConsumerOptions,
}

impl<L> fmt::Debug for Inbox<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What an [`Inbox`] does with a record. Every closure
/// `|record, transaction| Box::pin(async move { … })` is one.
///
/// Dropped in its middle or failed, whatever it wrote through the transaction is undone. It must
/// not end the transaction.
pub trait InboxHandler<T>: Send + Sync {
    /// Handles one record.
    fn handle<'a>(
        &'a self,
        record: &'a Record,
        transaction: &'a mut T,
    ) -> BoxFuture<'a, Result<(), Failed>>;
}

impl<T, F> InboxHandler<T> for F
where
    F: for<'a> Fn(&'a Record, &'a mut T) -> BoxFuture<'a, Result<(), Failed>> + Send + Sync,
{
    fn handle<'a>(
        &'a self,
        record: &'a Record,
        transaction: &'a mut T,
    ) -> BoxFuture<'a, Result<(), Failed>> {
        self(record, transaction)
    }
}

impl<L: Ledger> Inbox<L> {
    /// A consumer on this log and ledger. Nothing happens before [`run`](Self::run).
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] names the setting that is refused.
    pub fn new(
        log: Arc<dyn Log>,
        ledger: Arc<L>,
        identity: Identity,
        window: Window,
        options: ConsumerOptions,
    ) -> Result<Self, Error> {
        options.check()?;
        Ok(Self { log, ledger, identity, window, options })
    }

    /// Consumes until `until` completes: finishes the running transaction, then leaves the group.
    ///
    /// A database or a log that cannot be reached is waited for. **Cancellation:** dropping the
    /// future rolls the running transaction back and leaves the group.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] when the log refuses a setting; an error of the log that this member
    /// cannot go on after.
    pub async fn run<F>(
        &self,
        handler: F,
        until: impl Future<Output = ()> + Send,
    ) -> Result<(), Error>
    where
        F: for<'a> Fn(&'a Record, &'a mut L::Transaction) -> BoxFuture<'a, Result<(), Failed>>
            + Send
            + Sync,
    {
        self.run_with(handler, until).await
    }

    /// [`run`](Self::run) with a handler that is a type of its own.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_with<H: InboxHandler<L::Transaction>>(
        &self,
        handler: H,
        until: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        let consumer = self.log.consumer(&self.options.member()).map_err(ended_by)?;
        let work = Booking { inbox: self, handler, owned: BTreeMap::new(), letters: None };
        Driver::new(&self.options, &self.log, consumer, work)?.run(until).await
    }
}

/// The work of an inbox.
struct Booking<'a, L, H> {
    inbox: &'a Inbox<L>,
    handler: H,
    owned: BTreeMap<TopicPartition, Owned>,
    letters: Option<Arc<dyn LogProducer>>,
}

impl<L: Ledger, H: InboxHandler<L::Transaction>> Booking<'_, L, H> {
    /// How the positions move when this batch is finished.
    fn moves(&self, batch: &Batch) -> Result<Vec<Move>, Problem> {
        let moves = batch.positions().into_iter().map(|Position { partition, next }| {
            let owned = self.owned.get(&partition).cloned().ok_or_else(|| {
                Problem::Again(format!("{partition} is not known in the ledger yet").into())
            })?;
            Ok(Move { owned, next })
        });
        moves.collect()
    }

    fn moved(&mut self, moves: Vec<Move>) {
        for Move { mut owned, next } in moves {
            owned.next = Some(next);
            self.owned.insert(owned.partition.clone(), owned);
        }
    }

    fn sightings(&self, entries: &[Entry]) -> Result<Vec<Sighting>, Problem> {
        let sightings = entries.iter().enumerate().map(|(index, Entry { record, .. })| {
            let id = self.inbox.identity.of(record);
            let id = id.map_err(|rejected| Problem::Rejected { index, rejected })?;
            let partition = record.partition.clone();
            Ok(Sighting { id, partition, timestamp: record.timestamp })
        });
        sightings.collect()
    }

    /// Everything inside the transaction but its end.
    async fn fill(
        &self,
        transaction: &mut L::Transaction,
        batch: &Batch,
        moves: &[Move],
        sightings: &[Sighting],
    ) -> Result<Done, Problem> {
        let Inbox { ledger, window, options, .. } = self.inbox;
        ledger.advance(transaction, &options.group, moves).await.map_err(uncertain)?;
        if sightings.is_empty() {
            return Ok(Done::default());
        }
        let seen = ledger.remember(transaction, &options.group, window, sightings).await;
        let seen = seen.map_err(uncertain)?;
        failpoint::pass("kafka:after_remember");
        let mut duplicates = 0;
        for (index, Entry { record, .. }) in batch.handled.iter().enumerate() {
            if !seen.get(index).copied().unwrap_or(true) {
                duplicates += 1;
                continue;
            }
            let handled = AssertUnwindSafe(self.handler.handle(record, transaction));
            let handled = handled.catch_unwind().await;
            let failed = match handled {
                Ok(Ok(())) => continue,
                Ok(Err(failed)) => failed,
                Err(_) => Failed::retry("the handler panicked"),
            };
            return Err(Problem::Rejected { index, rejected: Rejected::of_handler(&failed) });
        }
        failpoint::pass("kafka:after_effect");
        Ok(Done { duplicates, delivered: Vec::new() })
    }

    /// Everything before the commit. The letters last: a crash behind them writes them again, and
    /// a batch that fails before them has written none.
    async fn prepare(
        &mut self,
        transaction: &mut L::Transaction,
        batch: &Batch,
        moves: &[Move],
        sightings: &[Sighting],
    ) -> Result<Done, Problem> {
        let done = self.fill(transaction, batch, moves, sightings).await?;
        let delivered = self.post(batch).await?;
        Ok(Done { delivered, ..done })
    }

    async fn post(&mut self, batch: &Batch) -> Result<Vec<Delivered>, Problem> {
        if batch.posted.is_empty() {
            return Ok(Vec::new());
        }
        let letters = match &self.letters {
            Some(letters) => Arc::clone(letters),
            None => {
                let made = self.inbox.log.producer(&ProducerSettings::default()).await?;
                Arc::clone(self.letters.insert(made))
            }
        };
        // One after the other for each key: were the first one lost and the second one not, the
        // second would be in front of it for good.
        let mut chains: HashMap<Chain, Vec<(usize, Outgoing)>> = HashMap::new();
        for (index, (entry, letter)) in batch.posted.iter().enumerate() {
            let key = entry.record.key.clone().ok_or(index);
            chains.entry(key).or_default().push((index, letter.clone()));
        }
        let chains = chains.into_values().map(|chain| send_in_turn(&*letters, chain));
        let sent = match try_join_all(chains).await {
            Ok(sent) => sent,
            Err((index, error)) => {
                self.letters = None;
                return Err(match error.kind() {
                    LogErrorKind::Invalid => Problem::Refused { index, detail: error.to_string() },
                    // Another producer may succeed; what arrived all the same is there twice.
                    _ => Problem::Again(error.into()),
                });
            }
        };
        let delivered: BTreeMap<usize, Delivered> = sent.into_iter().flatten().collect();
        failpoint::pass("kafka:after_letter");
        Ok(delivered.into_values().collect())
    }
}

impl<L: Ledger, H: InboxHandler<L::Transaction>> Work for Booking<'_, L, H> {
    const CLASS: &'static str = "inbox";
    const IS_DISPLAYED: bool = true;

    async fn starts(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, Problem> {
        let taken = self.inbox.ledger.take(&self.inbox.options.group, partitions).await;
        let taken = taken.map_err(uncertain)?;
        let starts = taken.iter().map(|owned| owned.next).collect();
        self.owned.extend(taken.into_iter().map(|owned| (owned.partition.clone(), owned)));
        Ok(starts)
    }

    async fn process(&mut self, _: &mut dyn LogConsumer, batch: &Batch) -> Result<Done, Problem> {
        let sightings = self.sightings(&batch.handled)?;
        let moves = self.moves(batch)?;
        let ledger = &self.inbox.ledger;
        failpoint::pass("kafka:before_transaction");
        let mut transaction = ledger.begin().await.map_err(uncertain)?;
        let done = match self.prepare(&mut transaction, batch, &moves, &sightings).await {
            Ok(done) => done,
            Err(problem) => {
                ledger.rollback(transaction).await;
                return Err(problem);
            }
        };
        failpoint::pass("kafka:before_commit");
        ledger.commit(transaction).await.map_err(uncertain)?;
        failpoint::pass("kafka:after_commit");
        self.moved(moves);
        Ok(done)
    }

    fn let_go(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.owned.remove(partition);
        }
    }

    async fn tidy(&mut self) {
        let Inbox { ledger, window, options, .. } = self.inbox;
        if let Err(error) = ledger.forget(&options.group, window, FORGET_MAX).await {
            tracing::debug!(%error, "old ids are forgotten later");
        }
    }
}

/// The records that must be written in one order: those of a key, or one without a key.
type Chain = Result<Bytes, usize>;

async fn send_in_turn(
    producer: &dyn LogProducer,
    chain: Vec<(usize, Outgoing)>,
) -> Result<Vec<(usize, Delivered)>, (usize, LogError)> {
    let mut delivered = Vec::with_capacity(chain.len());
    for (index, letter) in chain {
        let sent = producer.send(letter).await;
        delivered.push((index, sent.map_err(|error| (index, error))?));
    }
    Ok(delivered)
}

/// What an error of the ledger means for a consumer.
fn uncertain(error: Error) -> Problem {
    match error.kind() {
        ErrorKind::Settings | ErrorKind::TooNew | ErrorKind::Invalid => Problem::Stop(error),
        _ => Problem::Again(error.into()),
    }
}
