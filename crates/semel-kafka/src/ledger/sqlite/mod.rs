//! Ids, positions and the outbox in a SQLite file.
//!
//! One connection writes, and its transactions queue for it in the order in which they come.
//! Several processes on one machine may share the file; between them SQLite's lock decides. What
//! is committed is on the disk: WAL with `synchronous=FULL`.
//!
//! The file must be on a local disk. All tables start with `semel_kafka_`, so the file may be the
//! application's own database, and must be where the handler's rows are to be kept together with
//! the position.

mod connection;
mod fault;
mod outbox;
mod seat;
mod transaction;
mod window;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use rusqlite::Connection;
use semel::{BoxFuture, Clock, Error, ErrorKind, SystemClock, Timestamp};
use tokio::sync::Mutex;

pub use self::transaction::SqliteTransaction;

use self::fault::Fault;
use self::seat::{Held, Seat};
use super::bounds::Bounds;
use super::{Ledger, Move, Owned, Seen, Sighting, Trail};
use crate::log::TopicPartition;
use crate::window::Window;

/// How long a transaction waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ids, positions and the outbox in a SQLite file.
///
/// One transaction writes at a time, also among several processes that share the file. All
/// methods must be called inside a tokio runtime; what blocks runs on its blocking threads.
pub struct SqliteLedger {
    path: PathBuf,
    seat: Arc<Mutex<Seat>>,
    clock: Arc<dyn Clock>,
    patience: Duration,
}

impl SqliteLedger {
    /// Opens the file; makes it and its tables where they are missing. A transaction waits up to
    /// 5 s for those of this process and up to 5 s for those of others; see
    /// [`open_with`](Self::open_with).
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the file cannot be opened or written,
    /// [`ErrorKind::Corrupt`] when it is no database or damaged, [`ErrorKind::TooNew`] when a
    /// newer version wrote it, [`ErrorKind::Invalid`] for a path that is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, PATIENCE, Arc::new(SystemClock))
    }

    /// Opens the file with another patience, at most an hour, and another clock. The clock says
    /// what time it is for windows by the wall clock and paces what waits in this process.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        path: impl AsRef<Path>,
        patience: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let path = connection::resolve(path.as_ref())?;
        let patience = patience.min(Duration::from_secs(3600));
        let seat = Arc::new(Mutex::new(Seat::open(path.clone(), patience)?));
        Ok(Self { path, seat, clock, patience })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn hold(&self) -> Result<Held, Error> {
        let turn = std::pin::pin!(Arc::clone(&self.seat).lock_owned());
        match select(turn, self.clock.sleep(self.patience)).await {
            Either::Left((guard, _)) => Ok(Held::new(guard)),
            Either::Right(_) => {
                let message = format!(
                    "another transaction of this process holds the ledger {} for longer than \
                     `patience`; SQLite lets one write at a time, so keep them short",
                    self.path.display()
                );
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// Work of our own in one transaction.
    async fn at_once<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let (_, worked) = self.hold().await?.run(move |seat| seat.at_once(work)).await?;
        worked
    }
}

impl Trail for SqliteLedger {
    fn seen<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Seen>, Error>> {
        let id = id.to_owned();
        Box::pin(self.at_once(move |connection| {
            let select = "SELECT grp, topic, partition, at FROM semel_kafka_seen \
                          WHERE id = ?1 ORDER BY at, grp";
            let mut select = connection.prepare_cached(select)?;
            let seen = select.query_map([id], |row| {
                let partition = TopicPartition::new(row.get::<_, String>(1)?, row.get(2)?);
                let at = u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default();
                Ok(Seen { group: row.get(0)?, partition, at: Timestamp::from_millis(at) })
            })?;
            Ok(seen.collect::<rusqlite::Result<_>>()?)
        }))
    }
}

impl fmt::Debug for SqliteLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLedger").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Ledger for SqliteLedger {
    type Transaction = SqliteTransaction;

    fn take<'a>(
        &'a self,
        group: &'a str,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<Vec<Owned>, Error>> {
        let (group, partitions) = (group.to_owned(), partitions.to_vec());
        Box::pin(self.at_once(move |connection| window::take(connection, &group, &partitions)))
    }

    fn begin(&self) -> BoxFuture<'_, Result<SqliteTransaction, Error>> {
        Box::pin(async {
            let begin =
                |seat: &mut Seat| seat.begin().map_err(|fault| fault.into_error(&seat.path));
            let (held, begun) = self.hold().await?.run(begin).await?;
            begun.map(|()| SqliteTransaction::new(held))
        })
    }

    fn remember<'a>(
        &'a self,
        transaction: &'a mut SqliteTransaction,
        group: &'a str,
        window: &'a Window,
        sightings: &'a [Sighting],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        let (group, sightings) = (group.to_owned(), sightings.to_vec());
        let (bounds, now) = (Bounds::of(window), self.clock.now());
        Box::pin(
            transaction.run(move |connection| {
                window::remember(connection, &group, bounds, &sightings, now)
            }),
        )
    }

    fn advance<'a>(
        &'a self,
        transaction: &'a mut SqliteTransaction,
        group: &'a str,
        moves: &'a [Move],
    ) -> BoxFuture<'a, Result<(), Error>> {
        let (group, moves) = (group.to_owned(), moves.to_vec());
        Box::pin(transaction.run(move |connection| window::advance(connection, &group, &moves)))
    }

    fn commit(&self, transaction: SqliteTransaction) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(transaction.commit())
    }

    fn rollback(&self, transaction: SqliteTransaction) -> BoxFuture<'_, ()> {
        Box::pin(transaction.roll_back())
    }

    fn forget<'a>(
        &'a self,
        group: &'a str,
        window: &'a Window,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        let group = group.to_owned();
        let (bounds, now) = (Bounds::of(window), self.clock.now());
        Box::pin(
            self.at_once(move |connection| window::forget(connection, &group, bounds, limit, now)),
        )
    }
}
