//! What a database keeps for consumers and producers: ids, positions, the outbox.
//!
//! An inbox consumer writes the id of a record, the handler's own rows and the
//! position behind the record in **one transaction** of the ledger. What a crash leaves is all of
//! it or nothing, so the position in the ledger is the truth; the one in Kafka is only for display.
//!
//! # Rules for every ledger
//!
//! 1. [`take`](Ledger::take) raises the epoch of each partition in a committed write and returns
//!    the position; it waits for a transaction of an earlier owner that is about to commit, and
//!    every transaction of an earlier owner that has not committed by then fails.
//! 2. [`advance`](Ledger::advance) locks the partition's row until the end of the transaction and
//!    fails with [`ErrorKind::ClaimLost`](semel::ErrorKind::ClaimLost) when the epoch or the
//!    position is not the one it names.
//! 3. [`remember`](Ledger::remember) is exact: of two transactions that remember one id at once,
//!    the second waits for the first.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod bounds;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt;

use semel::{BoxFuture, Error, Timestamp};

#[cfg(feature = "postgres")]
pub use self::postgres::{PostgresLedger, PostgresTransaction};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteLedger, SqliteTransaction};

use crate::log::{Outgoing, TopicPartition};
use crate::window::Window;

/// A database that keeps ids and positions. See the rules in the [module's page](self).
///
/// Errors of every method: [`ErrorKind::Unavailable`](semel::ErrorKind::Unavailable) when the
/// database cannot be asked, with [`Error::outcome_unknown`] when the operation may have happened.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// An open transaction that owns its connection. Dropping it rolls back.
    type Transaction: Send + 'static;

    /// Makes partitions this owner's and returns them in their order; see rule 1.
    fn take<'a>(
        &'a self,
        group: &'a str,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<Vec<Owned>, Error>>;

    /// Opens a transaction.
    fn begin(&self) -> BoxFuture<'_, Result<Self::Transaction, Error>>;

    /// Remembers ids; says for each, in order, whether it was new. The partitions must have been
    /// taken.
    ///
    /// The bound in ids is judged as it was before the call, the one in time id by id. So of two
    /// equal ids in one call the second is new only when it is outside of the first one's time.
    fn remember<'a>(
        &'a self,
        transaction: &'a mut Self::Transaction,
        group: &'a str,
        window: &'a Window,
        sightings: &'a [Sighting],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>>;

    /// Moves positions; see rule 2.
    fn advance<'a>(
        &'a self,
        transaction: &'a mut Self::Transaction,
        group: &'a str,
        moves: &'a [Move],
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Ends a transaction. After an error with [`Error::outcome_unknown`] only
    /// [`take`](Self::take) tells what became of it.
    fn commit(&self, transaction: Self::Transaction) -> BoxFuture<'_, Result<(), Error>>;

    /// Undoes a transaction.
    fn rollback(&self, transaction: Self::Transaction) -> BoxFuture<'_, ()>;

    /// Deletes up to `limit` ids of a group that its window has forgotten, and says how many.
    ///
    /// In a window by the records' own times, what is forgotten is counted back from the records
    /// that a partition has come to, and only after twice the length: a consumer that is far
    /// behind, or a record that is late by up to one length, still finds its duplicates.
    fn forget<'a>(
        &'a self,
        group: &'a str,
        window: &'a Window,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>>;
}

/// A partition and its place in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The partition.
    pub partition: TopicPartition,
    /// Rises with every owner.
    pub epoch: i64,
    /// The next offset to read; none when nothing was ever handled.
    pub next: Option<i64>,
}

/// A record whose id is to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The record's id.
    pub id: String,
    /// Where the record lies.
    pub partition: TopicPartition,
    /// The record's own time, if it has one.
    pub timestamp: Option<Timestamp>,
}

/// Moves the position of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The partition as it was taken or last moved.
    pub owned: Owned,
    /// The next offset to read.
    pub next: i64,
}

/// A database with an outbox: records that were written in a caller's transaction and wait for the
/// relay.
///
/// Rows leave in sealed batches, numbered without gaps. Sealing is committed before the batch goes
/// to the log, and the log keeps the number of the last batch in the transaction that wrote it. So
/// whoever comes after a crash knows whether a batch has arrived.
pub trait OutboxTable: fmt::Debug + Send + Sync + 'static {
    /// The oldest sealed batch that is there. Without one, seals up to `limit` of the oldest rows
    /// as the next batch; none when there is nothing to send.
    fn seal<'a>(
        &'a self,
        outbox: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Option<Batch>, Error>>;

    /// Deletes a batch that has arrived. Succeeds when it is gone already.
    fn discard<'a>(&'a self, outbox: &'a str, number: i64) -> BoxFuture<'a, Result<(), Error>>;

    /// How many rows wait, sealed or not, and since when the oldest does.
    fn waiting<'a>(
        &'a self,
        outbox: &'a str,
    ) -> BoxFuture<'a, Result<(u64, Option<Timestamp>), Error>>;

    /// Completes when there may be something to send. A hint; the default never completes and
    /// leaves the relay to its polling.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// Looking up an id, for operators.
pub trait Trail: fmt::Debug + Send + Sync {
    /// Which groups remember an id. Those whose window has passed are told until they are deleted.
    fn seen<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Seen>, Error>>;
}

/// A group that remembers an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The group.
    pub group: String,
    /// The partition in which the record was.
    pub partition: TopicPartition,
    /// The time that counts for the window.
    pub at: Timestamp,
}

/// Rows of an outbox that leave together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number; the first is 0.
    pub number: i64,
    /// The rows with their ids, oldest first; never empty.
    pub records: Vec<(String, Outgoing)>,
}

/// A position that is another owner's by now.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn lost(group: &str, partition: &TopicPartition) -> Error {
    let message = format!(
        "the partition {partition} of the group {group} was taken by another owner, or its \
         position was changed; drop what is under way in it and take it again"
    );
    Error::new(semel::ErrorKind::ClaimLost, message)
}

/// A partition without a position.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn untaken(group: &str) -> Error {
    let message = format!(
        "an id of the group {group} was seen in a partition that was never taken; take it first"
    );
    Error::new(semel::ErrorKind::Invalid, message)
}

/// Databases' integers are signed. What is beyond the far future counts as that, so that the
/// difference of two times is a number as well.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn millis_of(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}
