//! Many records in one call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use semel::store::{ClaimRequest, Completion, Renewal};
use semel::{BoxFuture, Error, ErrorKind, RecordId, Timestamp, envelope};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::link::Link;
use super::row::{self, Found, signed, span};
use crate::coalesce::{Bounds, Coalescer};

/// A finished operation on its way into a batch, with its answer already in stored form.
pub(super) struct Finished {
    id: RecordId,
    counter: i64,
    nonce: [u8; 16],
    keep_for: Duration,
    outcome: Vec<u8>,
}

impl From<&Completion> for Finished {
    fn from(completion: &Completion) -> Self {
        Self {
            id: completion.id.clone(),
            counter: signed(completion.fence.counter),
            nonce: *completion.fence.nonce.as_bytes(),
            keep_for: completion.retention,
            outcome: envelope::seal_outcome(&completion.outcome),
        }
    }
}

/// The batches of a store. `None` as an answer: this one has to be done alone.
#[derive(Debug)]
pub(super) struct Batches {
    pub(super) claims: Coalescer<ClaimRequest, Looked>,
    pub(super) completions: Coalescer<Finished, Option<Timestamp>>,
    pub(super) renewals: Coalescer<Renewal, Option<Timestamp>>,
}

impl Batches {
    pub(super) fn new(link: &Arc<Link>, bounds: Bounds) -> Self {
        let [claim, complete, renew] = ["claim(", "complete(", "renew("].map(|function| {
            let count = match function {
                "claim(" => 8,
                "complete(" => 7,
                _ => 6,
            };
            let places: Vec<_> = (1..=count).map(|it| format!("${it}")).collect();
            let name = link.schema.sql(&format!("semel.{function}"));
            Arc::<str>::from(format!("SELECT * FROM {name}{})", places.join(", ")))
        });
        let renewals = Bounds { lanes: 1, ..bounds };
        Self {
            claims: Coalescer::new(bounds, runner(link, claim, false, claim_all)),
            completions: Coalescer::new(bounds, runner(link, complete, true, complete_all)),
            renewals: Coalescer::new(renewals, runner(link, renew, true, renew_all)),
        }
    }
}

/// An answer for each of a batch, or why it failed as a whole.
type Answers<Answer> = Result<Vec<Result<Answer, Error>>, Fault>;

/// How one kind of batch is sent.
type Send<Op, Answer> = for<'a> fn(&'a Link, &'a str, &'a [Op]) -> BoxFuture<'a, Answers<Answer>>;

fn runner<Op: std::marker::Send + Sync + 'static, Answer: std::marker::Send + 'static>(
    link: &Arc<Link>,
    sql: Arc<str>,
    is_effect: bool,
    send: Send<Op, Answer>,
) -> impl Fn(Vec<Op>) -> BoxFuture<'static, Vec<Result<Answer, Error>>>
+ std::marker::Send
+ Sync
+ 'static {
    let link = Arc::clone(link);
    move |ops| {
        let (link, sql) = (Arc::clone(&link), Arc::clone(&sql));
        Box::pin(async move {
            let together = link.patiently(is_effect, || async {
                match send(&link, &sql, &ops).await {
                    // One of many met a rival: the others must not pay for it.
                    Err(fault) if fault.is_rival() && ops.len() > 1 => Ok(None),
                    answers => answers.map(Some),
                }
            });
            match together.await {
                Ok(Some(answers)) => answers,
                Ok(None) => one_by_one(&link, &sql, is_effect, send, &ops).await,
                Err(error) => ops.iter().map(|_| Err(again(&error))).collect(),
            }
        })
    }
}

async fn one_by_one<Op: Sync, Answer>(
    link: &Link,
    sql: &str,
    is_effect: bool,
    send: Send<Op, Answer>,
    ops: &[Op],
) -> Vec<Result<Answer, Error>> {
    let mut answers = Vec::with_capacity(ops.len());
    for op in ops.chunks(1) {
        let alone = link.patiently(is_effect, || send(link, sql, op)).await;
        answers.push(alone.and_then(|mut answers| answers.pop().unwrap_or_else(|| Err(missing()))));
    }
    answers
}

/// What became of a claim in a batch.
#[derive(Debug)]
pub(super) enum Looked {
    /// It is the first of its key.
    Fresh {
        /// The number it got.
        counter: u64,
        /// When, by the server's clock.
        now: Timestamp,
    },
    /// There is something, or there was a moment ago.
    There(Box<Found>),
}

fn claim_all<'a>(
    link: &'a Link,
    sql: &'a str,
    asked: &'a [ClaimRequest],
) -> BoxFuture<'a, Answers<Looked>> {
    Box::pin(async move {
        let rows = match asked {
            [one] => ask_for_one(link, one).await?,
            many => ask_for_many(link, sql, many).await?,
        };
        let mut answers: Vec<_> = asked.iter().map(|_| Err(missing())).collect();
        let by_nonce = |nonce: &[u8]| asked.iter().position(|it| it.nonce.as_bytes() == nonce);
        // Fresh ones come first, in the order of their names; mostly that is all there is.
        let places: HashMap<&[u8], usize> = match asked {
            [_] => HashMap::new(),
            many => {
                many.iter().enumerate().map(|(at, it)| (&it.nonce.as_bytes()[..], at)).collect()
            }
        };
        let mut is_fresh = vec![false; asked.len()];
        for row in &rows {
            if row::column::<Option<&str>>(row, "state")? == Some("fresh") {
                let nonce: &[u8] = row::column(row, "nonce")?;
                let place = places.get(nonce).copied().or_else(|| by_nonce(nonce));
                let Some(place) = place else { continue };
                let (counter, now) = (row::number(row, "counter")?, row::time(row, "now")?);
                answers[place] = Ok(Looked::Fresh { counter, now });
                is_fresh[place] = true;
                continue;
            }
            let place = place_of(row)?;
            if let (Some(false), Some(asked)) = (is_fresh.get(place), asked.get(place)) {
                answers[place] =
                    row::found(&asked.id, row).map(|found| Looked::There(found.into()));
            }
        }
        Ok(answers)
    })
}

async fn ask_for_one(link: &Link, asked: &ClaimRequest) -> Result<Vec<Row>, Fault> {
    let [key, tenant, operation] =
        [asked.id.key.as_str(), asked.id.tenant.as_str(), asked.id.operation.as_str()];
    let (fingerprint, nonce) = (&asked.fingerprint.as_bytes()[..], &asked.nonce.as_bytes()[..]);
    let (effect, lease) = (asked.effect.name(), span(asked.lease));
    link.call(
        &link.schema.claim_one,
        &[
            (&key, Type::TEXT),
            (&tenant, Type::TEXT),
            (&operation, Type::TEXT),
            (&fingerprint, Type::BYTEA),
            (&effect, Type::TEXT),
            (&nonce, Type::BYTEA),
            (&lease, Type::INT8),
            (&insert_until(asked), Type::INT8),
        ],
    )
    .await
}

async fn ask_for_many(link: &Link, sql: &str, asked: &[ClaimRequest]) -> Result<Vec<Row>, Fault> {
    let [keys, tenants, operations] = names(asked.iter().map(|it| &it.id));
    let fingerprints = column(asked, |it| &it.fingerprint.as_bytes()[..]);
    let effects = column(asked, |it| it.effect.name());
    let nonces = column(asked, |it| &it.nonce.as_bytes()[..]);
    let leases = column(asked, |it| span(it.lease));
    let until = column(asked, insert_until);
    link.call(
        sql,
        &[
            (&keys, Type::TEXT_ARRAY),
            (&tenants, Type::TEXT_ARRAY),
            (&operations, Type::TEXT_ARRAY),
            (&fingerprints, Type::BYTEA_ARRAY),
            (&effects, Type::TEXT_ARRAY),
            (&nonces, Type::BYTEA_ARRAY),
            (&leases, Type::INT8_ARRAY),
            (&until, Type::INT8_ARRAY),
        ],
    )
    .await
}

fn complete_all<'a>(
    link: &'a Link,
    sql: &'a str,
    ended: &'a [Finished],
) -> BoxFuture<'a, Answers<Option<Timestamp>>> {
    Box::pin(async move {
        for finished in ended {
            link.provide(finished.keep_for).await?;
        }
        let rows = match ended {
            [one] => end_one(link, one).await,
            many => end_many(link, sql, many).await,
        };
        let rows = link.noting_partitions(rows)?;
        times(&rows, "expires_at", ended.len())
    })
}

async fn end_one(link: &Link, ended: &Finished) -> Result<Vec<Row>, Fault> {
    let [key, tenant, operation] =
        [ended.id.key.as_str(), ended.id.tenant.as_str(), ended.id.operation.as_str()];
    let (nonce, keep_for) = (&ended.nonce[..], span(ended.keep_for));
    link.call(
        &link.schema.complete_one,
        &[
            (&key, Type::TEXT),
            (&tenant, Type::TEXT),
            (&operation, Type::TEXT),
            (&ended.counter, Type::INT8),
            (&nonce, Type::BYTEA),
            (&keep_for, Type::INT8),
            (&ended.outcome, Type::BYTEA),
        ],
    )
    .await
}

async fn end_many(link: &Link, sql: &str, ended: &[Finished]) -> Result<Vec<Row>, Fault> {
    let [keys, tenants, operations] = names(ended.iter().map(|it| &it.id));
    let counters = column(ended, |it| it.counter);
    let nonces = column(ended, |it| &it.nonce[..]);
    let retentions = column(ended, |it| span(it.keep_for));
    let outcomes = column(ended, |it| &it.outcome[..]);
    link.call(
        sql,
        &[
            (&keys, Type::TEXT_ARRAY),
            (&tenants, Type::TEXT_ARRAY),
            (&operations, Type::TEXT_ARRAY),
            (&counters, Type::INT8_ARRAY),
            (&nonces, Type::BYTEA_ARRAY),
            (&retentions, Type::INT8_ARRAY),
            (&outcomes, Type::BYTEA_ARRAY),
        ],
    )
    .await
}

fn renew_all<'a>(
    link: &'a Link,
    sql: &'a str,
    asked: &'a [Renewal],
) -> BoxFuture<'a, Answers<Option<Timestamp>>> {
    Box::pin(async move {
        let [keys, tenants, operations] = names(asked.iter().map(|it| &it.id));
        let counters = column(asked, |it| signed(it.fence.counter));
        let nonces = column(asked, |it| &it.fence.nonce.as_bytes()[..]);
        let leases = column(asked, |it| span(it.lease));
        let rows = link
            .call(
                sql,
                &[
                    (&keys, Type::TEXT_ARRAY),
                    (&tenants, Type::TEXT_ARRAY),
                    (&operations, Type::TEXT_ARRAY),
                    (&counters, Type::INT8_ARRAY),
                    (&nonces, Type::BYTEA_ARRAY),
                    (&leases, Type::INT8_ARRAY),
                ],
            )
            .await?;
        times(&rows, "deadline", asked.len())
    })
}

/// Until when an unknown key may be claimed as new.
fn insert_until(request: &ClaimRequest) -> i64 {
    if request.takeover.is_some() {
        return 0;
    }
    match (request.key_age_max, request.id.key.minted_at()) {
        (Some(age_max), Some(minted_at)) => signed(minted_at.after(age_max).as_millis()),
        _ => i64::MAX,
    }
}

fn names<'a>(ids: impl Iterator<Item = &'a RecordId> + Clone) -> [Vec<&'a str>; 3] {
    [
        ids.clone().map(|id| id.key.as_str()).collect(),
        ids.clone().map(|id| id.tenant.as_str()).collect(),
        ids.map(|id| id.operation.as_str()).collect(),
    ]
}

fn column<'a, Op, T>(ops: &'a [Op], value: impl Fn(&'a Op) -> T) -> Vec<T> {
    ops.iter().map(value).collect()
}

/// Answers by place; who is not among the rows has to be done alone.
fn times(rows: &[Row], name: &str, count: usize) -> Answers<Option<Timestamp>> {
    let mut answers: Vec<_> = (0..count).map(|_| Ok(None)).collect();
    for row in rows {
        if let Some(answer) = answers.get_mut(place_of(row)?) {
            *answer = row::time(row, name).map(Some);
        }
    }
    Ok(answers)
}

fn place_of(row: &Row) -> Result<usize, Fault> {
    let place = row::number(row, "place")?;
    Ok(usize::try_from(place).unwrap_or(0).saturating_sub(1))
}

fn missing() -> Error {
    Error::new(ErrorKind::Corrupt, "the store left an operation of a batch unanswered")
        .with_outcome_unknown()
}

/// The same error for each of a batch.
fn again(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string());
    if error.outcome_unknown() { copy.with_outcome_unknown() } else { copy }
}
