//! Steps inside transactions: of the store's own, of tokio-postgres and of sqlx.

use semel::protocol::{self, Change};
use semel::store::Renewal;
use semel::{Error, ErrorKind, Fence, RecordId, State, Timestamp, envelope};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use super::PostgresStore;
use super::fault::Fault;
use super::row::{self, signed, span};
use super::schema::Schema;
use super::single::{ROUNDS_MAX, contended};
use super::transaction::{again, still_open};

impl PostgresStore {
    /// Stores the step of a renewal ([`Context::step_renewal`](semel::Context::step_renewal))
    /// inside a transaction of the caller's on this store's database. Commit to keep the step and
    /// its effect; roll back and both are gone. Returns the new end of the lease. The transaction
    /// should be READ COMMITTED, as for [`complete_in`](Self::complete_in), and should end soon:
    /// heartbeats do not write the record while it is open.
    ///
    /// # Errors
    /// [`ErrorKind::ClaimLost`] when another claim took over, [`ErrorKind::Invalid`] for a step
    /// that is there already. After any error roll back.
    pub async fn step_in(
        &self,
        transaction: &impl GenericClient,
        renewal: &Renewal,
    ) -> Result<Timestamp, Error> {
        self.step_on(transaction, renewal, None).await
    }

    pub(super) async fn step_on(
        &self,
        client: &impl GenericClient,
        renewal: &Renewal,
        transaction: Option<&str>,
    ) -> Result<Timestamp, Error> {
        let link = &*self.link;
        let mut last_revision = None;
        for round in 0..ROUNDS_MAX {
            let next = self.next_step(renewal, transaction, &mut last_revision).await?;
            let rows = link.answer_of(next.on(client, &link.schema)).await;
            let rows = rows.map_err(|fault| fault.into_error(&link.place))?;
            if let Some(row) = rows.first() {
                return row::time(row, "deadline");
            }
            link.pause(round).await;
        }
        Err(contended().into_error(&link.place))
    }

    /// Reads the record, decides, and gives what is to be written. A record that has not changed
    /// since the last round was not the reason why that round wrote nothing.
    pub(super) async fn next_step<'a>(
        &self,
        renewal: &'a Renewal,
        transaction: Option<&'a str>,
        last_revision: &mut Option<i64>,
    ) -> Result<StepWrite<'a>, Error> {
        let link = &*self.link;
        let found = link.patiently(false, || link.look(&renewal.id)).await?;
        let (_, change) = protocol::commit_step(found.record, renewal, found.now)?;
        let Change::Put(record) = change else {
            return Err(Error::new(ErrorKind::Invalid, "the renewal has no step to store"));
        };
        if last_revision.replace(found.revision) == Some(found.revision) {
            let message = if transaction.is_some() {
                "the handler ended the transaction that the store began; the step is not stored"
            } else {
                "the transaction does not see the record as it is now; begin it after the claim, \
                 on the store's database"
            };
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(StepWrite {
            id: &renewal.id,
            counter: signed(renewal.fence.counter),
            nonce: renewal.fence.nonce.as_bytes(),
            revision: found.revision,
            lease: span(renewal.lease),
            steps: envelope::seal_steps(&record.steps),
            transaction,
        })
    }

    /// Finds out what became of a commit whose answer was lost. The transaction has written the
    /// record's row: once that can be locked again, it is decided, and the step tells how.
    pub(super) async fn settle_step(&self, renewal: &Renewal, fault: Fault) -> Result<(), Error> {
        let link = &*self.link;
        let lost = fault.into_error(&link.place);
        let (id, fence): (&RecordId, Fence) = (&renewal.id, renewal.fence);
        let is_there = link.patiently(false, || still_open(link, id, fence)).await;
        let is_there = is_there.map_err(|_| again(&lost).with_outcome_unknown())?;
        let found = link.patiently(false, || link.look(id)).await;
        let found = found.map_err(|_| again(&lost).with_outcome_unknown())?;
        let has_step = found.record.as_ref().is_some_and(|record| {
            let name = renewal.step.as_ref().map(|step| &step.name);
            record.steps.iter().any(|done| Some(&done.name) == name)
        });
        match found.record {
            Some(record) if record.fence == fence && is_there => {
                let is_ours = matches!(record.state, State::InProgress { .. });
                if has_step && is_ours { Ok(()) } else { Err(lost) }
            }
            // Whoever took over has the step, or the transaction was rolled back before.
            _ => {
                let message = "another claim took over while the step was committed";
                let error = Error::new(ErrorKind::ClaimLost, message);
                Err(if has_step { error.with_outcome_unknown() } else { error })
            }
        }
    }
}

/// What `step.sql` needs, for a connection of ours or of a caller.
pub(super) struct StepWrite<'a> {
    id: &'a RecordId,
    pub(super) counter: i64,
    pub(super) nonce: &'a [u8],
    pub(super) revision: i64,
    pub(super) lease: i64,
    pub(super) steps: Vec<u8>,
    /// The transaction in which it must happen, or any.
    pub(super) transaction: Option<&'a str>,
}

impl<'a> StepWrite<'a> {
    pub(super) fn names(&self) -> [&'a str; 3] {
        [self.id.key.as_str(), self.id.tenant.as_str(), self.id.operation.as_str()]
    }

    /// Runs it on a connection; the row tells the new end of the lease.
    async fn on(
        &self,
        client: &impl GenericClient,
        schema: &Schema,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let [key, tenant, operation] = self.names();
        client
            .query_typed(
                &schema.step,
                &[
                    (&key, Type::TEXT),
                    (&tenant, Type::TEXT),
                    (&operation, Type::TEXT),
                    (&self.counter, Type::INT8),
                    (&self.nonce, Type::BYTEA),
                    (&self.revision, Type::INT8),
                    (&self.lease, Type::INT8),
                    (&self.steps, Type::BYTEA),
                    (&self.transaction, Type::TEXT),
                ],
            )
            .await
    }
}
