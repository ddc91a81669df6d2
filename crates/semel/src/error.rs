//! One error type, a coarse kind that says what to do, and a message that says what happened.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::outcome::Outcome;

/// Any error that can be boxed and sent between threads.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong, and what the caller must do about it.
///
/// Ask [`Error::is_retryable`] and [`Error::outcome_unknown`] before matching on kinds: kinds may
/// be added, the two questions stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A write came from a claim that another claim has replaced. **Do not repeat the write**;
    /// read the record again and take the winner's outcome. [`Guard`](crate::Guard) does this.
    ClaimLost,
    /// Stored bytes do not decode or fail their checksum. **Look**: nothing was executed, nothing
    /// was changed. An operator decides with `semel records`.
    Corrupt,
    /// Another claim of this key is executing. **Retry** after [`Error::retry_after`].
    InFlight,
    /// A key, tenant or other argument breaks its rule. **Fix the caller.**
    Invalid,
    /// The key was used before with another payload. **Fix the caller**: a new operation needs a
    /// new key.
    Mismatch,
    /// The handler proved that nothing happened; the key is free. **Retry** if you like.
    NotApplied,
    /// An execution ended without telling. **Do not retry blindly**: the effect may have
    /// happened. The record stays until someone resolves it, or the lease lets it run again.
    OutcomeUnknown,
    /// The operation finished before with a refusal that was stored. **Give up**: the answer will
    /// not change. [`Error::refusal`] holds it.
    Refused,
    /// Settings contradict each other or break the promise. **Fix the settings.**
    Settings,
    /// Something is over a documented limit. **Fix the caller or raise the limit.**
    TooLarge,
    /// The store or a record was written by a newer version. **Upgrade** this program.
    TooNew,
    /// The key says it was made longer ago than records are kept, so "never seen" proves nothing.
    /// **Give up and reconcile.**
    TooOld,
    /// The store could not be asked. **Retry** with the same key; nothing was executed unless
    /// [`Error::outcome_unknown`] says so.
    Unavailable,
}

impl ErrorKind {
    /// The number under which `docs/errors` explains this kind.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Settings => "E0101",
            Self::Unavailable => "E0102",
            Self::Corrupt => "E0103",
            Self::TooNew => "E0104",
            Self::TooLarge => "E0105",
            Self::OutcomeUnknown => "E0106",
            Self::ClaimLost => "E0107",
            Self::Invalid => "E0108",
            Self::Mismatch => "E0109",
            Self::InFlight => "E0110",
            Self::TooOld => "E0111",
            Self::NotApplied => "E0112",
            Self::Refused => "E0113",
        }
    }
}

/// An error of the engine, a store or a door.
///
/// `Display` is one lower-case sentence that names the thing, the rule and the way out. It never
/// contains a payload or a secret.
pub struct Error(Box<Inner>);

/// Boxed, because errors are rare and every `Result` carries their size.
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    outcome_unknown: bool,
    held: bool,
    retry_after: Option<Duration>,
    refusal: Option<Outcome>,
    source: Option<BoxError>,
}

impl Error {
    /// An error of this kind with a message for people.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            outcome_unknown: kind == ErrorKind::OutcomeUnknown,
            held: false,
            retry_after: None,
            refusal: None,
            source: None,
        }))
    }

    /// The stored refusal of an operation that finished before.
    #[must_use]
    pub fn refused(outcome: Outcome) -> Self {
        let mut error = Self::new(
            ErrorKind::Refused,
            "the operation finished with a refusal that is stored; it will not run again",
        );
        error.0.refusal = Some(outcome);
        error
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Says that the effect may have happened although no record tells.
    #[must_use]
    pub fn with_outcome_unknown(mut self) -> Self {
        self.0.outcome_unknown = true;
        self
    }

    /// Takes [`Self::with_outcome_unknown`] back, where it is known that nothing was executed.
    #[must_use]
    pub(crate) fn with_nothing_executed(mut self) -> Self {
        self.0.outcome_unknown = false;
        self
    }

    /// Says that the record is parked until someone resolves it.
    #[must_use]
    pub fn with_held(mut self) -> Self {
        self.0.held = true;
        self
    }

    /// Says when asking again makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call with the same key may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::InFlight | ErrorKind::NotApplied | ErrorKind::Unavailable)
    }

    /// Whether the effect may have happened. `false` is a promise: this call caused nothing.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        self.0.outcome_unknown
    }

    /// Whether the record is known to be parked: asking again changes nothing until someone
    /// resolves it. `false` leaves it open.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.held
    }

    /// When to ask again, if the store could tell.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The stored refusal, for [`ErrorKind::Refused`].
    #[must_use]
    pub fn refusal(&self) -> Option<&Outcome> {
        self.0.refusal.as_ref()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("outcome_unknown", &self.0.outcome_unknown)
            .field("source", &self.0.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unknown_outcome_claims_that_the_effect_may_have_happened() {
        assert!(Error::new(ErrorKind::OutcomeUnknown, "x").outcome_unknown());
        assert!(!Error::new(ErrorKind::Unavailable, "x").outcome_unknown());
        assert!(Error::new(ErrorKind::Unavailable, "x").with_outcome_unknown().outcome_unknown());
    }

    #[test]
    fn an_unknown_outcome_is_never_called_retryable() {
        assert!(!Error::new(ErrorKind::OutcomeUnknown, "x").is_retryable());
    }
}
