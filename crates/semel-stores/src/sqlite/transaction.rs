//! Effect and record in one transaction.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use event_listener::Event;
use rusqlite::{Connection, Transaction};
use semel::store::{ClaimRequest, Claimed, Completion};
use semel::{BoxFuture, Error, Timestamp, TransactionalStore, failpoint};

use super::SqliteStore;
use super::connection;
use super::fault::Fault;
use super::operation::Session;
use super::worker::Worker;

/// Connections for callers' transactions: made when first needed, kept for the next.
pub(super) struct Pool {
    path: PathBuf,
    patience: Duration,
    shared: Arc<Shared>,
}

struct Shared {
    free: Mutex<Free>,
    returned: Event,
}

struct Free {
    workers: Vec<Worker>,
    /// How many more may be made.
    unmade: usize,
}

impl Pool {
    pub(super) fn new(path: &Path, patience: Duration, max: usize) -> Self {
        let free = Mutex::new(Free { workers: Vec::new(), unmade: max });
        let shared = Arc::new(Shared { free, returned: Event::new() });
        Self { path: path.to_owned(), patience, shared }
    }

    /// A worker with no transaction open. Waits while all are in use.
    async fn take(&self) -> Result<Worker, Error> {
        loop {
            let returned = self.shared.returned.listen();
            match self.shared.take() {
                Taken::Worker(worker) => return Ok(worker),
                Taken::Permit => {
                    return self.make().inspect_err(|_| self.shared.give_back(None));
                }
                Taken::Nothing => returned.await,
            }
        }
    }

    fn make(&self) -> Result<Worker, Error> {
        let connection = connection::open(&self.path, false, self.patience)?;
        Worker::start("semel-sqlite-tx", connection, 64)
    }
}

enum Taken {
    Nothing,
    Permit,
    Worker(Worker),
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
    fn give_back(&self, worker: Option<Worker>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match worker {
            Some(worker) => free.workers.push(worker),
            None => free.unmade += 1,
        }
        drop(free);
        self.returned.notify(1);
    }
}

/// A transaction on the store's file that a handler may use and the guard commits together with
/// the record. Dropping it rolls back.
///
/// It begins with the first [`with`](Self::with): SQLite has one writer, and a transaction that
/// has begun keeps everybody else from writing. Keep the time from the first `with` to the end of
/// the handler short.
pub struct SqliteTransaction {
    path: PathBuf,
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    worker: Option<Worker>,
}

impl SqliteTransaction {
    /// Runs `work` inside the transaction, on a thread of its own.
    ///
    /// An error of `work` leaves the transaction open with what its statements did before; hand
    /// the error on so that the handler fails and everything is rolled back.
    ///
    /// # Errors
    /// What `work` returned, or why the transaction could not begin, both as SQLite's error.
    ///
    /// # Cancellation
    /// Work that has begun runs to its end; the transaction is rolled back unless it is committed.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SqliteTransactionError> {
        let done = self.worker()?.run(move |connection| {
            begin(connection)?;
            work(connection)
        });
        done.await?.map_err(SqliteTransactionError::from)
    }

    async fn finish<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.worker()?.run(work).await?;
        done.map_err(|fault| fault.into_error(&self.path))
    }

    fn worker(&self) -> Result<&Worker, Error> {
        self.worker
            .as_ref()
            .ok_or_else(|| Error::new(semel::ErrorKind::Invalid, "the transaction has ended"))
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
        f.debug_struct("SqliteTransaction").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        let Some(worker) = self.worker.take() else { return };
        // Queued behind whatever still runs; the worker is free for others at once, because what
        // they send runs after it.
        let rolled_back = worker.send(|connection| {
            drop(roll_back(connection));
        });
        self.shared.give_back(rolled_back.then_some(worker));
    }
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    if connection.is_autocommit() { connection.execute_batch("BEGIN IMMEDIATE") } else { Ok(()) }
}

fn roll_back(connection: &Connection) -> rusqlite::Result<()> {
    if connection.is_autocommit() { Ok(()) } else { connection.execute_batch("ROLLBACK") }
}

impl TransactionalStore for SqliteStore {
    type Transaction = SqliteTransaction;

    fn begin(&self) -> BoxFuture<'_, Result<SqliteTransaction, Error>> {
        Box::pin(async move {
            let worker = Some(self.transactions.take().await?);
            let shared = Arc::clone(&self.transactions.shared);
            Ok(SqliteTransaction { path: self.path.clone(), shared, worker })
        })
    }

    fn commit<'a>(
        &'a self,
        transaction: SqliteTransaction,
        completion: &'a Completion,
    ) -> BoxFuture<'a, Result<Timestamp, Error>> {
        let (completion, clock) = (completion.clone(), Arc::clone(&self.options.clock));
        Box::pin(async move {
            let committed = transaction.finish(move |connection| {
                begin(connection)?;
                let mut session = Session::new(connection, clock.now());
                let completed = session.complete(&completion);
                if completed.is_err() {
                    roll_back(connection)?;
                    return completed.map(Ok);
                }
                failpoint::pass("in_tx_before_commit");
                let ended = connection.execute_batch("COMMIT");
                failpoint::pass("after_commit");
                if ended.is_err() {
                    // SQLite keeps a transaction open whose commit failed.
                    drop(roll_back(connection));
                }
                completed.map(|expires_at| ended.map(|()| expires_at))
            });
            let ended = committed.await?;
            ended.map_err(|error| super::fault::explain(&error, &self.path).with_outcome_unknown())
        })
    }

    fn rollback(&self, transaction: SqliteTransaction) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { transaction.finish(|connection| Ok(roll_back(connection)?)).await })
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
    /// [`ErrorKind::ClaimLost`](semel::ErrorKind::ClaimLost) when another claim took over: roll
    /// back. Others as every method of the store.
    pub fn complete_in(
        &self,
        transaction: &Transaction<'_>,
        completion: &Completion,
    ) -> Result<Timestamp, Error> {
        let mut session = Session::new(transaction, self.options.clock.now());
        session.complete(completion).map_err(|fault| fault.into_error(&self.path))
    }

    /// Claims inside the caller's own transaction on this store's file, which should be an
    /// immediate one. While it is open, duplicates wait for its lock instead of hearing "in
    /// flight"; rolled back, the claim was never made.
    ///
    /// # Errors
    /// As every method of the store.
    pub fn claim_in(
        &self,
        transaction: &Transaction<'_>,
        request: &ClaimRequest,
    ) -> Result<Claimed, Error> {
        let mut session = Session::new(transaction, self.options.clock.now());
        let claimed = session.claim(request).and_then(|claimed| {
            session.finish()?;
            Ok(claimed)
        });
        claimed.map_err(|fault| fault.into_error(&self.path))
    }
}
