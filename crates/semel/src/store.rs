//! The contract between the engine and whatever keeps its records.
//!
//! # Rules for every store
//!
//! 1. Each method is atomic: it happens whole or not at all, also when the process dies in it.
//! 2. [`renew`](Store::renew), [`complete`](Store::complete) and [`release`](Store::release) are
//!    compare-and-set on the whole fence. There is no unconditional write.
//! 3. Transitions are those of [`protocol`](crate::protocol). A store either calls these
//!    functions inside a transaction of its own or does the same in its own language; the
//!    conformance suite (feature `conformance`) tells whether it does.
//! 4. The store's own clock decides about leases and retention, and expiry is checked when a
//!    record is read; a background job only saves space.
//! 5. The fence's counter rises with every claim of a key and survives release, expiry and
//!    restart. A counter shared by all keys is fine.
//! 6. [`claim`](Store::claim) is idempotent by nonce, so a claim whose answer was lost can be sent
//!    again.
//! 7. An `Ok` of [`complete`](Store::complete) is as durable as [`Capabilities::durable`] says.
//! 8. Dropping a returned future does not undo the operation; it may or may not have happened.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{BoxFuture, Timestamp};
use crate::effect::Effect;
use crate::error::{Error, ErrorKind};
use crate::fence::{Fence, Nonce};
use crate::fingerprint::Fingerprint;
use crate::outcome::Outcome;
use crate::record::{Hold, Record, State, Step};
use crate::scope::RecordId;

/// Keeps records. See the rules in the [module's page](self).
///
/// Errors of every method: [`ErrorKind::Unavailable`] when the store cannot be asked (with
/// [`Error::outcome_unknown`] when the operation may have happened), [`ErrorKind::Corrupt`] and
/// [`ErrorKind::TooNew`] when a record cannot be read; nothing is changed then.
pub trait Store: fmt::Debug + Send + Sync {
    /// What this store can and cannot promise.
    fn capabilities(&self) -> Capabilities;

    /// Tries to become the one that executes.
    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>>;

    /// Prolongs the lease and, if given, stores the result of a step in the same write. Returns
    /// the new end of the lease.
    ///
    /// Fails with [`ErrorKind::ClaimLost`] when the record has another fence or is not in
    /// progress. A step that is there already keeps its first result.
    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>>;

    /// Ends the operation with an outcome and returns when the record expires.
    ///
    /// Fails with [`ErrorKind::ClaimLost`] when the record has another fence. Completing twice
    /// with one fence keeps the first outcome and succeeds, so a lost answer can be retried.
    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>>;

    /// Ends the claim without an outcome: the record becomes absent, held, or free for the next
    /// claim, as the release says.
    ///
    /// Fails with [`ErrorKind::ClaimLost`] when the record has another fence.
    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>>;

    /// Reads a record; an expired one is absent.
    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>>;

    /// Deletes up to `limit` expired records and returns how many there were. Never touches a
    /// record that is in progress or held.
    ///
    /// With [`Capabilities::native_expiry`] it may delete and count more: a dropped partition goes
    /// as a whole.
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>>;

    /// Completes when this record may have changed. A hint for waiters; the default never
    /// completes and leaves them to their polling.
    fn changed<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, ()> {
        let _ = id;
        Box::pin(std::future::pending())
    }
}

/// What a store can and cannot promise. The conformance suite runs the cases that apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// An acknowledged completion survives a crash of the machine.
    pub durable: bool,
    /// Several processes see the same records.
    pub shared: bool,
    /// Completion can join a transaction of the caller's database.
    pub transactional: bool,
    /// Expired records go by themselves or many at once, at no cost that grows with their number.
    pub native_expiry: bool,
}

impl Capabilities {
    /// Nothing is promised beyond the life of the process.
    #[must_use]
    pub const fn none() -> Self {
        Self { durable: false, shared: false, transactional: false, native_expiry: false }
    }

    /// Sets [`Self::durable`].
    #[must_use]
    pub const fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Sets [`Self::shared`].
    #[must_use]
    pub const fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// Sets [`Self::transactional`].
    #[must_use]
    pub const fn transactional(mut self) -> Self {
        self.transactional = true;
        self
    }

    /// Sets [`Self::native_expiry`].
    #[must_use]
    pub const fn native_expiry(mut self) -> Self {
        self.native_expiry = true;
        self
    }
}

/// The wish to execute.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Which operation.
    pub id: RecordId,
    /// The request's meaning; compared before anything about the record is revealed.
    pub fingerprint: Fingerprint,
    /// The mode under which it would execute.
    pub effect: Effect,
    /// This claim's own mark; the same on every attempt to send it.
    pub nonce: Nonce,
    /// How long the claim stays valid without a heartbeat.
    pub lease: Duration,
    /// After this many lost leases in a row the record is held instead of run again.
    pub lost_leases_max: u32,
    /// Refuse an unknown key that says it is older than this ([`Claimed::TooOld`]).
    pub key_age_max: Option<Duration>,
    /// An operator's or reconciler's claim of a record that waits for a decision.
    pub takeover: Option<Takeover>,
}

/// A claim by someone who decides about a record instead of executing it. It is audited in the
/// same write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// What is going to be done.
    pub action: Action,
    /// Who does it.
    pub actor: String,
    /// Why; never empty.
    pub reason: String,
}

impl Takeover {
    /// The longest actor and the longest reason, in bytes.
    pub const TEXT_BYTES_MAX: usize = 1024;

    /// A takeover with an actor and a reason.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when one of them is empty or too long.
    pub fn new(action: Action, actor: &str, reason: &str) -> Result<Self, Error> {
        for (what, text) in [("actor", actor), ("reason", reason)] {
            if text.trim().is_empty() || text.len() > Self::TEXT_BYTES_MAX {
                let max = Self::TEXT_BYTES_MAX;
                let message =
                    format!("the {what} must have 1 to {max} bytes; it is kept for audit");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(Self { action, actor: actor.to_owned(), reason: reason.to_owned() })
    }
}

/// What an operator does to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Decide that it happened, and how it ended. For held records and silent claims.
    Complete,
    /// Forget a finished outcome, so that the key may be used again. For completed records.
    Purge,
    /// Decide that nothing happened, so that the key may be used again. For held records and
    /// silent claims.
    Release,
}

impl Action {
    /// The name in stores, logs and the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Purge => "purge",
            Self::Release => "release",
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Complete, Self::Purge, Self::Release].into_iter().find(|it| it.name() == name)
    }
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// There is nothing to take over. Only a claim with a [`Takeover`] is answered so.
    Absent,
    /// Execute. Every later write carries this fence.
    Acquired {
        /// The new claim's fence.
        fence: Fence,
        /// The end of the lease, by the store's clock.
        lease_until: Timestamp,
        /// What earlier attempts got done.
        steps: Vec<Step>,
        /// How many claims there were, this one included.
        attempts: u32,
    },
    /// Finished before: replay.
    Completed {
        /// The stored answer.
        outcome: Outcome,
        /// When the record expires.
        expires_at: Timestamp,
    },
    /// Parked: the outcome is unknown until someone resolves it.
    Held(Hold),
    /// Someone else executes.
    InFlight {
        /// How long the other's lease still lasts.
        lease_left: Duration,
    },
    /// The key was used with another payload.
    Mismatch,
    /// Nothing is known of the key, and it is too old for that to mean anything.
    TooOld,
}

/// Prolongs a lease.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// Which operation.
    pub id: RecordId,
    /// The claim that writes.
    pub fence: Fence,
    /// How long from now the claim stays valid.
    pub lease: Duration,
    /// A finished step to store in the same write.
    pub step: Option<Step>,
}

/// Ends an operation with an outcome.
#[derive(Clone, Debug)]
pub struct Completion {
    /// Which operation.
    pub id: RecordId,
    /// The claim that writes.
    pub fence: Fence,
    /// The answer to keep.
    pub outcome: Outcome,
    /// How long to keep it.
    pub retention: Duration,
}

/// Ends a claim without an outcome.
#[derive(Clone, Debug)]
pub struct Release {
    /// Which operation.
    pub id: RecordId,
    /// The claim that writes.
    pub fence: Fence,
    /// What is known about the effect.
    pub verdict: ReleaseVerdict,
}

/// What is known about the effect of a claim that ends without an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseVerdict {
    /// Somebody has to look, whatever the effect mode says. The record is held; the text tells an
    /// operator why.
    Hold(String),
    /// Proven: nothing happened. The record becomes absent.
    NotApplied,
    /// Not known. The record is held, or free for the next claim, as its effect mode says; the
    /// text tells an operator why.
    Unknown(String),
}

/// Looking around in a store, for operators and metrics. Bounded by construction.
pub trait Inspect: Store {
    /// Records after `after`, in the order of their ids, at most `limit`.
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a RecordId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Summary>, Error>>;

    /// How many records there are in each state.
    fn count(&self) -> BoxFuture<'_, Result<Counts, Error>>;

    /// Who took this record over, when and why; the latest last, at most `limit`.
    fn audit<'a>(
        &'a self,
        id: &'a RecordId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEntry>, Error>>;

    /// Decisions about this key in any scope, also about records that are gone; the latest last,
    /// at most `limit`.
    fn decisions<'a>(
        &'a self,
        key: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordId, AuditEntry)>, Error>>;
}

/// Which records to list. An empty filter lists all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this state.
    pub state: Option<StateFilter>,
    /// Only this key, in any scope.
    pub key: Option<String>,
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only this operation.
    pub operation: Option<String>,
}

/// A state to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateFilter {
    /// Finished and not expired.
    Completed,
    /// In progress with a lease that is over: a silent claim that nobody has asked about yet.
    Expired,
    /// Parked.
    Held,
    /// Executing.
    InProgress,
    /// Given up by its owner; the next claim runs again.
    Interrupted,
}

/// A record without its payloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Which operation.
    pub id: RecordId,
    /// The state's name; see [`State::name`](crate::State::name). `damaged` when the store cannot
    /// read the record; its other fields mean nothing then.
    pub state: &'static str,
    /// The mode of the latest claim.
    pub effect: Effect,
    /// The latest claim.
    pub fence: Fence,
    /// How often the operation was claimed.
    pub attempts: u32,
    /// When it was first claimed.
    pub created_at: Timestamp,
    /// When the record last changed.
    pub updated_at: Timestamp,
    /// The end of the lease, or of the retention.
    pub deadline: Option<Timestamp>,
    /// Why it is held.
    pub hold: Option<Hold>,
}

/// How many records there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Finished, expired ones included until they are swept.
    pub completed: u64,
    /// Finished and expired: what the next sweeps will delete.
    pub expired: u64,
    /// Parked.
    pub held: u64,
    /// Executing, silent ones included.
    pub in_progress: u64,
    /// Given up by their owners, free for the next claim.
    pub interrupted: u64,
    /// In progress with a lease that is over.
    pub silent: u64,
}

/// One takeover in the history of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// The fence that the takeover got.
    pub fence: Fence,
    /// Who, what and why.
    pub takeover: Takeover,
}

/// A store that can complete a record, or store a step of it, inside a transaction of the same
/// database, so that effect and record exist together or not at all.
///
/// The claim itself is committed before the transaction starts; that way a duplicate hears
/// "in flight" at once instead of waiting for the transaction's locks.
pub trait TransactionalStore: Store {
    /// An open transaction that owns its connection. Dropping it rolls back.
    type Transaction: Send + 'static;

    /// Opens a transaction for one handler.
    fn begin(&self) -> BoxFuture<'_, Result<Self::Transaction, Error>>;

    /// Completes the record in the transaction and commits both; returns when the record expires.
    ///
    /// Fails with [`ErrorKind::ClaimLost`] when another claim took over: the transaction is
    /// rolled back. Any other error without [`Error::outcome_unknown`] says that nothing was
    /// committed. One with it leaves that open: a finished record proves the commit, an unfinished
    /// one proves nothing, because the commit may still be on its way.
    fn commit<'a>(
        &'a self,
        transaction: Self::Transaction,
        completion: &'a Completion,
    ) -> BoxFuture<'a, Result<Timestamp, Error>>;

    /// Stores the renewal's step in the transaction and commits both, so that the step's effect
    /// and its result exist together or not at all; returns the new end of the lease.
    ///
    /// Fails as [`commit`](Self::commit) does: with [`ErrorKind::ClaimLost`] when another claim
    /// took over, with [`ErrorKind::Invalid`] when the step is there already; the transaction is
    /// rolled back then. An error with [`Error::outcome_unknown`] leaves the end open: a stored
    /// step proves the commit, a missing one proves nothing.
    fn commit_step<'a>(
        &'a self,
        transaction: Self::Transaction,
        renewal: &'a Renewal,
    ) -> BoxFuture<'a, Result<Timestamp, Error>>;

    /// Rolls back.
    fn rollback(&self, transaction: Self::Transaction) -> BoxFuture<'_, Result<(), Error>>;
}

/// Limits on what a record may hold, checked before a store is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) outcome_bytes_max: usize,
    pub(crate) step_bytes_max: usize,
    pub(crate) steps_max: usize,
}

impl Limits {
    pub(crate) fn check_step(&self, step: &str, bytes: &Bytes, so_far: usize) -> Result<(), Error> {
        let problem = if step.is_empty() || step.len() > 255 {
            "a step's name must have 1 to 255 bytes".to_owned()
        } else if bytes.len() > self.step_bytes_max {
            let (len, max) = (bytes.len(), self.step_bytes_max);
            format!("the result of step `{step}` has {len} bytes; `step_bytes_max` is {max}")
        } else if so_far >= self.steps_max {
            let max = self.steps_max;
            format!("step `{step}` would be one more than `steps_max` ({max}) allows")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::TooLarge, problem))
    }

    pub(crate) fn check_outcome(&self, outcome: &Outcome) -> Result<(), Error> {
        if outcome.len() <= self.outcome_bytes_max {
            return Ok(());
        }
        let (len, max) = (outcome.len(), self.outcome_bytes_max);
        let message = format!("the answer has {len} bytes; `outcome_bytes_max` is {max}");
        Err(Error::new(ErrorKind::TooLarge, message))
    }
}

impl Summary {
    /// What a list shows of a record.
    #[must_use]
    pub fn of(id: &RecordId, record: &Record) -> Self {
        let (deadline, hold) = match &record.state {
            State::Completed { expires_at, .. } => (Some(*expires_at), None),
            State::Held(hold) => (None, Some(hold.clone())),
            State::InProgress { lease_until } => (Some(*lease_until), None),
            State::Interrupted { .. } => (None, None),
        };
        Self {
            id: id.clone(),
            state: record.state.name(),
            effect: record.effect,
            fence: record.fence,
            attempts: record.attempts,
            created_at: record.created_at,
            updated_at: record.updated_at,
            deadline,
            hold,
        }
    }
}
