//! One record at a time: look, decide by the protocol, write if nobody else has written meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use semel::protocol::{self, Change};
use semel::store::{ClaimRequest, Claimed, Completion, Release, Renewal, Takeover};
use semel::{Error, ErrorKind, Record, RecordId, State, Timestamp, envelope};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use super::fault::Fault;
use super::link::Link;
use super::row::{self, Columns, Found, signed, signed32, span};
use super::schema::Schema;

/// How often somebody else's write in between is taken as bad luck.
pub(super) const ROUNDS_MAX: u32 = 50;

/// How a compare-and-set ended.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// It is written, under this counter.
    Yes(u64),
    /// Somebody else has written since, or is writing.
    No,
}

impl Link {
    pub(super) async fn look(&self, id: &RecordId) -> Result<Found, Fault> {
        let rows = self.call_for(id, &self.schema.get).await?;
        let row = rows.first().ok_or_else(nothing)?;
        Ok(row::found(id, row)?)
    }

    /// Decides about a claim of a record that is there. `None`: it is not there any more, or
    /// somebody wrote it in between; claim again.
    pub(super) async fn decide(
        &self,
        request: &ClaimRequest,
        found: Found,
    ) -> Result<Option<Claimed>, Fault> {
        let Found { now, record, revision } = found;
        let seen = record.clone();
        let mut draws = false;
        let (claimed, change) = protocol::claim(record, request, now, || {
            draws = true;
            0
        });
        let (Change::Put(next), Some(seen)) = (change, seen) else {
            let is_answer = !matches!(claimed, Claimed::Acquired { .. });
            return Ok(is_answer.then_some(claimed));
        };
        let takeover = request.takeover.as_ref();
        let written = match &seen.state {
            State::Completed { .. } => self.reopen(request, &seen, &next, takeover).await?,
            _ => self.put(&request.id, &seen, revision, &next, draws, takeover).await?,
        };
        let Written::Yes(counter) = written else { return Ok(None) };
        Ok(Some(match claimed {
            Claimed::Acquired { mut fence, lease_until, steps, attempts } => {
                fence.counter = counter;
                Claimed::Acquired { fence, lease_until, steps, attempts }
            }
            other => other,
        }))
    }

    /// A renewal that stores a step, or one whose row somebody else was writing.
    pub(super) async fn renew_alone(&self, request: &Renewal) -> Result<Timestamp, Fault> {
        for round in 0..ROUNDS_MAX {
            let found = self.look(&request.id).await?;
            let seen = found.record.clone();
            let (until, change) = protocol::renew(found.record, request, found.now)?;
            let (Change::Put(next), Some(seen)) = (change, seen) else { return Ok(until) };
            let put = self.put(&request.id, &seen, found.revision, &next, false, None).await?;
            if put != Written::No {
                return Ok(until);
            }
            if let State::InProgress { lease_until } = seen.state
                && request.step.is_none()
                && round > 0
            {
                // Twice the row was being written: its own completion waits for a commit. The
                // lease is what it was.
                return Ok(lease_until);
            }
            self.pause(round).await;
        }
        Err(contended())
    }

    /// Finishes one claim, waiting for whoever writes its row.
    pub(super) async fn complete_alone(&self, request: &Completion) -> Result<Timestamp, Fault> {
        for round in 0..ROUNDS_MAX {
            let rows = self.finish(request).await?;
            if let Some(row) = rows.first() {
                return Ok(row::time(row, "expires_at")?);
            }
            let found = self.look(&request.id).await?;
            let (expires_at, change) = protocol::complete(found.record, request, found.now)?;
            if change == Change::Keep {
                return Ok(expires_at);
            }
            self.pause(round).await;
        }
        Err(contended())
    }

    async fn finish(&self, request: &Completion) -> Result<Vec<Row>, Fault> {
        self.provide(request.retention).await?;
        let mut lent = self.lend().await?;
        let finish = Finish::of(request, None);
        let answer = self.answer_of(finish.on(lent.client()?, &self.schema)).await;
        lent.settle(&answer);
        self.noting_partitions(answer)
    }

    pub(super) async fn release_alone(
        &self,
        request: &Release,
        has_tried: &AtomicBool,
    ) -> Result<(), Fault> {
        for round in 0..ROUNDS_MAX {
            let found = self.look(&request.id).await?;
            let seen = found.record.clone();
            let change = match protocol::release(found.record, request, found.now) {
                Ok(change) => change,
                // The answer to the first attempt was lost, and it had worked.
                Err(_) if has_tried.load(Ordering::Relaxed) && is_released(seen, request) => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            let Some(seen) = seen else { return Ok(()) };
            has_tried.store(true, Ordering::Relaxed);
            let written = match change {
                Change::Keep => return Ok(()),
                Change::Put(next) => {
                    self.put(&request.id, &seen, found.revision, &next, false, None).await?
                }
                Change::Remove => self.remove(&request.id, &seen, found.revision).await?,
            };
            if written != Written::No {
                return Ok(());
            }
            self.pause(round).await;
        }
        Err(contended())
    }

    async fn put(
        &self,
        id: &RecordId,
        seen: &Record,
        revision: i64,
        next: &Record,
        draws: bool,
        takeover: Option<&Takeover>,
    ) -> Result<Written, Fault> {
        let columns = Columns::of(next);
        let (seen_counter, seen_nonce) = fence(seen);
        let (updated_at, (_, nonce)) = (signed(next.updated_at.as_millis()), fence(next));
        let (attempts, lost) = (signed32(next.attempts), signed32(next.lost_leases));
        let (action, actor, reason) = audit(takeover);
        let rows = self
            .call(
                &self.schema.put,
                &[
                    (&id.key.as_str(), Type::TEXT),
                    (&id.tenant.as_str(), Type::TEXT),
                    (&id.operation.as_str(), Type::TEXT),
                    (&seen_counter, Type::INT8),
                    (&seen_nonce, Type::BYTEA),
                    (&revision, Type::INT8),
                    (&columns.state, Type::TEXT),
                    (&next.effect.name(), Type::TEXT),
                    (&draws, Type::BOOL),
                    (&nonce, Type::BYTEA),
                    (&attempts, Type::INT4),
                    (&lost, Type::INT4),
                    (&updated_at, Type::INT8),
                    (&columns.deadline, Type::INT8),
                    (&columns.since, Type::INT8),
                    (&columns.hold_cause, Type::TEXT),
                    (&columns.hold_detail, Type::TEXT),
                    (&columns.steps, Type::BYTEA),
                    (&action, Type::TEXT),
                    (&actor, Type::TEXT),
                    (&reason, Type::TEXT),
                ],
            )
            .await?;
        written(&rows)
    }

    async fn reopen(
        &self,
        request: &ClaimRequest,
        seen: &Record,
        next: &Record,
        takeover: Option<&Takeover>,
    ) -> Result<Written, Fault> {
        let ((counter, nonce), (_, own)) = (fence(seen), fence(next));
        let updated_at = signed(next.updated_at.as_millis());
        let columns = Columns::of(next);
        let (action, actor, reason) = audit(takeover);
        let rows = self
            .call(
                &self.schema.reopen,
                &[
                    (&request.id.key.as_str(), Type::TEXT),
                    (&request.id.tenant.as_str(), Type::TEXT),
                    (&request.id.operation.as_str(), Type::TEXT),
                    (&counter, Type::INT8),
                    (&nonce, Type::BYTEA),
                    (&next.effect.name(), Type::TEXT),
                    (&own, Type::BYTEA),
                    (&updated_at, Type::INT8),
                    (&columns.deadline, Type::INT8),
                    (&action, Type::TEXT),
                    (&actor, Type::TEXT),
                    (&reason, Type::TEXT),
                ],
            )
            .await?;
        written(&rows)
    }

    async fn remove(&self, id: &RecordId, seen: &Record, revision: i64) -> Result<Written, Fault> {
        let (counter, nonce) = fence(seen);
        let rows = self
            .call(
                &self.schema.remove,
                &[
                    (&id.key.as_str(), Type::TEXT),
                    (&id.tenant.as_str(), Type::TEXT),
                    (&id.operation.as_str(), Type::TEXT),
                    (&counter, Type::INT8),
                    (&nonce, Type::BYTEA),
                    (&revision, Type::INT8),
                ],
            )
            .await?;
        written(&rows)
    }
}

/// What `finish.sql` needs, for a connection of ours or of a caller.
pub(super) struct Finish<'a> {
    id: &'a RecordId,
    pub(super) counter: i64,
    pub(super) nonce: &'a [u8],
    pub(super) retention: i64,
    pub(super) outcome: Vec<u8>,
    /// The transaction in which it must happen, or any.
    pub(super) transaction: Option<&'a str>,
}

impl<'a> Finish<'a> {
    pub(super) fn of(completion: &'a Completion, transaction: Option<&'a str>) -> Self {
        Self {
            id: &completion.id,
            counter: signed(completion.fence.counter),
            nonce: completion.fence.nonce.as_bytes(),
            retention: span(completion.retention),
            outcome: envelope::seal_outcome(&completion.outcome),
            transaction,
        }
    }

    pub(super) fn names(&self) -> [&'a str; 3] {
        [self.id.key.as_str(), self.id.tenant.as_str(), self.id.operation.as_str()]
    }

    /// Runs it on a connection; the row tells when the record expires.
    pub(super) async fn on(
        &self,
        client: &impl GenericClient,
        schema: &Schema,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let [key, tenant, operation] = self.names();
        client
            .query_typed(
                &schema.finish,
                &[
                    (&key, Type::TEXT),
                    (&tenant, Type::TEXT),
                    (&operation, Type::TEXT),
                    (&self.counter, Type::INT8),
                    (&self.nonce, Type::BYTEA),
                    (&self.retention, Type::INT8),
                    (&self.outcome, Type::BYTEA),
                    (&self.transaction, Type::TEXT),
                ],
            )
            .await
    }
}

/// Whether the record is as a release of this fence leaves it.
fn is_released(record: Option<Record>, request: &Release) -> bool {
    record.is_none_or(|record| {
        record.fence == request.fence && matches!(record.state, State::Interrupted { .. })
    })
}

fn fence(record: &Record) -> (i64, &[u8]) {
    (signed(record.fence.counter), record.fence.nonce.as_bytes())
}

fn audit(takeover: Option<&Takeover>) -> (Option<&str>, Option<&str>, Option<&str>) {
    match takeover {
        None => (None, None, None),
        Some(it) => (Some(it.action.name()), Some(&it.actor), Some(&it.reason)),
    }
}

fn written(rows: &[Row]) -> Result<Written, Fault> {
    Ok(match rows.first() {
        None => Written::No,
        Some(row) => Written::Yes(row::number(row, "counter")?),
    })
}

fn nothing() -> Fault {
    Error::new(ErrorKind::Corrupt, "the store answered a look with no row at all").into()
}

pub(super) fn contended() -> Fault {
    let message = "the record is written by others all the time; try again";
    Error::new(ErrorKind::Unavailable, message).into()
}
