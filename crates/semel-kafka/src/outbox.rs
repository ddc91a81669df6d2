//! From a database into the log, exactly once.
//!
//! A handler or a request writes records into an outbox **in its own transaction** (with
//! `PostgresLedger::enqueue` or `SqliteLedger::enqueue`), so they exist if and only if its other
//! rows do. A [`Relay`] takes them to the log: each exactly once for readers of committed records,
//! in the order in which they were written.
//!
//! # How
//!
//! Rows are sealed into numbered batches by a committed write before they are sent. The Kafka
//! transaction that carries a batch also commits `number + 1` as the position of the group
//! `semel-outbox-NAME`. A relay that starts makes its transactional producer first, which ends
//! whatever an earlier relay left open, and then reads that position: a batch below it has arrived
//! and is only deleted, one at it has not and is sent again. Two relays of one outbox fence each
//! other; the later one works.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use semel::{Clock, Error, ErrorKind, SystemClock, Timestamp};

use crate::failpoint;
use crate::ledger::{Batch, OutboxTable};
use crate::log::{
    Header, Log, LogError, LogErrorKind, LogProducer, Position, ProducerSettings, TopicPartition,
};
use crate::runtime::ended_by;
use crate::transform::KEY_HEADER;

/// An idle relay writes its position again this often, because brokers forget the positions of
/// groups without members (after a week, unless `offsets.retention.minutes` says otherwise).
const KEEP_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The time-out of a transaction unless another one is set.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Takes records from an outbox to the log. See the [module's page](self).
pub struct Relay {
    log: Arc<dyn Log>,
    table: Arc<dyn OutboxTable>,
    outbox: String,
    anchor: TopicPartition,
    batch_max: usize,
    poll_every: Duration,
    transaction_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}

impl Relay {
    /// A relay for the outbox of this name. Nothing happens before [`run`](Self::run).
    ///
    /// The position of the relay is committed for partition 0 of `anchor`, a topic that exists as
    /// long as the outbox does; nothing is written into it.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for a name that is not 1 to 200 of `a-z A-Z 0-9 . _ -`.
    pub fn new(
        log: Arc<dyn Log>,
        table: Arc<dyn OutboxTable>,
        outbox: &str,
        anchor: &str,
    ) -> Result<Self, Error> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if outbox.is_empty() || outbox.len() > 200 || !outbox.bytes().all(is_fine) {
            let name = outbox.escape_debug();
            let message =
                format!("the outbox `{name}` is refused; take 1 to 200 of a-z A-Z 0-9 . _ -");
            return Err(Error::new(ErrorKind::Settings, message));
        }
        Ok(Self {
            log,
            table,
            outbox: outbox.to_owned(),
            anchor: TopicPartition::new(anchor, 0),
            batch_max: 500,
            poll_every: Duration::from_millis(200),
            transaction_timeout: TRANSACTION_TIMEOUT,
            clock: Arc::new(SystemClock),
        })
    }

    /// The most records in one transaction. Default: 500.
    #[must_use]
    pub fn batch_max(mut self, batch_max: usize) -> Self {
        self.batch_max = batch_max.max(1);
        self
    }

    /// How often an empty outbox is looked at. Default: every 200 ms.
    #[must_use]
    pub fn poll_every(mut self, poll_every: Duration) -> Self {
        self.poll_every = poll_every;
        self
    }

    /// How long a transaction may stay open before the log aborts it. Default: one minute.
    #[must_use]
    pub fn transaction_timeout(mut self, transaction_timeout: Duration) -> Self {
        self.transaction_timeout = transaction_timeout;
        self
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The group whose position tells which batches have arrived.
    #[must_use]
    pub fn group(&self) -> String {
        format!("semel-outbox-{}", self.outbox)
    }

    /// Relays until `until` completes. A log or a database that cannot be reached is waited for.
    ///
    /// **Cancellation:** dropping the future leaves a sealed batch to the next relay.
    ///
    /// # Errors
    /// [`ErrorKind::ClaimLost`] when another relay of this outbox has started;
    /// [`ErrorKind::Invalid`] names the row that the log refuses: nothing overtakes it, so mend or
    /// delete it; [`ErrorKind::Corrupt`] when the log has forgotten how far the relay was.
    pub async fn run(&self, until: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let mut until = std::pin::pin!(until);
        let mut pause = self.poll_every;
        loop {
            let failed = tokio::select! {
                biased;
                () = &mut until => return Ok(()),
                failed = self.relay(&mut pause) => failed,
            };
            match failed {
                Stopped::For(error) => return Err(error),
                Stopped::Fenced(error) => return Err(ended_by(error)),
                Stopped::ForNow(why) => {
                    tracing::warn!(outbox = self.outbox, why, ?pause, "the relay waits");
                    tokio::select! {
                        biased;
                        () = &mut until => return Ok(()),
                        () = self.clock.sleep(pause) => {}
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Relays with one producer, until it fails.
    async fn relay(&self, pause: &mut Duration) -> Stopped {
        let sent = async {
            let settings = ProducerSettings {
                transactional_id: Some(self.group()),
                transaction_timeout: Some(self.transaction_timeout),
            };
            let producer = self.log.producer(&settings).await?;
            failpoint::pass("kafka:after_takeover");
            let mut next = self.position().await?;
            let mut kept = self.clock.now();
            loop {
                failpoint::pass("kafka:before_seal");
                let batch = self.table.seal(&self.outbox, self.batch_max).await?;
                *pause = self.poll_every;
                match batch {
                    Some(batch) => {
                        self.deliver(&*producer, batch, &mut next).await?;
                        kept = self.clock.now();
                    }
                    None => {
                        self.keep(&*producer, next, &mut kept).await?;
                        let rest = self.clock.sleep(self.poll_every);
                        tokio::select! { () = self.table.changed() => {}, () = rest => {} }
                    }
                }
            }
        };
        let sent: Result<std::convert::Infallible, Stopped> = sent.await;
        match sent {
            Err(stopped) => stopped,
            Ok(never) => match never {},
        }
    }

    /// The batch that comes next, as the log says.
    async fn position(&self) -> Result<Option<i64>, LogError> {
        let anchor = std::slice::from_ref(&self.anchor);
        let known = self.log.committed(&self.group(), anchor).await?;
        Ok(known.first().copied().flatten())
    }

    async fn deliver(
        &self,
        producer: &dyn LogProducer,
        batch: Batch,
        next: &mut Option<i64>,
    ) -> Result<(), Stopped> {
        failpoint::pass("kafka:after_seal");
        let number = batch.number;
        match *next {
            Some(next) if number < next => {}
            Some(next) if number == next => self.send_in_time(producer, batch, Some(next)).await?,
            None if number == 0 => self.send_in_time(producer, batch, None).await?,
            known => return Err(self.out_of_turn(number, known).await),
        }
        *next = Some((*next).unwrap_or(0).max(number + 1));
        failpoint::pass("kafka:after_relay");
        Ok(self.table.discard(&self.outbox, number).await?)
    }

    /// Why a batch is not the one that comes after what this relay knows to be in the log.
    async fn out_of_turn(&self, number: i64, known: Option<i64>) -> Stopped {
        let position = match self.position().await {
            Ok(position) => position,
            Err(error) => return error.into(),
        };
        let (outbox, group, anchor) = (&self.outbox, self.group(), &self.anchor);
        if position > known {
            let message = format!("another relay of the outbox `{outbox}` has started");
            return Stopped::For(Error::new(ErrorKind::ClaimLost, message));
        }
        let message = format!(
            "batch {number} of the outbox `{outbox}` waits, but the group `{group}` is at \
             {position:?}: its position was lost. See whether the batch has arrived in the log; \
             then delete it from the outbox, or set the group's position on {anchor} to {number}"
        );
        Stopped::For(Error::new(ErrorKind::Corrupt, message))
    }

    /// The log aborts a transaction that is open for too long, and its producer cannot know that
    /// from another relay's start. Where nobody has sent the batch since, this one goes on.
    async fn send_in_time(
        &self,
        producer: &dyn LogProducer,
        batch: Batch,
        known: Option<i64>,
    ) -> Result<(), Stopped> {
        let begun = self.clock.now();
        let sent = self.send(producer, batch).await;
        let took = self.clock.now().since(begun);
        match sent {
            Err(Stopped::Fenced(error)) if took >= self.transaction_timeout => {
                if self.position().await? > known {
                    return Err(Stopped::Fenced(error));
                }
                let message = format!(
                    "a transaction was open for {took:?}, longer than transaction_timeout, and \
                     the log aborted it; take smaller batches or a longer time-out: {error}"
                );
                Err(Stopped::ForNow(message))
            }
            sent => sent,
        }
    }

    async fn send(&self, producer: &dyn LogProducer, batch: Batch) -> Result<(), Stopped> {
        let number = batch.number;
        failpoint::pass("kafka:before_transaction");
        producer.begin().await?;
        let sends = batch.records.into_iter().map(|(id, mut record)| {
            if record.headers.iter().all(|header| &*header.name != KEY_HEADER) {
                record.headers.push(Header::new(KEY_HEADER, id.clone()));
            }
            let sent = producer.send(record);
            async move { sent.await.map_err(|error| self.refused(&id, error)) }
        });
        // Collected first: the call queues a record, in order, and the future delivers it.
        let sends: Vec<_> = sends.collect();
        if let Err(stopped) = try_join_all(sends).await {
            if let Err(error) = producer.abort().await {
                tracing::debug!(%error, "the next producer ends the transaction");
            }
            return Err(stopped);
        }
        failpoint::pass("kafka:after_send");
        self.commit(producer, number + 1).await
    }

    async fn commit(&self, producer: &dyn LogProducer, next: i64) -> Result<(), Stopped> {
        let position = Position { partition: self.anchor.clone(), next };
        let outsider = self.log.outsider(&self.group())?;
        producer.send_positions(vec![position], &outsider).await?;
        failpoint::pass("kafka:before_commit");
        producer.commit().await?;
        failpoint::pass("kafka:after_commit");
        Ok(())
    }

    /// Keeps the log from forgetting the position of an idle relay.
    async fn keep(
        &self,
        producer: &dyn LogProducer,
        next: Option<i64>,
        kept: &mut Timestamp,
    ) -> Result<(), Stopped> {
        let Some(next) = next else { return Ok(()) };
        if self.clock.now().since(*kept) < KEEP_EVERY {
            return Ok(());
        }
        producer.begin().await?;
        self.commit(producer, next).await?;
        *kept = self.clock.now();
        Ok(())
    }

    fn refused(&self, id: &str, error: LogError) -> Stopped {
        if error.kind() != LogErrorKind::Invalid {
            return error.into();
        }
        let message = format!(
            "the log refuses row {id} of the outbox `{}`, and nothing may overtake it; mend or \
             delete the row: {error}",
            self.outbox
        );
        Stopped::For(Error::new(ErrorKind::Invalid, message).with_source(error))
    }
}

/// Why a producer's time is over.
enum Stopped {
    For(Error),
    Fenced(LogError),
    ForNow(String),
}

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        match error.kind() {
            LogErrorKind::Fenced => Self::Fenced(error),
            LogErrorKind::Invalid => Self::For(ended_by(error)),
            LogErrorKind::Abortable | LogErrorKind::Indefinite | LogErrorKind::Unavailable => {
                Self::ForNow(error.to_string())
            }
        }
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::OutcomeUnknown | ErrorKind::InFlight => {
                Self::ForNow(error.to_string())
            }
            _ => Self::For(error),
        }
    }
}
