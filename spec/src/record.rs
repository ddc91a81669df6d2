//! The record of the model, small enough to be hashed millions of times, and its way through the
//! real protocol.

use std::time::Duration;

use semel::protocol::{self, Change};
use semel::store::{
    Action, ClaimRequest, Claimed, Completion, Release, ReleaseVerdict, Renewal, Takeover,
};
use semel::{
    Effect, Error, Fence, Fingerprint, Hold, HoldCause, Key, Nonce, OnUnknown, Operation, Outcome,
    Record, RecordId, State, Step, Tenant, Timestamp, Verdict,
};

/// The fence of a claim: the nonce is the number of the claim in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark {
    /// The counter that the store gave.
    pub counter: u8,
    /// The claim's own number.
    pub nonce: u8,
}

/// What the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The latest claim.
    pub mark: Mark,
    /// Where in its life the record is.
    pub phase: Phase,
    /// Finished steps.
    pub steps: u8,
    /// Leases lost in a row.
    pub lost: u8,
}

/// Where in its life a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Finished by this claim.
    Done(u8),
    /// Parked.
    Held,
    /// Free for the next claim.
    Interrupted,
    /// Executing; whether the lease still runs.
    Running(bool),
}

/// What a claim brought, in the words of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// Execute from this step on.
    Acquired(Mark, u8),
    /// Finished by this claim.
    Done(u8),
    /// Parked.
    Held,
    /// Somebody else executes.
    Busy,
}

/// The store: one record and a counter, changed by the real protocol only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shelf {
    /// The record of the only key.
    pub entry: Option<Entry>,
    /// The highest counter given.
    pub counter: u8,
    /// A write was accepted from a claim that is not the record's latest, or a new claim got a
    /// counter that is not higher than the one before.
    pub broken: bool,
}

/// The model's time stands still; a lease runs out by being set to the past.
const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const LEASE: Duration = Duration::from_millis(500_000);

impl Shelf {
    /// A claim by a caller, or by an operator.
    pub fn claim(
        &mut self,
        nonce: u8,
        effect: Effect,
        takeover: Option<Action>,
        lost_max: u32,
    ) -> Got {
        let request = ClaimRequest {
            id: id(),
            fingerprint: Fingerprint::from_bytes([7; 32]),
            effect,
            nonce: nonce_of(nonce),
            lease: LEASE,
            lost_leases_max: lost_max,
            key_age_max: None,
            takeover: takeover.map(|action| Takeover {
                action,
                actor: "operator".to_owned(),
                reason: "the model".to_owned(),
            }),
        };
        let mut counter = self.counter;
        let record = self.entry.map(|entry| record_of(entry, effect));
        let (claimed, change) = protocol::claim(record, &request, NOW, || {
            counter += 1;
            u64::from(counter)
        });
        self.counter = counter;
        let before = self.entry.map(|entry| entry.mark);
        self.apply(change);
        match claimed {
            Claimed::Acquired { fence, steps, .. } => {
                let mark = mark_of(fence);
                self.broken |= before.is_some_and(|it| it != mark && it.counter >= mark.counter);
                Got::Acquired(mark, steps.len() as u8)
            }
            Claimed::Completed { outcome, .. } => Got::Done(outcome.body[0]),
            Claimed::Held(_) => Got::Held,
            _ => Got::Busy,
        }
    }

    /// Stores a finished step; `false` when the claim is lost.
    pub fn renew(&mut self, mark: Mark, step: Option<u8>, effect: Effect) -> bool {
        let step = step.map(|step| Step { name: step.to_string(), result: vec![step].into() });
        let request = Renewal { id: id(), fence: fence_of(mark), lease: LEASE, step };
        let changed = protocol::renew(self.record(effect), &request, NOW);
        self.write(mark, changed.map(|(_, change)| change))
    }

    /// Stores the outcome of this claim; `false` when the claim is lost.
    pub fn complete(&mut self, mark: Mark, effect: Effect) -> bool {
        let outcome = Outcome {
            verdict: Verdict::Succeeded,
            format: "model".to_owned(),
            head: vec![].into(),
            body: vec![mark.nonce].into(),
        };
        let retention = LEASE;
        let request = Completion { id: id(), fence: fence_of(mark), outcome, retention };
        let changed = protocol::complete(self.record(effect), &request, NOW);
        self.write(mark, changed.map(|(_, change)| change))
    }

    /// Ends a claim without an outcome; `false` when the claim is lost.
    pub fn release(&mut self, mark: Mark, applied_maybe: bool, effect: Effect) -> bool {
        let verdict = if applied_maybe {
            ReleaseVerdict::Unknown(String::new())
        } else {
            ReleaseVerdict::NotApplied
        };
        let request = Release { id: id(), fence: fence_of(mark), verdict };
        let changed = protocol::release(self.record(effect), &request, NOW);
        self.write(mark, changed)
    }

    /// `false` when the claim is lost.
    fn write(&mut self, mark: Mark, changed: Result<Change, Error>) -> bool {
        let Ok(change) = changed else { return false };
        self.broken |= self.entry.is_none_or(|entry| entry.mark != mark);
        self.apply(change);
        true
    }

    fn record(&self, effect: Effect) -> Option<Record> {
        self.entry.map(|entry| record_of(entry, effect))
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Keep => {}
            Change::Put(record) => self.entry = Some(entry_of(&record)),
            Change::Remove => self.entry = None,
        }
    }
}

#[expect(clippy::expect_used, reason = "the names keep the rules")]
fn id() -> RecordId {
    thread_local! {
        static ID: RecordId = RecordId {
            tenant: Tenant::single(),
            operation: Operation::new("model").expect("a name"),
            key: Key::parse("key").expect("a key"),
        };
    }
    ID.with(RecordId::clone)
}

fn nonce_of(nonce: u8) -> Nonce {
    Nonce::from_bytes([nonce; 16])
}

fn fence_of(mark: Mark) -> Fence {
    Fence { counter: u64::from(mark.counter), nonce: nonce_of(mark.nonce) }
}

fn mark_of(fence: Fence) -> Mark {
    Mark { counter: fence.counter as u8, nonce: fence.nonce.as_bytes()[0] }
}

fn record_of(entry: Entry, effect: Effect) -> Record {
    let state = match entry.phase {
        Phase::Done(by) => State::Completed {
            outcome: Outcome {
                verdict: Verdict::Succeeded,
                format: "model".to_owned(),
                head: vec![].into(),
                body: vec![by].into(),
            },
            completed_at: NOW,
            expires_at: NOW.after(LEASE),
        },
        Phase::Held => State::Held(Hold::new(HoldCause::LeaseLost, "", NOW)),
        Phase::Interrupted => State::Interrupted { since: NOW },
        Phase::Running(live) => {
            let lease_until = if live { NOW.after(LEASE) } else { Timestamp::default() };
            State::InProgress { lease_until }
        }
    };
    let step = |step: u8| Step { name: step.to_string(), result: vec![step].into() };
    Record {
        fingerprint: Fingerprint::from_bytes([7; 32]),
        effect,
        fence: fence_of(entry.mark),
        state,
        steps: (0..entry.steps).map(step).collect(),
        attempts: 1,
        lost_leases: u32::from(entry.lost),
        created_at: NOW,
        updated_at: NOW,
    }
}

fn entry_of(record: &Record) -> Entry {
    let phase = match &record.state {
        State::Completed { outcome, .. } => Phase::Done(outcome.body[0]),
        State::Held(_) => Phase::Held,
        State::Interrupted { .. } => Phase::Interrupted,
        State::InProgress { lease_until } => Phase::Running(*lease_until > NOW),
    };
    Entry {
        mark: mark_of(record.fence),
        phase,
        steps: record.steps.len() as u8,
        lost: record.lost_leases as u8,
    }
}

/// The mode of a hold or of a retry, for callers.
#[must_use]
pub fn foreign(hold: bool) -> Effect {
    Effect::Foreign(if hold { OnUnknown::Hold } else { OnUnknown::Retry })
}
