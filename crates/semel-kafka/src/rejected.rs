//! Records that cannot be handled, and what becomes of them.

use std::fmt;
use std::time::Duration;

use semel::{BoxError, Error, ErrorKind};

use crate::log::{Header, Outgoing, Record};

/// Why a record was not handled. [`Reason::name`] is what stands in headers and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handler failed as often as the [`Poison`] rule allows, or said that it always will.
    HandlerFailed,
    /// The payload cannot be read.
    Malformed,
    /// The id was used with another payload.
    Mismatch,
    /// There is no id where the [`Identity`](crate::Identity) looks for it.
    MissingId,
    /// What the handler wants to write is refused by the log.
    OutputRefused,
    /// An earlier execution ended without telling, and its effect may have happened.
    OutcomeUnknown,
    /// The handler gave a refusal that was stored: it will never succeed.
    Refused,
    /// The id says that it is older than records are kept.
    TooOld,
}

impl Reason {
    /// The name in headers and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HandlerFailed => "handler-failed",
            Self::Malformed => "malformed",
            Self::Mismatch => "mismatch",
            Self::MissingId => "missing-id",
            Self::OutputRefused => "output-refused",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::Refused => "refused",
            Self::TooOld => "too-old",
        }
    }
}

/// A record was not handled.
#[derive(Clone, Debug)]
pub(crate) struct Rejected {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    /// Trying again may help.
    pub(crate) is_passing: bool,
}

impl Rejected {
    /// Trying again does not help.
    pub(crate) fn at_once(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), is_passing: false }
    }

    /// Trying again may help.
    pub(crate) fn for_now(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), is_passing: true }
    }

    pub(crate) fn of_handler(failed: &Failed) -> Self {
        let detail = failed.error.to_string();
        Self { reason: Reason::HandlerFailed, detail, is_passing: !failed.is_final }
    }
}

/// How a handler of an [`Inbox`](crate::Inbox) or a [`Transform`](crate::Transform) fails.
/// Whatever it wrote through its transaction is undone.
///
/// Every `std::error::Error` becomes [`Failed::retry`] by `?`.
pub struct Failed {
    error: BoxError,
    is_final: bool,
}

impl Failed {
    /// It may work later: try again as the [`Poison`] rule says.
    #[must_use]
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self { error: error.into(), is_final: false }
    }

    /// It will never work: do not try again.
    #[must_use]
    pub fn poison(error: impl Into<BoxError>) -> Self {
        Self { error: error.into(), is_final: true }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_final { "Failed::poison" } else { "Failed::retry" };
        f.debug_tuple(name).field(&self.error).finish()
    }
}

/// What becomes of a record that its handler cannot handle.
///
/// A record is tried again in its place: what follows it in its order (its partition, or its key
/// in a [`Guarded`](crate::Guarded) consumer) waits, so no order is broken. Everything else goes
/// on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    pub(crate) attempts_max: u32,
    pub(crate) pause: Duration,
    pub(crate) then: Then,
}

/// What is done with a record when trying again is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    DeadLetter(String),
    Stop,
}

impl Poison {
    /// The first pause between two attempts; it doubles up to [`Self::PAUSE_MAX`].
    pub const PAUSE: Duration = Duration::from_millis(100);
    /// The longest pause.
    pub const PAUSE_MAX: Duration = Duration::from_secs(30);

    /// After this many attempts, writes the record with the reason to a dead-letter topic and goes
    /// on. The headers are those of [`dead_letter`](crate::dead_letter).
    #[must_use]
    pub fn dead_letter(topic: impl Into<String>, attempts_max: u32) -> Self {
        Self { attempts_max, pause: Self::PAUSE, then: Then::DeadLetter(topic.into()) }
    }

    /// After this many attempts, stops the partition there, says so in the log and in
    /// `semel_kafka_stopped_partitions`, and goes on with the others. The next owner tries again.
    #[must_use]
    pub fn stop(attempts_max: u32) -> Self {
        Self { attempts_max, pause: Self::PAUSE, then: Then::Stop }
    }

    /// Sets the first pause between two attempts.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let message = if self.attempts_max == 0 {
            "a record needs at least one attempt"
        } else if self.pause.is_zero() || self.pause > Self::PAUSE_MAX {
            "the pause between attempts must be more than nothing and at most 30 s"
        } else if self.then == Then::DeadLetter(String::new()) {
            "the dead-letter topic has no name"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Settings, message))
    }

    /// The pause after this many attempts.
    pub(crate) fn pause_after(&self, attempts: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1).min(20));
        self.pause.saturating_mul(doubled).min(Self::PAUSE_MAX)
    }
}

/// The names of the headers of a dead letter. The record's own key, payload and headers are kept.
pub mod dead_letter {
    /// Why: [`Reason::name`](crate::Reason::name).
    pub const REASON: &str = "semel-dead-reason";
    /// What was said about it, at most 1024 bytes.
    pub const DETAIL: &str = "semel-dead-detail";
    /// How often it was tried.
    pub const ATTEMPTS: &str = "semel-dead-attempts";
    /// The topic it comes from.
    pub const TOPIC: &str = "semel-dead-topic";
    /// The partition it comes from.
    pub const PARTITION: &str = "semel-dead-partition";
    /// The offset it had there.
    pub const OFFSET: &str = "semel-dead-offset";
    /// The group that could not handle it.
    pub const GROUP: &str = "semel-dead-group";
    /// Its own time there, in milliseconds since 1970, if it had one.
    pub const TIMESTAMP: &str = "semel-dead-timestamp";
}

const DETAIL_BYTES_MAX: usize = 1024;

/// The dead letter of a record.
pub(crate) fn letter(
    topic: &str,
    group: &str,
    record: &Record,
    rejected: &Rejected,
    attempts: u32,
) -> Outgoing {
    let detail = &rejected.detail[..rejected.detail.floor_char_boundary(DETAIL_BYTES_MAX)];
    let mut letter = Outgoing {
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.clone(),
        ..Outgoing::to(topic)
    };
    let place = &record.partition;
    let mut notes = vec![
        Header::new(dead_letter::REASON, rejected.reason.name()),
        Header::new(dead_letter::DETAIL, detail.to_owned()),
        Header::new(dead_letter::ATTEMPTS, attempts.to_string()),
        Header::new(dead_letter::TOPIC, place.topic.to_string()),
        Header::new(dead_letter::PARTITION, place.partition.to_string()),
        Header::new(dead_letter::OFFSET, record.offset.to_string()),
        Header::new(dead_letter::GROUP, group.to_owned()),
    ];
    let time = record.timestamp.map(|it| it.as_millis().to_string());
    notes.extend(time.map(|time| Header::new(dead_letter::TIMESTAMP, time)));
    letter.headers.extend(notes);
    letter
}
