//! Connections of the caller's pool, and calls with an end.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures_util::future::{Either, select};
use semel::Clock;
use tokio_postgres::types::{FromSql, ToSql, Type};
use tokio_postgres::{Client, Row};

use super::fault::{Fault, unreadable};

/// Parameters of a statement with their types. Statements are never prepared under a name: a
/// pooler of transactions may stand in between.
pub(super) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// The way to the server.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) pool: Pool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) response_timeout: Duration,
}

impl Link {
    /// Sends one statement of its own and waits for its answer, but not for ever.
    pub(super) async fn call(&self, sql: &str, values: Parameters<'_>) -> Result<Vec<Row>, Fault> {
        let mut lent = self.lend().await?;
        let answer = self.ask(lent.client()?, sql, values).await;
        lent.settle(&answer);
        answer
    }

    /// Sends one statement on this connection and waits for its answer, but not for ever.
    pub(super) async fn ask(
        &self,
        client: &Client,
        sql: &str,
        values: Parameters<'_>,
    ) -> Result<Vec<Row>, Fault> {
        self.answer_of(client.query_typed(sql, values)).await
    }

    pub(super) async fn lend(&self) -> Result<Lent, Fault> {
        let object = within(&*self.clock, self.response_timeout, self.pool.get()).await;
        Ok(Lent { object: Some(object.ok_or(Fault::Exhausted)??), is_sound: false })
    }

    /// The answer of a call on a connection, or [`Fault::Silent`].
    pub(super) async fn answer_of<T>(
        &self,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        let answer = within(&*self.clock, self.response_timeout, call).await;
        answer.ok_or(Fault::Silent)?.map_err(Fault::from)
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

/// A connection of the pool. Unless it is known to be idle it is closed, not given back: the next
/// one would wait behind a call that nobody answers, or work in somebody else's transaction.
#[derive(Debug)]
pub(super) struct Lent {
    object: Option<Object>,
    is_sound: bool,
}

impl Lent {
    pub(super) fn client(&self) -> Result<&Client, Fault> {
        self.object.as_ref().map(|object| &***object).ok_or(Fault::Exhausted)
    }

    /// Decides by the answer to what ends its use whether the connection may be used again.
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

pub(super) fn column<'row, T: FromSql<'row>>(row: &'row Row, name: &str) -> Result<T, Fault> {
    row.try_get(name).map_err(|error| unreadable(name, error).into())
}
