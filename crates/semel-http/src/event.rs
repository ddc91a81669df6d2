//! What the door tells about its work, for metrics and logs. Low cardinality by construction: no
//! key, no path, no body.

use std::fmt;

use http::StatusCode;

use crate::answer::Refusal;

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Decision {
    /// Not guarded: another method, no key where none is needed.
    Bypass,
    /// The service ran and its answer is kept.
    Executed,
    /// The service ran and the key is free again.
    NotApplied,
    /// The service ran and nobody knows what it did.
    Unknown,
    /// A stored answer was sent.
    Replayed,
    /// The request was refused.
    Refused(Refusal),
}

impl Decision {
    /// The name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Executed => "executed",
            Self::NotApplied => "not-applied",
            Self::Refused(refusal) => refusal.slug(),
            Self::Replayed => "replayed",
            Self::Unknown => "unknown",
        }
    }
}

/// One answered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answered {
    /// How.
    pub decision: Decision,
    /// With which status. `None` where the service failed without a response.
    pub status: Option<StatusCode>,
}

/// Listens to answered requests. Called on the path of each request: be quick, do not block.
///
/// Every `Fn(&Answered)` is an observer. What the guard itself does (waits, lost claims, store
/// errors) is told to a [`semel::Observer`].
pub trait Observer: Send + Sync {
    /// A request was answered.
    fn answered(&self, answered: &Answered);
}

impl<F: Fn(&Answered) + Send + Sync> Observer for F {
    fn answered(&self, answered: &Answered) {
        self(answered);
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
