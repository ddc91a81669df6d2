//! What a guard tells about its work, for metrics and tests.

use std::fmt;

use crate::error::ErrorKind;

/// Something a guard did. Carries no key and no payload, so that nothing leaks into metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A claim was acquired; `attempts` above one means that an earlier claim ended without an
    /// outcome.
    Claimed {
        /// How many claims the record has seen.
        attempts: u32,
    },
    /// A write was refused because another claim took over.
    ClaimLost,
    /// An outcome was stored.
    Completed,
    /// A heartbeat found the claim taken over, or the execution reached its ceiling.
    LeaseLost,
    /// A handler proved that nothing happened; the key is free again.
    NotApplied,
    /// A claim was refused.
    Refused {
        /// Why.
        kind: ErrorKind,
    },
    /// A stored outcome was returned instead of running the handler.
    Replayed,
    /// A call to the store failed (it may be tried again).
    StoreError {
        /// How.
        kind: ErrorKind,
    },
    /// A handler ended without telling what happened.
    Unknown,
    /// A caller waits for another execution of its key.
    Waiting,
}

/// Listens to events. Called on the path of a request: be quick, do not block.
///
/// Every `Fn(&Event)` is an observer.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Observer for F {
    fn event(&self, event: &Event) {
        self(event);
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

pub(crate) struct NoObserver;

impl Observer for NoObserver {
    fn event(&self, _event: &Event) {}
}
