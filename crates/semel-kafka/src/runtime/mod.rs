//! What all classes of consumers do in the same way.

mod batch;
mod entry;
mod lag;
mod lanes;
mod meter;
mod retries;
mod shelf;
mod work;

use std::time::Duration;

use semel::{Error, ErrorKind};

pub(crate) use self::batch::Driver;
pub(crate) use self::entry::{Batch, Entry};
pub(crate) use self::lanes::{Job, Lanes, Ran};
pub(crate) use self::meter::Meter;
pub(crate) use self::work::{Done, Problem, Work};
use crate::log::{LogConsumer, LogError, LogErrorKind};

/// Between two looks at a log that cannot be reached.
const UNREACHED_PAUSE: Duration = Duration::from_millis(100);

/// The error with which a consumer ends.
pub(crate) fn ended_by(error: LogError) -> Error {
    let kind = match error.kind() {
        LogErrorKind::Fenced | LogErrorKind::Abortable => ErrorKind::ClaimLost,
        LogErrorKind::Indefinite => ErrorKind::OutcomeUnknown,
        LogErrorKind::Invalid => ErrorKind::Settings,
        LogErrorKind::Unavailable => ErrorKind::Unavailable,
    };
    Error::new(kind, error.to_string()).with_source(error)
}

/// Leaves the group. Everything is done by then, so a group that cannot be told is no failure: it
/// finds out by itself.
pub(crate) async fn leave(consumer: Box<dyn LogConsumer>) {
    if let Err(error) = consumer.close().await {
        tracing::warn!(%error, "the group was not told that this member leaves");
    }
}
