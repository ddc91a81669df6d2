//! Effect and record in one transaction.

use std::fmt;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use event_listener::{Event, IntoNotification};
use rusqlite::{Connection, Transaction};
use semel::store::{ClaimRequest, Claimed, Completion, Renewal};
use semel::{BoxFuture, Clock, Error, ErrorKind, Timestamp, TransactionalStore};

use super::SqliteStore;
use super::operation::Session;
use super::seat::{Place, Seat, file_at};
use super::worker::Worker;

/// How much of one transaction's work may wait behind what runs. Only callers that gave up
/// waiting leave anything there.
const QUEUE_MAX: usize = 64;

/// Connections for callers' transactions: made when first needed, kept for the next.
pub(super) struct Pool {
    place: Place,
    clock: Arc<dyn Clock>,
    max: usize,
    shared: Arc<Shared>,
}

struct Shared {
    free: Mutex<Free>,
    returned: Event,
}

struct Free {
    workers: Vec<Worker<Seat>>,
    /// How many more may be made.
    unmade: usize,
}

impl Pool {
    pub(super) fn new(place: Place, clock: Arc<dyn Clock>, max: usize) -> Self {
        let free = Mutex::new(Free { workers: Vec::new(), unmade: max });
        let shared = Arc::new(Shared { free, returned: Event::new() });
        Self { place, clock, max, shared }
    }

    /// A worker with no transaction open. Waits while all are in use, but not for ever.
    async fn take(&self) -> Result<Worker<Seat>, Error> {
        let mut late = self.clock.sleep(self.place.patience);
        loop {
            let mut returned = self.shared.returned.listen();
            match self.shared.take() {
                Taken::Worker(worker) => return Ok(worker),
                Taken::Permit => {
                    return self.make().inspect_err(|_| self.shared.give_back(None));
                }
                Taken::Nothing => {}
            }
            let is_late = std::future::poll_fn(|context| {
                match std::pin::Pin::new(&mut returned).poll(context) {
                    Poll::Ready(()) => Poll::Ready(false),
                    Poll::Pending => late.as_mut().poll(context).map(|()| true),
                }
            });
            if is_late.await {
                return Err(self.exhausted());
            }
        }
    }

    fn make(&self) -> Result<Worker<Seat>, Error> {
        Worker::start("semel-sqlite-tx", Seat::new(self.place.clone()), QUEUE_MAX)
    }

    fn exhausted(&self) -> Error {
        let message = format!(
            "all transactions on the store {} are in use: `transactions_max` is {}; keep them \
             short, because SQLite lets only one of them write",
            self.place.path.display(),
            self.max
        );
        Error::new(ErrorKind::Unavailable, message)
    }
}

enum Taken {
    Nothing,
    Permit,
    Worker(Worker<Seat>),
}

impl Shared {
    fn take(&self) -> Taken {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = free.workers.pop() {
            return Taken::Worker(worker);
        }
        if free.unmade == 0 {
            return Taken::Nothing;
        }
        free.unmade -= 1;
        Taken::Permit
    }

    /// A worker to use again, or `None` for a place to make a new one.
    fn give_back(&self, worker: Option<Worker<Seat>>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match worker {
            Some(worker) => free.workers.push(worker),
            None => free.unmade += 1,
        }
        drop(free);
        // One more, also when somebody was woken before and has not looked yet.
        self.returned.notify(1.additional());
    }
}

/// A transaction on the store's file that a handler may use and the guard commits together with
/// the record. Dropping it rolls back.
///
/// It begins with the first [`with`](Self::with): SQLite has one writer, and a transaction that
/// has begun keeps everybody else from writing (claims that change nothing are still answered).
/// Keep the time from the first `with` to the end of the handler short, and do what goes through
/// the store itself, such as steps, before it.
///
/// The store ends the transaction, nobody else: a COMMIT inside becomes a rollback, and after
/// anything that ends it early (ROLLBACK, `INSERT OR ROLLBACK`, a full disk) nothing more runs in
/// it and it cannot be committed.
pub struct SqliteTransaction {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    worker: Option<Worker<Seat>>,
}

impl SqliteTransaction {
    /// Runs `work` inside the transaction, on a thread of its own.
    ///
    /// The connection serves other transactions later: leave its settings as they are.
    ///
    /// An error of `work` leaves the transaction open with what its statements did before; hand
    /// the error on so that the handler fails and everything is rolled back.
    ///
    /// # Errors
    /// What `work` returned (as the [`source`](std::error::Error::source)), or why the
    /// transaction could not begin or go on.
    ///
    /// # Panics
    /// When `work` panics.
    ///
    /// # Cancellation
    /// Work that has begun runs to its end; the transaction is rolled back unless it is committed.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SqliteTransactionError> {
        let done = self.worker()?.run(move |seat| seat.work(work));
        done.await?.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn worker(&self) -> Result<&Worker<Seat>, Error> {
        self.worker
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "the transaction has ended"))
    }
}

/// Why [`SqliteTransaction::with`] failed.
#[derive(Debug)]
pub struct SqliteTransactionError(Box<dyn std::error::Error + Send + Sync>);

impl fmt::Display for SqliteTransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SqliteTransactionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

impl From<Error> for SqliteTransactionError {
    fn from(error: Error) -> Self {
        Self(error.into())
    }
}

impl From<rusqlite::Error> for SqliteTransactionError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for SqliteTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTransaction").finish_non_exhaustive()
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        // Queued behind whatever still runs; the worker is free for others at once, because what
        // they send runs after it.
        let rolled_back = worker.send(Seat::roll_back);
        self.shared.give_back(rolled_back.then_some(worker));
    }
}

impl TransactionalStore for SqliteStore {
    type Transaction = SqliteTransaction;

    fn begin(&self) -> BoxFuture<'_, Result<SqliteTransaction, Error>> {
        Box::pin(async move {
            let worker = Some(self.transactions.take().await?);
            Ok(SqliteTransaction { shared: Arc::clone(&self.transactions.shared), worker })
        })
    }

    fn commit<'a>(
        &'a self,
        transaction: SqliteTransaction,
        completion: &'a Completion,
    ) -> BoxFuture<'a, Result<Timestamp, Error>> {
        let (completion, clock) = (completion.clone(), Arc::clone(&self.options.clock));
        Box::pin(async move {
            transaction.worker()?.run(move |seat| seat.commit(&completion, &*clock)).await?
        })
    }

    fn commit_step<'a>(
        &'a self,
        transaction: SqliteTransaction,
        renewal: &'a Renewal,
    ) -> BoxFuture<'a, Result<Timestamp, Error>> {
        let (renewal, clock) = (renewal.clone(), Arc::clone(&self.options.clock));
        Box::pin(async move {
            transaction.worker()?.run(move |seat| seat.commit_step(&renewal, &*clock)).await?
        })
    }

    fn rollback(&self, transaction: SqliteTransaction) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { transaction.worker()?.run(Seat::roll_back).await })
    }
}

impl SqliteStore {
    /// Completes a record inside the caller's own transaction on this store's file. Commit to
    /// keep both; roll back and both are gone.
    ///
    /// ```
    /// # use std::{future::Future, pin::pin, sync::Arc, task::{Context, Poll, Waker}};
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
    /// #     loop { if let Poll::Ready(out) = future.as_mut().poll(&mut context) { return out } }
    /// # }
    /// use semel::{Effect, Ending, Executed, FingerprintKey, Guard, Key, Outcome, Tenant, Verdict};
    /// use semel_stores::sqlite::SqliteStore;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("shop.db");
    /// let store = Arc::new(SqliteStore::open(&path)?);
    /// let mut shop = rusqlite::Connection::open(&path)?;
    /// shop.execute_batch("CREATE TABLE orders (item TEXT)")?;
    ///
    /// let guard = Guard::builder(store.clone())
    ///     .operation("create_order")?
    ///     .effect(Effect::Transactional)
    ///     .build()?;
    /// let fingerprint = FingerprintKey::from_secret(store.secret())?.fingerprint().finish();
    /// let (tenant, key) = (Tenant::new("acme")?, Key::parse("order-17")?);
    /// let executed = block_on(guard.execute(&tenant, &key, fingerprint, async |ctx| {
    ///     let outcome = Outcome::json(Verdict::Succeeded, &"order 1").unwrap();
    ///     let transaction = shop.transaction().unwrap();
    ///     transaction.execute("INSERT INTO orders VALUES ('book')", ()).unwrap();
    ///     match store.complete_in(&transaction, &ctx.completion(outcome)) {
    ///         Ok(expires_at) => {
    ///             transaction.commit().unwrap();
    ///             Ending::Committed { expires_at, live: () }
    ///         }
    ///         // Another claim took over: dropping the transaction takes the order back.
    ///         Err(_) => Ending::ClaimLost,
    ///     }
    /// }))?;
    /// assert!(matches!(executed, Executed::Fresh { .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ClaimLost`] when another claim took over: roll
    /// back. [`ErrorKind::Invalid`] for a transaction on another file. Others as every method of
    /// the store.
    pub fn complete_in(
        &self,
        transaction: &Transaction<'_>,
        completion: &Completion,
    ) -> Result<Timestamp, Error> {
        self.check(transaction)?;
        let mut session = Session::new(transaction, self.options.clock.now());
        session.complete(completion).map_err(|fault| fault.into_error(&self.path))
    }

    /// Stores the step of a renewal ([`Context::step_renewal`](semel::Context::step_renewal))
    /// inside the caller's own transaction on this store's file. Commit to keep the step and its
    /// effect; roll back and both are gone. Returns the new end of the lease.
    ///
    /// # Errors
    /// [`ErrorKind::ClaimLost`] when another claim took over, [`ErrorKind::Invalid`] for a step
    /// that is there already or a transaction on another file: roll back. Others as every method
    /// of the store.
    pub fn step_in(
        &self,
        transaction: &Transaction<'_>,
        renewal: &Renewal,
    ) -> Result<Timestamp, Error> {
        self.check(transaction)?;
        let mut session = Session::new(transaction, self.options.clock.now());
        session.commit_step(renewal).map_err(|fault| fault.into_error(&self.path))
    }

    /// Claims inside the caller's own transaction on this store's file, which should be an
    /// immediate one. While it is open, duplicates wait for its lock instead of hearing "in
    /// flight"; rolled back, the claim was never made.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a transaction on another file. Others as every method of the
    /// store.
    pub fn claim_in(
        &self,
        transaction: &Transaction<'_>,
        request: &ClaimRequest,
    ) -> Result<Claimed, Error> {
        self.check(transaction)?;
        let mut session = Session::new(transaction, self.options.clock.now());
        let claimed = session.claim(request).and_then(|claimed| {
            session.finish()?;
            Ok(claimed)
        });
        claimed.map_err(|fault| fault.into_error(&self.path))
    }

    /// A claim in another file would be seen by nobody who asks this store.
    fn check(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let theirs = transaction.path().and_then(|path| file_at(Path::new(path)));
        if theirs == self.transactions.place.file {
            return Ok(());
        }
        let message = format!(
            "the transaction is on another file than the store {}; records and business rows \
             commit together in one file only",
            self.path.display()
        );
        Err(Error::new(ErrorKind::Invalid, message))
    }
}
