//! The one connection that writes, and who has it.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use semel::{Error, ErrorKind};
use tokio::sync::OwnedMutexGuard;

use super::connection;
use super::fault::{Fault, broken, may_have_committed};

/// A connection, opened anew after a failure that makes it doubtful.
pub(super) struct Seat {
    pub(super) path: PathBuf,
    patience: Duration,
    connection: Option<Connection>,
    /// Only our own COMMIT may commit; see [`Seat::connection`].
    may_commit: Arc<AtomicBool>,
    /// Whether something was rolled back since our own BEGIN. Another BEGIN may have followed.
    is_undone: Arc<AtomicBool>,
}

impl Seat {
    /// A seat on a file that can be opened.
    pub(super) fn open(path: PathBuf, patience: Duration) -> Result<Self, Error> {
        let (may_commit, is_undone) = (Arc::default(), Arc::default());
        let mut seat = Self { path, patience, connection: None, may_commit, is_undone };
        let opened = seat.connection().map(drop);
        opened.map_err(|fault| fault.into_error(&seat.path))?;
        Ok(seat)
    }

    /// A connection on which a COMMIT that is not ours becomes a rollback: a handler's stray
    /// COMMIT would keep the position without the rest of the effect.
    pub(super) fn connection(&mut self) -> Result<&Connection, Fault> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = connection::open(&self.path, self.patience)?;
                let may_commit = Arc::clone(&self.may_commit);
                connection.commit_hook(Some(move || !may_commit.load(Ordering::Relaxed)))?;
                let is_undone = Arc::clone(&self.is_undone);
                connection.rollback_hook(Some(move || is_undone.store(true, Ordering::Relaxed)))?;
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// Waits for other processes that write.
    pub(super) fn begin(&mut self) -> Result<(), Fault> {
        self.connection()?.execute_batch("BEGIN IMMEDIATE")?;
        self.is_undone.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the transaction of our own BEGIN is still open.
    pub(super) fn has_begun(&self) -> bool {
        self.is_open() && !self.is_undone.load(Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.is_autocommit())
    }

    pub(super) fn commit(&mut self) -> Result<(), Error> {
        if !self.has_begun() {
            return Err(broken());
        }
        self.may_commit.store(true, Ordering::Relaxed);
        let committed = self.connection.as_ref().map(|it| it.execute_batch("COMMIT"));
        self.may_commit.store(false, Ordering::Relaxed);
        let Some(Err(error)) = committed else { return Ok(()) };
        let is_unknown = may_have_committed(&error);
        if is_unknown {
            self.connection = None;
        }
        let error = Fault::File(error).into_error(&self.path);
        Err(if is_unknown { error.with_outcome_unknown() } else { error })
    }

    /// Work of our own in one transaction.
    pub(super) fn at_once<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let worked = self.begin().and_then(|()| work(self.connection()?));
        match worked {
            Ok(done) => self.commit().map(|()| done),
            Err(fault) => Err(fault.into_error(&self.path)),
        }
    }

    pub(super) fn roll_back(&mut self) {
        let is_open = self.is_open();
        if let Some(connection) = &self.connection
            && is_open
            && connection.execute_batch("ROLLBACK").is_err()
        {
            // Closing the connection rolls back for certain.
            self.connection = None;
        }
    }
}

/// The seat, taken. What is open on it when this is dropped is rolled back.
pub(super) struct Held(OwnedMutexGuard<Seat>);

impl Held {
    pub(super) fn new(guard: OwnedMutexGuard<Seat>) -> Self {
        Self(guard)
    }

    /// Runs `work` on a thread that may block. Dropping the future lets work that has begun run
    /// to its end and rolls back what it leaves open.
    pub(super) async fn run<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Seat) -> T + Send + 'static,
    ) -> Result<(Self, T), Error> {
        let running = tokio::task::spawn_blocking(move || {
            let worked = work(&mut self.0);
            (self, worked)
        });
        running.await.map_err(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => {
                let message = "the runtime is shutting down; the ledger was not asked";
                Error::new(ErrorKind::Unavailable, message)
            }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.roll_back();
    }
}
