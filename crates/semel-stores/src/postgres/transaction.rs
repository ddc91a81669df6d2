//! Effect and record in one transaction.

use std::fmt;
use std::ops::Deref;

use semel::protocol::{self, Change};
use semel::store::{Completion, Renewal};
use semel::{
    BoxFuture, Error, ErrorKind, Fence, RecordId, Timestamp, TransactionalStore, failpoint,
};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

use super::PostgresStore;
use super::fault::Fault;
use super::link::{Lent, Link};
use super::row::{self, signed};
use super::single::Finish;

/// A transaction on the store's database that a handler may use and the guard commits together
/// with the record. Dropping it closes its connection, and the server rolls it back.
///
/// It is a [`Client`] inside a transaction (READ COMMITTED). The store ends it, nobody else: after
/// a COMMIT or ROLLBACK of the handler's own the record is not completed.
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
    async fn begin(link: &Link) -> Result<Self, Fault> {
        let lent = link.lend().await?;
        let client = lent.client()?;
        let number = link
            .answer_of(async {
                // Both are sent at once; the server answers in order.
                let begin = client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED");
                let number = client.query_typed("SELECT pg_current_xact_id()::text AS number", &[]);
                let (_, rows) = futures_util::future::try_join(begin, number).await?;
                Ok(rows)
            })
            .await?;
        let number = row::column(number.first().ok_or(Fault::Silent)?, "number")?;
        Ok(Self { lent, number })
    }
}

impl TransactionalStore for PostgresStore {
    type Transaction = PostgresTransaction;

    fn begin(&self) -> BoxFuture<'_, Result<PostgresTransaction, Error>> {
        let link = &*self.transactions;
        Box::pin(async move { link.patiently(false, || PostgresTransaction::begin(link)).await })
    }

    fn commit<'a>(
        &'a self,
        transaction: PostgresTransaction,
        completion: &'a Completion,
    ) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(async move {
            let number = Some(&*transaction.number);
            let completed = self.complete_on(&*transaction, completion, number).await;
            let (id, fence) = (&completion.id, completion.fence);
            self.end(transaction, completed, |fault| self.settle(id, fence, fault)).await
        })
    }

    fn commit_step<'a>(
        &'a self,
        transaction: PostgresTransaction,
        renewal: &'a Renewal,
    ) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(async move {
            let number = Some(&*transaction.number);
            let stored = self.step_on(&*transaction, renewal, number).await;
            self.end(transaction, stored, |fault| self.settle_step(renewal, fault)).await
        })
    }

    fn rollback(&self, transaction: PostgresTransaction) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.roll_back(transaction).await;
            Ok(())
        })
    }
}

impl PostgresStore {
    /// Completes a record inside a transaction of the caller's on this store's database. Commit to
    /// keep both; roll back and both are gone. The transaction should be READ COMMITTED: a stricter
    /// one fails once a heartbeat has written the record since its first statement.
    ///
    /// # Errors
    /// [`ErrorKind::ClaimLost`] when another claim took over. After any error roll back; an error
    /// with [`Error::outcome_unknown`] may have left the completion in the transaction.
    pub async fn complete_in(
        &self,
        transaction: &impl GenericClient,
        completion: &Completion,
    ) -> Result<Timestamp, Error> {
        self.complete_on(transaction, completion, None).await
    }

    /// Commits what was written in the transaction, or rolls it back if writing failed. `settle`
    /// finds out about a commit whose answer was lost.
    async fn end<F: Future<Output = Result<(), Error>>>(
        &self,
        mut transaction: PostgresTransaction,
        written: Result<Timestamp, Error>,
        settle: impl FnOnce(Fault) -> F,
    ) -> Result<Timestamp, Error> {
        let written = match written {
            Ok(written) => written,
            Err(error) => {
                self.roll_back(transaction).await;
                return Err(error);
            }
        };
        failpoint::pass("in_tx_before_commit");
        let link = &*self.transactions;
        let committed = link.answer_of(transaction.batch_execute("COMMIT")).await;
        transaction.lent.settle(&committed);
        match committed {
            Ok(()) => {}
            Err(fault) if fault.is_ambiguous() => {
                drop(transaction);
                settle(fault).await?;
            }
            // A constraint that is checked at the end, say: the server has rolled back.
            Err(fault) => return Err(fault.into_error(&link.place)),
        }
        failpoint::pass("after_commit");
        Ok(written)
    }

    async fn complete_on(
        &self,
        client: &impl GenericClient,
        completion: &Completion,
        transaction: Option<&str>,
    ) -> Result<Timestamp, Error> {
        let link = &*self.link;
        // On a connection of our own: made inside the transaction, a partition would be locked
        // until its end.
        link.patiently(false, || link.provide(completion.retention)).await?;
        let finish = Finish::of(completion, transaction);
        let rows = link.answer_of(finish.on(client, &link.schema)).await;
        let rows = link.noting_partitions(rows).map_err(|fault| fault.into_error(&link.place))?;
        match rows.first() {
            Some(row) => row::time(row, "expires_at"),
            None => Err(self.why_not_finished(completion, transaction.is_some()).await),
        }
    }

    /// The record was not there to be finished.
    pub(super) async fn why_not_finished(&self, completion: &Completion, is_ours: bool) -> Error {
        let link = &*self.link;
        let found = match link.patiently(false, || link.look(&completion.id)).await {
            Ok(found) => found,
            Err(error) => return error,
        };
        match protocol::complete(found.record, completion, found.now) {
            Err(error) => error,
            Ok((_, Change::Keep)) => Error::new(
                ErrorKind::Invalid,
                "the record is finished already, so this transaction's work would be done twice; \
                 roll back",
            ),
            Ok(_) if is_ours => Error::new(
                ErrorKind::Invalid,
                "the handler ended the transaction that the store began; the record is not \
                 completed",
            ),
            Ok(_) => Error::new(
                ErrorKind::Invalid,
                "the transaction does not see the record as it is now; begin it after the claim, \
                 on the store's database",
            ),
        }
    }

    async fn roll_back(&self, mut transaction: PostgresTransaction) {
        let ended = self.transactions.answer_of(transaction.batch_execute("ROLLBACK")).await;
        // Unless it is certain that nothing is open, the connection is closed, which is as good.
        transaction.lent.settle(&ended);
    }

    /// Finds out what became of a commit whose answer was lost. The transaction deleted the
    /// record's unfinished row: as long as that is undecided the row is locked, and once it can be
    /// locked again and is still there, the transaction was rolled back.
    async fn settle(&self, id: &RecordId, fence: Fence, fault: Fault) -> Result<(), Error> {
        let link = &*self.link;
        let lost = fault.into_error(&link.place);
        let is_there = link.patiently(false, || still_open(link, id, fence)).await;
        let is_there = is_there.map_err(|_| again(&lost).with_outcome_unknown())?;
        if is_there {
            return Err(lost);
        }
        let found = link.patiently(false, || link.look(id)).await;
        let found = found.map_err(|_| again(&lost).with_outcome_unknown())?;
        match found.record {
            Some(record) if record.fence == fence => Ok(()),
            // Whoever took over found it unfinished: ours was rolled back.
            Some(_) => Err(Error::new(ErrorKind::ClaimLost, "another claim took over")),
            None => Err(lost.with_outcome_unknown()),
        }
    }
}

pub(super) fn again(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

/// Whether the unfinished row of this claim is there, once nobody is deciding about it.
pub(super) async fn still_open(link: &Link, id: &RecordId, fence: Fence) -> Result<bool, Fault> {
    let sql = link.schema.sql(
        "SELECT o.counter FROM semel.open AS o \
         WHERE o.key = $1 AND o.tenant = $2 AND o.operation = $3 AND o.counter = $4 \
         AND o.nonce = $5 FOR UPDATE",
    );
    let (key, tenant, operation) = (id.key.as_str(), id.tenant.as_str(), id.operation.as_str());
    let (counter, nonce) = (signed(fence.counter), &fence.nonce.as_bytes()[..]);
    let rows = link
        .call(
            &sql,
            &[
                (&key, Type::TEXT),
                (&tenant, Type::TEXT),
                (&operation, Type::TEXT),
                (&counter, Type::INT8),
                (&nonce, Type::BYTEA),
            ],
        )
        .await?;
    Ok(!rows.is_empty())
}
