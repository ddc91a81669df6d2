//! Completion and steps inside transactions of sqlx.

use semel::store::{Completion, Renewal};
use semel::{Error, ErrorKind, Timestamp};
use sqlx::{PgConnection, Row};

use super::PostgresStore;
use super::single::{Finish, ROUNDS_MAX, contended};

impl PostgresStore {
    /// [`complete_in`](Self::complete_in) for a transaction of sqlx: hand over `&mut *transaction`.
    ///
    /// # Errors
    /// As [`complete_in`](Self::complete_in).
    pub async fn complete_in_sqlx(
        &self,
        transaction: &mut PgConnection,
        completion: &Completion,
    ) -> Result<Timestamp, Error> {
        let link = &*self.link;
        link.patiently(false, || link.provide(completion.retention)).await?;
        let finish = Finish::of(completion, None);
        let [key, tenant, operation] = finish.names();
        // The statement is a constant of ours with the schema's checked name in it.
        let sql = sqlx::AssertSqlSafe(link.schema.finish.as_str());
        let row = sqlx::query(sql)
            .persistent(false)
            .bind(key)
            .bind(tenant)
            .bind(operation)
            .bind(finish.counter)
            .bind(finish.nonce)
            .bind(finish.retention)
            .bind(&finish.outcome)
            .bind(finish.transaction)
            .fetch_optional(transaction)
            .await
            .inspect_err(|error| {
                // No partition for the record, although one was believed to be there.
                let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
                if code.as_deref() == Some("23514") {
                    link.forget_partitions();
                }
            })
            .map_err(failed)?;
        let Some(row) = row else { return Err(self.why_not_finished(completion, false).await) };
        let expires_at: i64 = row.try_get("expires_at").map_err(failed)?;
        Ok(Timestamp::from_millis(expires_at.unsigned_abs()))
    }

    /// [`step_in`](Self::step_in) for a transaction of sqlx: hand over `&mut *transaction`.
    ///
    /// # Errors
    /// As [`step_in`](Self::step_in).
    pub async fn step_in_sqlx(
        &self,
        transaction: &mut PgConnection,
        renewal: &Renewal,
    ) -> Result<Timestamp, Error> {
        let link = &*self.link;
        let mut last_revision = None;
        for round in 0..ROUNDS_MAX {
            let next = self.next_step(renewal, None, &mut last_revision).await?;
            let [key, tenant, operation] = next.names();
            let row = sqlx::query(sqlx::AssertSqlSafe(link.schema.step.as_str()))
                .persistent(false)
                .bind(key)
                .bind(tenant)
                .bind(operation)
                .bind(next.counter)
                .bind(next.nonce)
                .bind(next.revision)
                .bind(next.lease)
                .bind(&next.steps)
                .bind(next.transaction)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(failed)?;
            if let Some(row) = row {
                let deadline: i64 = row.try_get("deadline").map_err(failed)?;
                return Ok(Timestamp::from_millis(deadline.unsigned_abs()));
            }
            link.pause(round).await;
        }
        Err(contended().into_error(&link.place))
    }
}

fn failed(error: sqlx::Error) -> Error {
    let message = format!("the record cannot be written in the transaction: {error}; roll back");
    Error::new(ErrorKind::Unavailable, message).with_source(error)
}
