//! Makes retried work take effect once.
//!
//! A call that may be repeated (an HTTP request, a Kafka record, a queue task) is given a
//! [`Key`] by its caller. A [`Guard`] runs the work behind that key once and answers every repeat
//! with the stored outcome: **claim, lease, heartbeat, fence and stored outcome**, over the
//! [`Store`] a team already runs.
//!
//! This crate is the engine. It does no I/O: stores are in `semel-stores`, the HTTP door is in
//! `semel-http`, and the command line is `semel-cli`.
//!
//! # What is promised
//!
//! Of any number of concurrent or repeated calls with one key, at most one holds a claim at a
//! time, and all answered calls get the same answer, as long as the record lives
//! ([`Settings::retention`], the store's durability). How often your *effect* happens is decided
//! by where it lives, which is why [`Effect`] is a required argument:
//!
//! | mode | effect under crash, pause and delayed messages |
//! |---|---|
//! | [`Effect::Transactional`] | exactly once |
//! | [`Effect::Keyed`] | exactly once as long as the downstream remembers the key |
//! | [`Effect::FencedQuery`] | exactly once |
//! | [`Effect::Foreign`]`(Retry)` | at least once |
//! | [`Effect::Foreign`]`(Hold)` | at most once; callers may hear "outcome unknown" |
//!
//! A lease or a fence alone is **not** exactly once: a crash between effect and completion is
//! invisible to any middleware. semel says "unknown" then; it never guesses.
//!
//! # Use
//!
//! [`Guard::run`] shows the whole of it in twenty lines. From there:
//!
//! - [`Context::step`] stores results of parts, so that a retry continues where it stopped.
//! - [`Failure`] says how a handler fails: stored refusal, proven "nothing happened", or unknown.
//! - [`Settings`] holds every number with its default and reason.
//! - [`operator`] is what people do to records that wait for a decision.
//! - [`store`] is the contract for stores of your own, `conformance` (feature) the suite they must
//!   pass.
//! - [`protocol`] is the life of a record as pure functions.
//!
//! # Time, chance and runtimes
//!
//! The guard works under every async runtime and spawns nothing: heartbeats run beside the
//! handler inside the returned future, paced by a [`Clock`]. [`ManualClock`] and
//! [`SeededRandom`] make tests reproducible.
//!
//! # Features
//!
//! - `conformance`: the public suite and the reference machine. No dependencies of its own.
//! - `failpoints`: named points at which tests stop or kill the process.
//!
//! Features add items; they never change behaviour.

pub mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod effect;
pub mod envelope;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod fence;
pub mod fingerprint;
pub mod guard;
pub mod key;
pub mod memory;
pub mod operator;
pub mod outcome;
pub mod protocol;
pub mod record;
pub mod rng;
pub mod scope;
pub mod settings;
pub mod store;
#[cfg(test)]
mod testing;

pub use clock::{BoxFuture, Clock, ManualClock, SystemClock, Timestamp};
pub use effect::{Effect, OnUnknown};
pub use error::{BoxError, Error, ErrorKind};
pub use event::{Event, Observer};
pub use fence::{Fence, Nonce};
pub use fingerprint::{Fingerprint, FingerprintKey, Fingerprinter};
pub use guard::{
    Answer, Context, Ending, Executed, Failure, Guard, GuardBuilder, StepContext, StepFailure,
};
pub use key::Key;
pub use memory::MemoryStore;
pub use outcome::{Outcome, Verdict};
pub use record::{Hold, HoldCause, Record, State, Step};
pub use rng::{Random, SeededRandom, SystemRandom};
pub use scope::{Operation, RecordId, Tenant};
pub use settings::{Settings, Wait};
pub use store::{Capabilities, Inspect, Store, TransactionalStore};
