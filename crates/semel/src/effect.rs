//! Where the effect lives decides what can be promised; so the caller has to say it.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

/// What the handler does to the world. A required argument: nothing chooses it silently.
///
/// | mode | effect under crash, pause and delayed messages, while the record lives |
/// |---|---|
/// | [`Transactional`](Self::Transactional) | exactly once |
/// | [`Keyed`](Self::Keyed) | exactly once as long as the downstream remembers the key |
/// | [`FencedQuery`](Self::FencedQuery) | exactly once |
/// | [`Foreign`](Self::Foreign)([`Retry`](OnUnknown::Retry)) | at least once |
/// | [`Foreign`](Self::Foreign)([`Hold`](OnUnknown::Hold)) | at most once |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The downstream deduplicates on [`Context::step_key`](crate::Context::step_key), which is
    /// equal across attempts. Survives even the loss of our record.
    Keyed,
    /// The sink raises its fence to ours and is read back, atomically, before executing.
    FencedQuery,
    /// Anything else. What happens after an unknown outcome has to be chosen.
    Foreign(OnUnknown),
    /// Effect and record commit in one transaction of one database.
    Transactional,
}

/// What to do with an execution that ended without telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnUnknown {
    /// Park it: callers hear "outcome unknown" until someone resolves it. At most once.
    Hold,
    /// Run it again. At least once.
    Retry,
}

impl Effect {
    /// Whether an unknown outcome parks the record instead of letting the next claim run again.
    #[must_use]
    pub const fn holds(self) -> bool {
        matches!(self, Self::Foreign(OnUnknown::Hold))
    }

    /// The name in stores, logs and the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FencedQuery => "fenced-query",
            Self::Foreign(OnUnknown::Hold) => "hold",
            Self::Foreign(OnUnknown::Retry) => "retry",
            Self::Keyed => "keyed",
            Self::Transactional => "transactional",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Effect {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Ok(match name {
            "fenced-query" => Self::FencedQuery,
            "hold" => Self::Foreign(OnUnknown::Hold),
            "keyed" => Self::Keyed,
            "retry" => Self::Foreign(OnUnknown::Retry),
            "transactional" => Self::Transactional,
            other => {
                let message = format!(
                    "effect mode `{other}` is unknown; use transactional, keyed, fenced-query, \
                     hold or retry"
                );
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        })
    }
}
