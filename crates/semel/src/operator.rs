//! What an operator or a reconciler does to a record that waits for a decision.
//!
//! A decision is a claim of its own: it raises the fence, so that a late owner can no longer
//! write, it is audited in the same write, and everything after it is compare-and-set like any
//! other claim's. An operator who dies between claim and decision leaves a silent claim behind,
//! which the mode of the record handles.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::outcome::Outcome;
use crate::rng::{self, Random};
use crate::scope::RecordId;
use crate::store::{
    Action, ClaimRequest, Claimed, Completion, Release, ReleaseVerdict, Store, Takeover,
};

/// Who decides, and why; both are kept in the record's history.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// Who decides.
    pub actor: &'a str,
    /// Why; never empty.
    pub reason: &'a str,
}

/// How long a decision may take to be written.
const LEASE: Duration = Duration::from_secs(30);

/// Decides that the operation happened and ended with this outcome. Returns when it expires.
///
/// # Errors
/// [`ErrorKind::Invalid`] when there is nothing to decide (absent, executing, finished), and those
/// of the store.
pub async fn complete(
    store: &dyn Store,
    random: &dyn Random,
    id: &RecordId,
    by: By<'_>,
    outcome: Outcome,
    retention: Duration,
) -> Result<Timestamp, Error> {
    let fence =
        take_over(store, random, id, Takeover::new(Action::Complete, by.actor, by.reason)?).await?;
    store.complete(&Completion { id: id.clone(), fence, outcome, retention }).await
}

/// Decides that nothing happened: the key is free again.
///
/// # Errors
/// As [`complete`].
pub async fn release(
    store: &dyn Store,
    random: &dyn Random,
    id: &RecordId,
    by: By<'_>,
) -> Result<(), Error> {
    free(store, random, id, Takeover::new(Action::Release, by.actor, by.reason)?).await
}

/// Forgets a finished outcome: a retry of it will run again.
///
/// # Errors
/// As [`complete`]; also [`ErrorKind::Invalid`] when the record is not finished.
pub async fn purge(
    store: &dyn Store,
    random: &dyn Random,
    id: &RecordId,
    by: By<'_>,
) -> Result<(), Error> {
    free(store, random, id, Takeover::new(Action::Purge, by.actor, by.reason)?).await
}

async fn free(
    store: &dyn Store,
    random: &dyn Random,
    id: &RecordId,
    takeover: Takeover,
) -> Result<(), Error> {
    let fence = take_over(store, random, id, takeover).await?;
    let verdict = ReleaseVerdict::NotApplied;
    store.release(&Release { id: id.clone(), fence, verdict }).await
}

async fn take_over(
    store: &dyn Store,
    random: &dyn Random,
    id: &RecordId,
    takeover: Takeover,
) -> Result<crate::fence::Fence, Error> {
    let nonce = rng::nonce(random)?;
    let action = takeover.action;
    let refuse = |message: String| Err(Error::new(ErrorKind::Invalid, message));
    let Some(record) = store.get(id).await? else {
        return refuse(
            "there is no record of this key in this scope; nothing to decide".to_owned(),
        );
    };
    let request = ClaimRequest {
        id: id.clone(),
        fingerprint: record.fingerprint,
        effect: record.effect,
        nonce,
        lease: LEASE,
        lost_leases_max: u32::MAX,
        key_age_max: None,
        takeover: Some(takeover),
    };
    match store.claim(&request).await? {
        Claimed::Acquired { fence, .. } => Ok(fence),
        Claimed::Absent => refuse("the record is gone by now; nothing to decide".to_owned()),
        Claimed::Completed { .. } => refuse(format!(
            "the operation is finished, so there is nothing to {}; `purge` forgets its outcome",
            action.name()
        )),
        Claimed::Held(_) => refuse(
            "the record is held, not finished; use `complete` or `release` to resolve it"
                .to_owned(),
        ),
        Claimed::InFlight { lease_left } if lease_left.is_zero() => refuse(
            "the record is not finished; use `complete` or `release` to resolve it".to_owned(),
        ),
        Claimed::InFlight { lease_left } => refuse(format!(
            "a claim is executing; its lease lasts another {lease_left:?}: wait for it to end"
        )),
        Claimed::Mismatch | Claimed::TooOld => {
            refuse("the store gave a takeover an answer that is not one".to_owned())
        }
    }
}
