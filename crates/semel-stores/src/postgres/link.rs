//! Connections to the server, and calls with an end.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures_util::future::{Either, select};
use semel::{Clock, Error, ErrorKind, RecordId};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::fault::Fault;
use super::partitions::Partitions;
use super::schema::Schema;

/// Parameters of a statement with their types.
pub(super) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// The first pause before a call is tried again; doubled up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The way to the server.
pub(super) struct Link {
    pub(super) pool: Pool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) schema: Schema,
    pub(super) partitions: Partitions,
    /// Whether a connection is a session: no pooler of transactions in between.
    pub(super) is_direct: bool,
    /// `host:port/database`, for messages.
    pub(super) place: String,
    pub(super) response_timeout: Duration,
    pub(super) patience: Duration,
}

impl Link {
    /// Sends one statement and waits for its answer, but not for ever.
    pub(super) async fn call(&self, sql: &str, values: Parameters<'_>) -> Result<Vec<Row>, Fault> {
        let mut lent = self.lend().await?;
        let answer = self.answer_of(self.query(&lent, sql, values)).await;
        lent.settle(&answer);
        answer
    }

    /// Prepared under a name only in a session of our own: behind a pooler the next call may meet
    /// another one, which does not know the name.
    async fn query(
        &self,
        lent: &Lent,
        sql: &str,
        values: Parameters<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let Some(client) = &lent.object else { return Ok(Vec::new()) };
        if !self.is_direct {
            return client.query_typed(sql, values).await;
        }
        let types: Vec<Type> = values.iter().map(|(_, kind)| kind.clone()).collect();
        let statement = client.prepare_typed_cached(sql, &types).await?;
        let values: Vec<_> = values.iter().map(|(value, _)| *value).collect();
        client.query(&statement, &values).await
    }

    /// A statement whose only parameters are the names of a record.
    pub(super) async fn call_for(&self, id: &RecordId, sql: &str) -> Result<Vec<Row>, Fault> {
        let (key, tenant) = (id.key.as_str(), id.tenant.as_str());
        let operation = id.operation.as_str();
        self.call(sql, &[(&key, Type::TEXT), (&tenant, Type::TEXT), (&operation, Type::TEXT)]).await
    }

    pub(super) async fn lend(&self) -> Result<Lent, Fault> {
        let object = if self.pool.status().available > 0 {
            self.pool.get().await?
        } else {
            // A connection that is being made outlives a caller whose patience ends, and is there
            // for the next one. Otherwise callers with little patience would never reach a server
            // that takes longer to connect to.
            let pool = self.pool.clone();
            let made = tokio::spawn(async move { pool.get().await });
            made.await.map_err(|_| Fault::Exhausted)??
        };
        Ok(Lent { object: Some(object), is_sound: false })
    }

    /// The answer of a call on a connection, or [`Fault::Silent`].
    pub(super) async fn answer_of<T>(
        &self,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        within(&*self.clock, self.response_timeout, call)
            .await
            .ok_or(Fault::Silent)?
            .map_err(Fault::from)
    }

    /// Repeats a call until it succeeds, fails for good, or `patience` is over. The call must be
    /// one that may be done twice.
    ///
    /// The error of a call that may have been done says so if `is_effect`.
    pub(super) async fn patiently<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        is_effect: bool,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Error> {
        let mut is_ambiguous = false;
        let mut last = None;
        let tries = async {
            let mut pause = PAUSE;
            loop {
                let fault = match call().await {
                    Ok(answer) => return Ok(answer),
                    Err(fault) => fault,
                };
                is_ambiguous |= fault.is_ambiguous();
                if !fault.is_passing() {
                    return Err(fault);
                }
                last = Some(fault);
                self.clock.sleep(pause).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
        };
        let ended = within(&*self.clock, self.patience, tries).await;
        let fault = match ended {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(fault)) => fault,
            None => {
                is_ambiguous = true;
                last.unwrap_or(Fault::Silent)
            }
        };
        let error = fault.into_error(&self.place);
        let is_open = is_effect && is_ambiguous && error.kind() == ErrorKind::Unavailable;
        Err(if is_open { error.with_outcome_unknown() } else { error })
    }

    /// Sees whether a call failed because a partition that was believed to be there is missing.
    pub(super) fn noting_partitions<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        answer.inspect_err(|fault| {
            if fault.lacks_partition() {
                self.forget_partitions();
            }
        })
    }

    /// A pause before somebody else's write is looked at again.
    pub(super) async fn pause(&self, round: u32) {
        self.clock.sleep(PAUSE_MAX.min(PAUSE * round.max(1))).await;
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("place", &self.place).finish_non_exhaustive()
    }
}

/// A future's output, unless it takes longer than `bound`.
pub(super) async fn within<F: Future>(
    clock: &dyn Clock,
    bound: Duration,
    future: F,
) -> Option<F::Output> {
    match select(std::pin::pin!(future), clock.sleep(bound)).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// A connection of the pool. Unless its call was answered it is closed, not given back: the next
/// one would wait behind a call that nobody answers.
pub(super) struct Lent {
    object: Option<Object>,
    is_sound: bool,
}

impl Lent {
    pub(super) fn client(&self) -> Result<&tokio_postgres::Client, Fault> {
        self.object.as_ref().map(|object| &***object).ok_or(Fault::Exhausted)
    }

    /// Decides by an answer whether the connection may be used again.
    pub(super) fn settle<T>(&mut self, answer: &Result<T, Fault>) {
        self.is_sound = match answer {
            Ok(_) => true,
            Err(fault) => !fault.is_fatal_to_connection(),
        };
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && !self.is_sound
        {
            drop(Object::take(object));
        }
    }
}
