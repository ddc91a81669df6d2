//! What a queue must do with a task that did not answer: the one table of this door.

use std::time::Duration;

use semel::{Error, ErrorKind};

/// What a queue must do with a task whose execution gave an error.
///
/// | error | it means | decision |
/// |---|---|---|
/// | `InFlight` | another worker has it, and may yet lose it | `Reschedule` |
/// | `NotApplied` | proven: nothing happened | `Reschedule` |
/// | `Unavailable`, `ClaimLost` | the record will tell what became of it | `Reschedule` |
/// | `OutcomeUnknown` | it ended without telling, and the mode runs it again | `Reschedule` |
/// | the same, [held](Error::is_held) | held by its mode, or after too many lost leases | `Park` |
/// | `Corrupt`, `TooNew`, `Settings` | the record or this program needs somebody | `Park` |
/// | `Refused` | finished, with a refusal: [`Error::refusal`] | `Acknowledge` |
/// | `TooLarge` | finished, the answer was too large to keep | `Acknowledge` |
/// | `Mismatch`, `Invalid`, `TooOld` | the task itself can never run | `DeadLetter` |
///
/// An error that says both "too large" and "outcome unknown" ran and could not be recorded; it is
/// rescheduled like any unknown outcome. Kinds that a later version adds are rescheduled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Take it off the queue: it is finished.
    Acknowledge,
    /// Take it off the queue and keep it where people look: it can never succeed.
    DeadLetter {
        /// Why, without payload.
        reason: String,
    },
    /// Stop delivering it until somebody has resolved its record (`semel records`); delivered
    /// again after that, it gets the resolved answer.
    Park {
        /// Why, without payload.
        reason: String,
    },
    /// Deliver it again.
    Reschedule {
        /// Not earlier than in this time.
        after: Duration,
    },
}

impl Decision {
    /// When to come back where the error does not say.
    pub const AFTER: Duration = Duration::from_secs(1);

    /// Looks the error up in the table.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let reason = || error.to_string();
        match error.kind() {
            _ if error.is_held() => Self::Park { reason: reason() },
            ErrorKind::Refused => Self::Acknowledge,
            ErrorKind::TooLarge if !error.outcome_unknown() => Self::Acknowledge,
            ErrorKind::Mismatch | ErrorKind::Invalid | ErrorKind::TooOld => {
                Self::DeadLetter { reason: reason() }
            }
            ErrorKind::Corrupt | ErrorKind::TooNew | ErrorKind::Settings => {
                Self::Park { reason: reason() }
            }
            _ => Self::Reschedule { after: error.retry_after().unwrap_or(Self::AFTER) },
        }
    }

    /// The name in metrics and in other languages: `acknowledge`, `dead-letter`, `park` or
    /// `reschedule`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::DeadLetter { .. } => "dead-letter",
            Self::Park { .. } => "park",
            Self::Reschedule { .. } => "reschedule",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_finished_is_acknowledged() {
        let named = |kind| Decision::of(&Error::new(kind, "x")).name();
        for (kind, name) in [
            (ErrorKind::InFlight, "reschedule"),
            (ErrorKind::NotApplied, "reschedule"),
            (ErrorKind::Unavailable, "reschedule"),
            (ErrorKind::ClaimLost, "reschedule"),
            (ErrorKind::OutcomeUnknown, "reschedule"),
            (ErrorKind::Corrupt, "park"),
            (ErrorKind::TooNew, "park"),
            (ErrorKind::Settings, "park"),
            (ErrorKind::Refused, "acknowledge"),
            (ErrorKind::TooLarge, "acknowledge"),
            (ErrorKind::Mismatch, "dead-letter"),
            (ErrorKind::Invalid, "dead-letter"),
            (ErrorKind::TooOld, "dead-letter"),
        ] {
            assert_eq!(named(kind), name, "{kind:?}");
        }
        let held = Error::new(ErrorKind::OutcomeUnknown, "x").with_held();
        assert_eq!(Decision::of(&held).name(), "park");
        let unrecorded = Error::new(ErrorKind::TooLarge, "x").with_outcome_unknown();
        assert_eq!(Decision::of(&unrecorded).name(), "reschedule");
    }
}
