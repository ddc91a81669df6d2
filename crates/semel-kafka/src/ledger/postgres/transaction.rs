//! The transaction in which a handler works.

use std::fmt;
use std::ops::Deref;

use futures_util::future::join;
use semel::{Error, ErrorKind};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::link::{Lent, Link, Parameters, column};

/// A transaction on the caller's database that a handler may use and the consumer commits together
/// with the ids and the position. Dropping it closes its connection, and the server rolls it back.
///
/// It is a [`Client`] inside a transaction (READ COMMITTED). The consumer ends it, nobody else: a
/// COMMIT of the handler's own would keep the position and what the handler did so far, and lose
/// what it did not do yet. The consumer notices and says so, but cannot take it back. Use
/// `SAVEPOINT` and `ROLLBACK TO` to undo a part.
pub struct PostgresTransaction {
    lent: Lent,
    /// The transaction's number at the server: proof that it is still the same one.
    number: String,
}

impl fmt::Debug for PostgresTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresTransaction").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Deref for PostgresTransaction {
    type Target = Client;

    #[expect(clippy::expect_used, reason = "a lent connection is there until it is dropped")]
    fn deref(&self) -> &Client {
        self.lent.client().expect("the connection is lent")
    }
}

impl PostgresTransaction {
    pub(super) async fn begin(link: &Link) -> Result<Self, Fault> {
        let lent = link.lend().await?;
        let client = lent.client()?;
        // Both are sent at once; the server answers in order.
        let begin = client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
        let number = client.query_typed("SELECT pg_current_xact_id()::text AS number", &[]);
        let rows = link
            .answer_of(async {
                let (begun, rows) = join(begin, number).await;
                begun.and(rows)
            })
            .await?;
        let number = column(rows.first().ok_or(Fault::Silent)?, "number")?;
        Ok(Self { lent, number })
    }

    /// Commits, unless somebody else has ended the transaction.
    pub(super) async fn commit(mut self, link: &Link) -> Result<(), Error> {
        let client = self.lent.client().map_err(Fault::into_error)?;
        let number = self.number.as_str();
        // A check that fails makes the COMMIT behind it a rollback, so both can be sent at once.
        let values: Parameters<'_> = &[(&number, Type::TEXT)];
        let check = client.query_typed("SELECT semel_kafka.check_transaction($1)", values);
        let ended = link
            .answer_of(async {
                let (checked, committed) = join(check, client.batch_execute("COMMIT")).await;
                checked.and(committed)
            })
            .await;
        self.lent.settle(&ended);
        ended.map_err(|fault| match fault.state() {
            Some(&SqlState::INVALID_TRANSACTION_STATE) => Error::new(
                ErrorKind::Invalid,
                "the handler ended the transaction of its consumer (COMMIT or ROLLBACK); what it \
                 did afterwards is not kept together with the position: leave the end to the \
                 consumer",
            ),
            _ => fault.into_error_of_effect(),
        })
    }

    /// Unless it is certain that nothing is open, the connection is closed, which is as good.
    pub(super) async fn roll_back(mut self, link: &Link) {
        let Ok(client) = self.lent.client() else { return };
        let ended = link.answer_of(client.batch_execute("ROLLBACK")).await;
        self.lent.settle(&ended);
    }
}
