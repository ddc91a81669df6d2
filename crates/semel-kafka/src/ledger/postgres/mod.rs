//! Ids, positions and the outbox in PostgreSQL (14 or newer).
//!
//! The pool is the caller's, on the database where the handler's rows are: only there can they be
//! committed together with the position. The ledger's tables are in the schema `semel_kafka`.
//!
//! # What it asks of the server
//!
//! A batch is four round trips besides what the handler does: BEGIN; the positions; the ids; and
//! COMMIT goes out together with a check that the transaction is still the same. No statement is
//! prepared under a name and no setting outlives a transaction, so a pooler of transactions may
//! stand in between.
//!
//! # What it waits for
//!
//! Every call ends within [`PostgresLedger::response_timeout`]. A connection whose call was not
//! answered is closed, and the server undoes what was open on it.

mod fault;
mod link;
mod migrate;
mod outbox;
mod transaction;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use semel::{BoxFuture, Clock, Error, ErrorKind, SystemClock, Timestamp};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

pub use self::transaction::PostgresTransaction;

use self::fault::Fault;
use self::link::{Link, Parameters, column};
use super::bounds::Bounds;
use super::{Ledger, Move, Owned, Seen, Sighting, Trail, lost, untaken};
use crate::log::TopicPartition;
use crate::window::Window;

/// Connections of a pool that nobody sized.
const POOL_MAX: usize = 8;

/// Ids, positions and the outbox in the caller's own PostgreSQL (14 or newer), in the schema
/// `semel_kafka`. See [`PostgresLedger::new`].
///
/// A batch is four round trips besides what the handler does. No statement is prepared under a
/// name and no setting outlives a transaction, so a pooler of transactions may stand in between.
///
/// All methods must be called inside a tokio runtime.
pub struct PostgresLedger {
    link: Link,
}

impl PostgresLedger {
    /// A ledger on this pool, which must lead to the database of the handler's rows. Each open
    /// transaction holds one of its connections; a consumer has at most one for each partition.
    ///
    /// Nothing is asked yet. Run [`migrate`](Self::migrate) or [`check`](Self::check) before the
    /// first consumer starts.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        let response_timeout = Duration::from_secs(10);
        Self { link: Link { pool, clock: Arc::new(SystemClock), response_timeout } }
    }

    /// A ledger on a small pool of its own, without TLS: for tools and examples. A program whose
    /// handlers write rows has a pool and uses [`new`](Self::new).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the URL is none.
    pub fn connect(url: &str) -> Result<Self, Error> {
        let invalid = |what: &str| {
            let message = format!("the ledger's URL is refused: {what}");
            Error::new(ErrorKind::Invalid, message)
        };
        let config: tokio_postgres::Config = url
            .parse()
            .map_err(|_| invalid("write postgres://user:password@host:port/database"))?;
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config, NoTls, recycling);
        let pool = Pool::builder(manager).max_size(POOL_MAX).build();
        Ok(Self::new(pool.map_err(|error| invalid(&error.to_string()))?))
    }

    /// How long one call may stay unanswered, and how long to wait for a connection of the pool.
    /// Default: 10 s. It also bounds how long [`take`](Ledger::take) waits for an earlier owner's
    /// transaction.
    #[must_use]
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.link.response_timeout = response_timeout;
        self
    }

    /// Another clock for the time-outs, for tests. Windows go by the server's clock.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.link.clock = clock;
        self
    }

    /// The server gives up a little before us, so that nothing is left waiting there.
    fn patience_ms(&self) -> i64 {
        let millis = self.link.response_timeout.as_millis() * 9 / 10;
        i64::try_from(millis).unwrap_or(i64::MAX).clamp(1, i64::from(i32::MAX))
    }

    async fn seen_now(&self, id: &str) -> Result<Vec<Seen>, Fault> {
        let sql = "SELECT grp, topic, partition, at FROM semel_kafka.seen WHERE id = $1 \
                   ORDER BY at, grp";
        let rows = self.link.call(sql, &[(&id, Type::TEXT)]).await?;
        let seen = rows.iter().map(|row| {
            let partition =
                TopicPartition::new(column::<&str>(row, "topic")?, column(row, "partition")?);
            let at = u64::try_from(column::<i64>(row, "at")?).unwrap_or_default();
            Ok(Seen { group: column(row, "grp")?, partition, at: Timestamp::from_millis(at) })
        });
        seen.collect()
    }

    async fn take_now(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Owned>, Fault> {
        let (topics, numbers) = columns(partitions.iter());
        let sql = "SELECT topic, partition, epoch, next FROM semel_kafka.take($1, $2, $3, $4)";
        let rows = self
            .link
            .call(
                sql,
                &[
                    (&group, Type::TEXT),
                    (&topics, Type::TEXT_ARRAY),
                    (&numbers, Type::INT4_ARRAY),
                    (&self.patience_ms(), Type::INT8),
                ],
            )
            .await?;
        let mut taken = Vec::with_capacity(rows.len());
        for row in &rows {
            let partition =
                TopicPartition::new(column::<&str>(row, "topic")?, column(row, "partition")?);
            let (epoch, next) = (column(row, "epoch")?, column(row, "next")?);
            taken.push(Owned { partition, epoch, next });
        }
        // In the order in which they were asked for.
        taken.sort_by_key(|it| partitions.iter().position(|asked| *asked == it.partition));
        Ok(taken)
    }

    async fn remember_now(
        &self,
        transaction: &PostgresTransaction,
        group: &str,
        window: &Window,
        sightings: &[Sighting],
    ) -> Result<Vec<bool>, Fault> {
        let mut places: Vec<_> = sightings.iter().map(|sighting| &sighting.partition).collect();
        places.sort_unstable();
        places.dedup();
        let (topics, numbers) = columns(places.iter().copied());
        let lot = |sighting: &Sighting| {
            let at = places.binary_search(&&sighting.partition).map_or(0, |at| at + 1);
            i32::try_from(at).unwrap_or(i32::MAX)
        };
        let ids: Vec<_> = sightings.iter().map(|sighting| sighting.id.as_str()).collect();
        let lots: Vec<_> = sightings.iter().map(lot).collect();
        let bounds = Bounds::of(window);
        let times: Vec<_> = sightings.iter().map(|sighting| bounds.time_of(sighting)).collect();
        let sql = "SELECT semel_kafka.remember($1, $2, $3, $4, $5, $6, $7, $8, $9) AS fresh";
        let values: Parameters<'_> = &[
            (&group, Type::TEXT),
            (&topics, Type::TEXT_ARRAY),
            (&numbers, Type::INT4_ARRAY),
            (&ids, Type::TEXT_ARRAY),
            (&lots, Type::INT4_ARRAY),
            (&times, Type::INT8_ARRAY),
            (&bounds.millis, Type::INT8),
            (&bounds.ids, Type::INT8),
            (&bounds.slides, Type::BOOL),
        ];
        let rows = match self.link.ask(transaction, sql, values).await {
            Err(fault) if fault.state() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE) => {
                return Err(untaken(group).into());
            }
            rows => rows?,
        };
        let fresh: Vec<i64> = column(rows.first().ok_or(Fault::Silent)?, "fresh")?;
        let mut is_new = vec![false; sightings.len()];
        for place in fresh {
            let place = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
            if let Some(is_new) = place.and_then(|place| is_new.get_mut(place)) {
                *is_new = true;
            }
        }
        Ok(is_new)
    }

    async fn forget_now(&self, group: &str, window: &Window, limit: usize) -> Result<i64, Fault> {
        let bounds = Bounds::of(window);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self
            .link
            .call(
                "SELECT semel_kafka.forget($1, $2, $3, $4, $5) AS gone",
                &[
                    (&group, Type::TEXT),
                    (&bounds.millis, Type::INT8),
                    (&bounds.ids, Type::INT8),
                    (&bounds.by_event, Type::BOOL),
                    (&limit, Type::INT8),
                ],
            )
            .await?;
        column(rows.first().ok_or(Fault::Silent)?, "gone")
    }

    async fn advance_now(
        &self,
        transaction: &PostgresTransaction,
        group: &str,
        moves: &[Move],
    ) -> Result<(), Fault> {
        let (topics, numbers) = columns(moves.iter().map(|it| &it.owned.partition));
        let epochs: Vec<_> = moves.iter().map(|it| it.owned.epoch).collect();
        let were: Vec<_> = moves.iter().map(|it| it.owned.next).collect();
        let nexts: Vec<_> = moves.iter().map(|it| it.next).collect();
        let values: Parameters<'_> = &[
            (&group, Type::TEXT),
            (&topics, Type::TEXT_ARRAY),
            (&numbers, Type::INT4_ARRAY),
            (&epochs, Type::INT8_ARRAY),
            (&were, Type::INT8_ARRAY),
            (&nexts, Type::INT8_ARRAY),
        ];
        let rows = self.link.ask(transaction, include_str!("advance.sql"), values).await?;
        let mut moved = Vec::with_capacity(moves.len());
        for row in &rows {
            let topic: &str = column(row, "topic")?;
            moved.push(TopicPartition::new(topic, column(row, "partition")?));
        }
        let mut partitions = moves.iter().map(|it| &it.owned.partition);
        match partitions.find(|partition| !moved.contains(partition)) {
            Some(partition) => Err(lost(group, partition).into()),
            None => Ok(()),
        }
    }
}

impl Trail for PostgresLedger {
    fn seen<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<Seen>, Error>> {
        Box::pin(async move { self.seen_now(id).await.map_err(Fault::into_error) })
    }
}

impl fmt::Debug for PostgresLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresLedger").finish_non_exhaustive()
    }
}

impl Ledger for PostgresLedger {
    type Transaction = PostgresTransaction;

    fn take<'a>(
        &'a self,
        group: &'a str,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<Vec<Owned>, Error>> {
        Box::pin(async move {
            self.take_now(group, partitions).await.map_err(Fault::into_error_of_effect)
        })
    }

    fn begin(&self) -> BoxFuture<'_, Result<PostgresTransaction, Error>> {
        Box::pin(async { PostgresTransaction::begin(&self.link).await.map_err(Fault::into_error) })
    }

    fn remember<'a>(
        &'a self,
        transaction: &'a mut PostgresTransaction,
        group: &'a str,
        window: &'a Window,
        sightings: &'a [Sighting],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(async move {
            if sightings.is_empty() {
                return Ok(Vec::new());
            }
            let remembered = self.remember_now(transaction, group, window, sightings).await;
            remembered.map_err(Fault::into_error)
        })
    }

    fn advance<'a>(
        &'a self,
        transaction: &'a mut PostgresTransaction,
        group: &'a str,
        moves: &'a [Move],
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            self.advance_now(transaction, group, moves).await.map_err(Fault::into_error)
        })
    }

    fn commit(&self, transaction: PostgresTransaction) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(transaction.commit(&self.link))
    }

    fn rollback(&self, transaction: PostgresTransaction) -> BoxFuture<'_, ()> {
        Box::pin(transaction.roll_back(&self.link))
    }

    fn forget<'a>(
        &'a self,
        group: &'a str,
        window: &'a Window,
        limit: usize,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let gone = self.forget_now(group, window, limit).await;
            let gone = gone.map_err(Fault::into_error_of_effect)?;
            usize::try_from(gone).map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))
        })
    }
}

/// The partitions as the two columns that a statement unnests.
fn columns<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> (Vec<&'a str>, Vec<i32>) {
    partitions.map(|it| (&*it.topic, it.partition)).unzip()
}
