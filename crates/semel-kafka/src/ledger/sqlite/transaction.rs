//! The transaction in which a handler works.

use std::fmt;

use rusqlite::Connection;
use semel::Error;

use super::fault::{Fault, broken};
use super::seat::{Held, Seat};

/// A transaction on the ledger's file that a handler may use and the consumer commits together
/// with the ids and the position. Dropping it rolls back.
///
/// SQLite has one writer: until it ends, every other transaction on the file waits. Do what takes
/// long and needs no database before the first [`with`](Self::with) of a short batch, or elsewhere.
///
/// The consumer ends the transaction, nobody else: a COMMIT inside becomes a rollback, and after
/// anything that ends it early (ROLLBACK, `INSERT OR ROLLBACK`, a full disk) nothing more runs in
/// it and it cannot be committed. Use `SAVEPOINT` and `ROLLBACK TO` to undo a part.
pub struct SqliteTransaction {
    /// None while work runs, and for good when its future was dropped.
    held: Option<Held>,
}

impl fmt::Debug for SqliteTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTransaction").finish_non_exhaustive()
    }
}

impl SqliteTransaction {
    pub(super) fn new(held: Held) -> Self {
        Self { held: Some(held) }
    }

    /// Runs `work` inside the transaction, on a thread that may block.
    ///
    /// The connection serves other transactions later: leave its settings as they are.
    ///
    /// An error of `work` leaves the transaction open with what its statements did before; hand
    /// the error on so that the handler fails and everything is rolled back.
    ///
    /// # Errors
    /// What `work` returned, as the [`source`](std::error::Error::source) of ours;
    /// [`ErrorKind::Invalid`](semel::ErrorKind::Invalid) when the transaction was ended from
    /// inside.
    ///
    /// # Panics
    /// When `work` panics; the transaction is rolled back.
    ///
    /// # Cancellation
    /// Work that has begun runs to its end. The transaction is rolled back and cannot go on.
    pub async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(|connection| work(connection).map_err(Fault::from)).await
    }

    pub(super) async fn run<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let held = self.held.take().ok_or_else(broken)?;
        let (held, worked) = held.run(move |seat| in_transaction(seat, work)).await?;
        self.held = Some(held);
        worked
    }

    pub(super) async fn commit(mut self) -> Result<(), Error> {
        let held = self.held.take().ok_or_else(broken)?;
        let (held, committed) =
            held.run(Seat::commit).await.map_err(Error::with_outcome_unknown)?;
        drop(held);
        committed
    }

    pub(super) async fn roll_back(mut self) {
        let Some(held) = self.held.take() else { return };
        drop(held.run(Seat::roll_back).await);
    }
}

fn in_transaction<T>(
    seat: &mut Seat,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Error> {
    if !seat.has_begun() {
        return Err(broken());
    }
    let worked = seat.connection().and_then(work);
    if !seat.has_begun() {
        return Err(broken());
    }
    worked.map_err(|fault| fault.into_error(&seat.path))
}
