//! Makes retried work take effect once.
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
