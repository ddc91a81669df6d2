//! The life of a record as pure functions: record and request in, answer and change out.
//!
//! ```text
//! absent ── claim ──► in progress
//! in progress ── complete(fence) ──► completed
//! in progress ── release(fence, not applied) ──► absent
//! in progress ── release(fence, unknown) ──► held | interrupted, as the effect mode says
//! in progress ── release(fence, hold) ──► held
//! in progress ── lease over ──► held | taken by the next claim, as the effect mode says
//! interrupted ── claim ──► in progress {higher fence, the same steps}
//! held ── takeover (a claim of its own, audited) ──► in progress ──► completed | absent
//! held ── complete or release by its own late owner (same fence) ──► completed | absent
//! completed ── retention over ──► absent
//! ```
//!
//! Stores that keep whole records (memory, SQLite) call these functions inside their own
//! transaction; stores that run the same steps in SQL or Lua are held to them by the conformance
//! suite. Nothing here reads a clock, and every function is total.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::fence::Fence;
use crate::record::{Hold, HoldCause, Record, State, Step};
use crate::store::{
    Action, ClaimRequest, Claimed, Completion, Release, ReleaseVerdict, Renewal, Takeover,
};

/// What a store has to write, in the same transaction in which it read the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Keep,
    /// This record.
    Put(Box<Record>),
    /// Delete the record; the counter stays.
    Remove,
}

/// Decides about a claim. `next_counter` is called at most once and must give a number higher
/// than every counter this key ever had.
pub fn claim(
    record: Option<Record>,
    request: &ClaimRequest,
    now: Timestamp,
    next_counter: impl FnOnce() -> u64,
) -> (Claimed, Change) {
    let Some(record) = record.filter(|record| !is_expired(record, now)) else {
        return claim_absent(request, now, next_counter);
    };
    if record.fence.nonce == request.nonce && matches!(record.state, State::InProgress { .. }) {
        return claim_again(record, request, now);
    }
    if let Some(takeover) = &request.takeover {
        return take_over(record, request, takeover, now, next_counter);
    }
    // The payload is compared first: whoever reuses a key for something else learns nothing
    // about the first use.
    if record.fingerprint != request.fingerprint {
        return (Claimed::Mismatch, Change::Keep);
    }
    match &record.state {
        State::Completed { outcome, expires_at, .. } => {
            let (outcome, expires_at) = (outcome.clone(), *expires_at);
            (Claimed::Completed { outcome, expires_at }, Change::Keep)
        }
        State::Held(hold) => (Claimed::Held(hold.clone()), Change::Keep),
        State::InProgress { lease_until } if *lease_until > now => {
            (Claimed::InFlight { lease_left: lease_until.since(now) }, Change::Keep)
        }
        State::InProgress { .. } => claim_silent(record, request, now, next_counter),
        // Given up under a mode that runs again, asked for under one that must not.
        State::Interrupted { .. } if request.effect.holds() => hold_interrupted(record, now),
        State::Interrupted { .. } => claim_next(record, request, now, next_counter),
    }
}

/// Prolongs the lease of the claim that holds `fence`.
///
/// # Errors
/// [`ErrorKind::ClaimLost`].
pub fn renew(
    record: Option<Record>,
    request: &Renewal,
    now: Timestamp,
) -> Result<(Timestamp, Change), Error> {
    let mut record = owned(record, request.fence, now)?;
    let State::InProgress { lease_until } = &mut record.state else {
        return Err(claim_lost());
    };
    let until = now.after(request.lease).max(*lease_until);
    *lease_until = until;
    record.updated_at = now;
    if let Some(step) = &request.step
        && !record.steps.iter().any(|done| done.name == step.name)
    {
        record.steps.push(step.clone());
    }
    Ok((until, Change::Put(Box::new(record))))
}

/// Stores a step of the claim that holds `fence`, in the transaction of the step's effect: as
/// [`renew`], but a step that is there already is refused, because this transaction would do its
/// effect a second time.
///
/// # Errors
/// [`ErrorKind::ClaimLost`], and [`ErrorKind::Invalid`] for a step that is there already.
pub fn commit_step(
    record: Option<Record>,
    request: &Renewal,
    now: Timestamp,
) -> Result<(Timestamp, Change), Error> {
    let is_done = |step: &Step| {
        let steps = record.iter().flat_map(|record| &record.steps);
        steps.into_iter().any(|done| done.name == step.name)
    };
    let again = request.step.as_ref().filter(|step| is_done(step)).map(|step| step.name.clone());
    let renewed = renew(record, request, now)?;
    match again {
        None => Ok(renewed),
        Some(name) => {
            let message = format!(
                "step `{name}` is finished already, so this transaction's work would be done \
                 twice; roll back"
            );
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

/// Ends the operation of the claim that holds `fence`.
///
/// # Errors
/// [`ErrorKind::ClaimLost`].
pub fn complete(
    record: Option<Record>,
    request: &Completion,
    now: Timestamp,
) -> Result<(Timestamp, Change), Error> {
    let mut record = owned(record, request.fence, now)?;
    match record.state {
        // The first completion's answer was lost on the way back; this is its retry.
        State::Completed { expires_at, .. } => Ok((expires_at, Change::Keep)),
        State::Interrupted { .. } => Err(claim_lost()),
        // A hold that nobody took over is resolved by its own late owner: the owner knows the
        // outcome, nobody else has executed, and a takeover would have changed the fence.
        State::Held(_) | State::InProgress { .. } => {
            let expires_at = now.after(request.retention);
            let outcome = request.outcome.clone();
            record.state = State::Completed { outcome, completed_at: now, expires_at };
            record.updated_at = now;
            // The outcome answers every retry from now on; step results would only cost space.
            record.steps = Vec::new();
            Ok((expires_at, Change::Put(Box::new(record))))
        }
    }
}

/// Ends the claim that holds `fence` without an outcome.
///
/// # Errors
/// [`ErrorKind::ClaimLost`].
pub fn release(record: Option<Record>, request: &Release, now: Timestamp) -> Result<Change, Error> {
    let mut record = owned(record, request.fence, now)?;
    match (&record.state, &request.verdict) {
        (State::Completed { .. } | State::Interrupted { .. }, _) => Err(claim_lost()),
        (State::Held(_) | State::InProgress { .. }, ReleaseVerdict::NotApplied) => {
            Ok(Change::Remove)
        }
        (State::Held(_), ReleaseVerdict::Hold(_) | ReleaseVerdict::Unknown(_)) => Ok(Change::Keep),
        (
            State::InProgress { .. },
            ReleaseVerdict::Hold(detail) | ReleaseVerdict::Unknown(detail),
        ) => {
            let is_asked = matches!(request.verdict, ReleaseVerdict::Hold(_));
            record.state = if is_asked || record.effect.holds() {
                State::Held(Hold::new(HoldCause::Reported, detail, now))
            } else {
                State::Interrupted { since: now }
            };
            // Its owner lived to tell, so the row of lost leases ends here.
            record.lost_leases = 0;
            record.updated_at = now;
            Ok(Change::Put(Box::new(record)))
        }
    }
}

/// Whether the record counts as absent.
#[must_use]
pub fn is_expired(record: &Record, now: Timestamp) -> bool {
    matches!(record.state, State::Completed { expires_at, .. } if expires_at <= now)
}

fn claim_absent(
    request: &ClaimRequest,
    now: Timestamp,
    next_counter: impl FnOnce() -> u64,
) -> (Claimed, Change) {
    if request.takeover.is_some() {
        return (Claimed::Absent, Change::Keep);
    }
    if let (Some(age_max), Some(minted_at)) = (request.key_age_max, request.id.key.minted_at())
        && minted_at.after(age_max) <= now
    {
        return (Claimed::TooOld, Change::Keep);
    }
    let record = Record {
        fingerprint: request.fingerprint,
        effect: request.effect,
        fence: Fence { counter: 0, nonce: request.nonce },
        state: State::Interrupted { since: now },
        steps: Vec::new(),
        attempts: 0,
        lost_leases: 0,
        created_at: now,
        updated_at: now,
    };
    claim_next(record, request, now, next_counter)
}

/// The same claim again, because its answer was lost: the same fence, a fresh lease.
fn claim_again(mut record: Record, request: &ClaimRequest, now: Timestamp) -> (Claimed, Change) {
    let fence = record.fence;
    acquire(&mut record, request, fence, now)
}

/// The owner of the record fell silent. It may have done its work.
fn claim_silent(
    mut record: Record,
    request: &ClaimRequest,
    now: Timestamp,
    next_counter: impl FnOnce() -> u64,
) -> (Claimed, Change) {
    record.lost_leases = record.lost_leases.saturating_add(1);
    let lost = record.lost_leases;
    // Either mode is enough: neither the promise made to the first caller nor the one configured
    // now may be broken by a change of settings in between.
    let hold = if record.effect.holds() || request.effect.holds() {
        let detail = format!("claim {} ended in silence: its lease ran out", record.fence.counter);
        Hold::new(HoldCause::LeaseLost, &detail, now)
    } else if lost >= request.lost_leases_max {
        let detail =
            format!("{lost} claims in a row ended in silence; running it again would loop");
        Hold::new(HoldCause::Poisoned, &detail, now)
    } else {
        return claim_next(record, request, now, next_counter);
    };
    record.state = State::Held(hold.clone());
    record.updated_at = now;
    (Claimed::Held(hold), Change::Put(Box::new(record)))
}

fn hold_interrupted(mut record: Record, now: Timestamp) -> (Claimed, Change) {
    let detail = format!("claim {} ended without knowing its outcome", record.fence.counter);
    let hold = Hold::new(HoldCause::Reported, &detail, now);
    record.state = State::Held(hold.clone());
    record.updated_at = now;
    (Claimed::Held(hold), Change::Put(Box::new(record)))
}

fn claim_next(
    mut record: Record,
    request: &ClaimRequest,
    now: Timestamp,
    next_counter: impl FnOnce() -> u64,
) -> (Claimed, Change) {
    let fence = Fence { counter: next_counter(), nonce: request.nonce };
    record.effect = request.effect;
    record.attempts = record.attempts.saturating_add(1);
    acquire(&mut record, request, fence, now)
}

fn take_over(
    mut record: Record,
    request: &ClaimRequest,
    takeover: &Takeover,
    now: Timestamp,
    next_counter: impl FnOnce() -> u64,
) -> (Claimed, Change) {
    match (&record.state, takeover.action) {
        (State::Completed { outcome, expires_at, .. }, Action::Complete | Action::Release) => {
            let (outcome, expires_at) = (outcome.clone(), *expires_at);
            return (Claimed::Completed { outcome, expires_at }, Change::Keep);
        }
        (State::Held(hold), Action::Purge) => return (Claimed::Held(hold.clone()), Change::Keep),
        (State::InProgress { lease_until }, action)
            if *lease_until > now || action == Action::Purge =>
        {
            let lease_left = lease_until.since(now);
            return (Claimed::InFlight { lease_left }, Change::Keep);
        }
        (State::Interrupted { .. }, Action::Purge) => {
            return (Claimed::InFlight { lease_left: Duration::ZERO }, Change::Keep);
        }
        _ => {}
    }
    let fence = Fence { counter: next_counter(), nonce: request.nonce };
    acquire(&mut record, request, fence, now)
}

fn acquire(
    record: &mut Record,
    request: &ClaimRequest,
    fence: Fence,
    now: Timestamp,
) -> (Claimed, Change) {
    let lease_until = now.after(request.lease);
    record.fence = fence;
    record.state = State::InProgress { lease_until };
    record.updated_at = now;
    let (steps, attempts) = (record.steps.clone(), record.attempts);
    let claimed = Claimed::Acquired { fence, lease_until, steps, attempts };
    (claimed, Change::Put(Box::new(record.clone())))
}

/// The record, if it is there and this fence is its latest claim.
fn owned(record: Option<Record>, fence: Fence, now: Timestamp) -> Result<Record, Error> {
    record.filter(|record| record.fence == fence && !is_expired(record, now)).ok_or_else(claim_lost)
}

fn claim_lost() -> Error {
    let message = "another claim of this key took over, or the record is gone; this claim may not \
                   write any more";
    Error::new(ErrorKind::ClaimLost, message)
}
