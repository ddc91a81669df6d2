//! What a store holds for (scope, key).

use std::fmt;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::effect::Effect;
use crate::fence::Fence;
use crate::fingerprint::Fingerprint;
use crate::outcome::Outcome;

/// Everything a store remembers about one operation.
///
/// Its transitions are in [`protocol`](crate::protocol); nothing else changes a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The request's meaning at the first claim.
    pub fingerprint: Fingerprint,
    /// The mode under which the latest claim executes.
    pub effect: Effect,
    /// The latest claim. Only writes that carry it are accepted.
    pub fence: Fence,
    /// Where in its life the record is.
    pub state: State,
    /// Results of the steps that are done.
    pub steps: Vec<Step>,
    /// How often the operation was claimed.
    pub attempts: u32,
    /// How many of those claims ended in silence.
    pub lost_leases: u32,
    /// When the operation was first claimed.
    pub created_at: Timestamp,
    /// When the record last changed (heartbeats included).
    pub updated_at: Timestamp,
}

/// Where in its life a record is. A record that is absent has no state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Finished; the outcome is replayed until `expires_at`.
    Completed {
        /// The stored answer.
        outcome: Outcome,
        /// When it was stored.
        completed_at: Timestamp,
        /// From then on the record counts as absent.
        expires_at: Timestamp,
    },
    /// Parked until someone resolves it.
    Held(Hold),
    /// Someone executes, or did until `lease_until`.
    InProgress {
        /// The end of the lease, by the store's clock.
        lease_until: Timestamp,
    },
    /// Its owner gave up without knowing the outcome, and the mode lets the next claim run again.
    Interrupted {
        /// When the owner gave up.
        since: Timestamp,
    },
}

impl State {
    /// The name in stores, logs and the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Completed { .. } => "completed",
            Self::Held(_) => "held",
            Self::InProgress { .. } => "in-progress",
            Self::Interrupted { .. } => "interrupted",
        }
    }
}

/// Why and since when a record is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What kind of silence it was.
    pub cause: HoldCause,
    /// One line for the operator; at most [`Hold::DETAIL_BYTES_MAX`] bytes, no payload.
    pub detail: String,
    /// When it was parked.
    pub since: Timestamp,
}

impl Hold {
    /// Longer details are cut.
    pub const DETAIL_BYTES_MAX: usize = 512;

    /// A reason to park a record.
    #[must_use]
    pub fn new(cause: HoldCause, detail: &str, since: Timestamp) -> Self {
        let end = detail.floor_char_boundary(Self::DETAIL_BYTES_MAX);
        // Not every store can keep a NUL in a text.
        Self { cause, detail: detail[..end].replace('\0', " "), since }
    }
}

/// What kind of silence parked a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldCause {
    /// The lease ended before the owner said anything: crash, kill, pause, partition.
    LeaseLost,
    /// Too many leases were lost one after the other; running it again would loop.
    Poisoned,
    /// The handler ended and could not tell what it did.
    Reported,
}

impl HoldCause {
    /// The name in stores, logs and the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeaseLost => "lease-lost",
            Self::Poisoned => "poisoned",
            Self::Reported => "reported",
        }
    }

    /// The cause of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::LeaseLost, Self::Poisoned, Self::Reported]
            .into_iter()
            .find(|cause| cause.name() == name)
    }
}

/// A named recovery point inside an operation, with its result.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// Unique within the operation.
    pub name: String,
    /// What the step returned, as the guard encoded it.
    pub result: Bytes,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Results hold personal data; a log line must not.
        let bytes = self.result.len();
        f.debug_struct("Step").field("name", &self.name).field("bytes", &bytes).finish()
    }
}
