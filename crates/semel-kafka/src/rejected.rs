//! Records that cannot be handled, and what becomes of them.

use std::fmt;
use std::time::Duration;

use semel::{BoxError, Error, ErrorKind, Timestamp};

use crate::log::{Header, Outgoing, Record, TopicPartition};

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
    /// An earlier record of its key is in the retry topic, and it follows to keep the order.
    Follows,
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
            Self::Follows => "follows",
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
/// on. With [`retry_topics`](Self::retry_topics) a record that goes on failing makes room, and only
/// its key waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    pub(crate) attempts_max: u32,
    pub(crate) pause: Duration,
    pub(crate) then: Then,
    pub(crate) retry_topics: Option<RetryTopics>,
}

/// Where records go that have failed for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetryTopics {
    pub(crate) suffix: String,
    pub(crate) after: u32,
    pub(crate) backlog_max: usize,
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
    /// The most records in a partition of a retry topic.
    pub const BACKLOG_MAX: usize = 10_000;

    /// After this many attempts, writes the record with the reason to a dead-letter topic and goes
    /// on. The headers are those of [`dead_letter`](crate::dead_letter).
    #[must_use]
    pub fn dead_letter(topic: impl Into<String>, attempts_max: u32) -> Self {
        Self {
            attempts_max,
            pause: Self::PAUSE,
            then: Then::DeadLetter(topic.into()),
            retry_topics: None,
        }
    }

    /// After this many attempts, stops the partition there, says so in the log and in
    /// `semel_kafka_stopped_partitions`, and goes on with the others. The next owner tries again.
    #[must_use]
    pub fn stop(attempts_max: u32) -> Self {
        Self { attempts_max, pause: Self::PAUSE, then: Then::Stop, retry_topics: None }
    }

    /// Sets the first pause between two attempts.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// After so many attempts in its place, fewer than all, a record goes to the retry topic of its
    /// topic, and its partition goes on. The name of that topic is the topic's with this suffix:
    /// `orders` and `.billing-retry` make `orders.billing-retry`. It is this group's alone, must
    /// exist with at least as many partitions, and should keep records longer than any outage.
    ///
    /// **Order:** records of a key that is in the retry topic follow it there until it has left
    /// again, so the order of each key is kept, over restarts and changes of owner too. Whoever
    /// owns a partition reads the same partition of the retry topic: first up to its end, to know
    /// its keys, then record by record. In an [`Inbox`](crate::Inbox) and a
    /// [`Transform`](crate::Transform) its records wait for each other; in a
    /// [`Guarded`](crate::Guarded) consumer keys do not.
    ///
    /// Handlers see the record as it was, with its own topic, partition, offset and time. A crash
    /// may write a record there twice, except from a `Transform`; it is recognised like any other
    /// duplicate.
    #[must_use]
    pub fn retry_topics(mut self, suffix: impl Into<String>, after: u32) -> Self {
        let backlog_max = Self::BACKLOG_MAX;
        self.retry_topics = Some(RetryTopics { suffix: suffix.into(), after, backlog_max });
        self
    }

    /// Sets how many records a partition of a retry topic may hold; they are kept in memory.
    /// Default: [`Self::BACKLOG_MAX`]. At the bound records are tried again in their place.
    #[must_use]
    pub fn backlog_max(mut self, backlog_max: usize) -> Self {
        if let Some(retry) = &mut self.retry_topics {
            retry.backlog_max = backlog_max;
        }
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(retry) = &self.retry_topics {
            retry.check(self.attempts_max)?;
        }
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

impl RetryTopics {
    fn check(&self, attempts_max: u32) -> Result<(), Error> {
        let Self { suffix, after, backlog_max } = self;
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let message = if suffix.is_empty() || suffix.len() > 200 || !suffix.bytes().all(is_fine) {
            format!(
                "the suffix of retry topics, `{}`, must be 1 to 200 of a-z A-Z 0-9 . _ -",
                suffix.escape_debug()
            )
        } else if *after == 0 || *after >= attempts_max {
            format!(
                "a record goes to its retry topic after {after} attempts, and has {attempts_max} \
                 in all; the first must be at least one and fewer than the second"
            )
        } else if *backlog_max == 0 || *backlog_max > 1_000_000 {
            format!("backlog_max is {backlog_max}; take 1 to 1000000")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Settings, message))
    }
}

/// The names of the headers of a dead letter. The record's own key, payload and headers are kept.
///
/// A record in a retry topic has the same ones under `semel-retry-…`.
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

/// What begins the names of headers in a retry topic.
pub(crate) const RETRY: &str = "semel-retry";
const DEAD: &str = "semel-dead";
const DETAIL_BYTES_MAX: usize = 1024;

/// The dead letter of a record.
pub(crate) fn letter(
    topic: &str,
    group: &str,
    record: &Record,
    rejected: &Rejected,
    attempts: u32,
) -> Outgoing {
    noted(DEAD, topic, group, record, rejected, attempts)
}

/// A record as it goes to the same partition of its retry topic.
pub(crate) fn retry_letter(
    companion: &TopicPartition,
    group: &str,
    record: &Record,
    rejected: &Rejected,
    attempts: u32,
) -> Outgoing {
    let letter = noted(RETRY, &companion.topic, group, record, rejected, attempts);
    Outgoing { partition: Some(companion.partition), ..letter }
}

fn noted(
    prefix: &str,
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
    let note = |name: &str, value: String| Header::new(format!("{prefix}-{name}"), value);
    let mut notes = vec![
        note("reason", rejected.reason.name().to_owned()),
        note("detail", detail.to_owned()),
        note("attempts", attempts.to_string()),
        note("topic", place.topic.to_string()),
        note("partition", place.partition.to_string()),
        note("offset", record.offset.to_string()),
        note("group", group.to_owned()),
    ];
    let time = record.timestamp.map(|it| it.as_millis().to_string());
    notes.extend(time.map(|time| note("timestamp", time)));
    letter.headers.extend(notes);
    letter
}

/// The record that a record of a retry topic was, and how often it was tried. One that nobody
/// parked there, but somebody wrote by hand, is what it is.
pub(crate) fn unpark(source: &TopicPartition, record: Record) -> (Record, u32) {
    let text = |name: &str| {
        let value = record.header(&format!("{RETRY}-{name}"))?;
        std::str::from_utf8(value).ok()
    };
    let number = |name: &str| text(name)?.parse::<i64>().ok();
    let is_ours = text("topic") == Some(&*source.topic);
    let offset = number("offset").filter(|_| is_ours);
    let Some(offset) = offset.filter(|_| number("partition") == Some(source.partition.into()))
    else {
        return (record, 0);
    };
    let attempts = text("attempts").and_then(|it| it.parse().ok()).unwrap_or(0);
    let millis = text("timestamp").and_then(|it| it.parse().ok());
    let timestamp = millis.map(Timestamp::from_millis);
    let mut headers = record.headers;
    headers.retain(|header| !header.name.starts_with(RETRY));
    let Record { key, value, .. } = record;
    let partition = source.clone();
    (Record { partition, offset, key, value, headers, timestamp }, attempts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_from_its_retry_topic_as_it_was() {
        let source = TopicPartition::new("orders", 3);
        let record = Record {
            partition: source.clone(),
            offset: 7,
            key: Some("k".into()),
            value: None,
            headers: vec![Header::new("a", "1"), Header::new("semel-dead-group", "old")],
            timestamp: Some(Timestamp::from_millis(5)),
        };
        let companion = TopicPartition::new("orders.retry", 3);
        let rejected = Rejected::for_now(Reason::HandlerFailed, "no");
        let letter = retry_letter(&companion, "g", &record, &rejected, 2);
        assert_eq!(letter.partition, Some(3));
        let read = Record {
            partition: companion,
            offset: 99,
            key: letter.key,
            value: letter.value,
            headers: letter.headers,
            timestamp: Some(Timestamp::from_millis(6)),
        };
        assert_eq!(unpark(&source, read), (record, 2));
    }

    #[test]
    fn a_record_that_was_written_by_hand_into_a_retry_topic_is_what_it_is() {
        let partition = TopicPartition::new("orders.retry", 3);
        let headers = vec![Header::new("semel-retry-topic", "payments")];
        let record =
            Record { partition, offset: 1, key: None, value: None, headers, timestamp: None };
        let source = TopicPartition::new("orders", 3);
        assert_eq!(unpark(&source, record.clone()), (record, 0));
    }
}
