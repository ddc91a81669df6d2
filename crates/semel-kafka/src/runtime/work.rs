//! What the classes of consumers do with batches.

use std::future::Future;

use semel::{BoxError, Error};

use super::ended_by;
use super::entry::Batch;
use crate::log::{Delivered, LogConsumer, LogError, LogErrorKind, TopicPartition};
use crate::rejected::Rejected;

/// What a class of consumer does with a batch.
pub(crate) trait Work: Send {
    const CLASS: &'static str;

    /// Whether the group's positions in the log are only for display, and have to be committed
    /// apart.
    const IS_DISPLAYED: bool;

    /// Where to read on in these partitions; none where nothing is known. Called when they come
    /// and whenever it is uncertain what happened.
    fn starts(
        &mut self,
        partitions: &[TopicPartition],
    ) -> impl Future<Output = Result<Vec<Option<i64>>, Problem>> + Send;

    /// Handles records, writes letters and moves on behind all of them: everything or nothing,
    /// except that a letter may be written again.
    fn process(
        &mut self,
        consumer: &mut dyn LogConsumer,
        batch: &Batch,
    ) -> impl Future<Output = Result<Done, Problem>> + Send;

    /// These partitions are somebody else's.
    fn let_go(&mut self, partitions: &[TopicPartition]);

    /// Work that is done now and then.
    fn tidy(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// Records that were handled before.
    pub(crate) duplicates: usize,
    /// Where the letters are, in their order.
    pub(crate) delivered: Vec<Delivered>,
}

/// A batch was not handled.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Nothing is certain: read again from where the truth is.
    Again(BoxError),
    /// One of the records that are handled cannot be; nothing happened.
    Rejected { index: usize, rejected: Rejected },
    /// One of the letters is refused by the log; nothing happened.
    Refused { index: usize, detail: String },
    /// The consumer has to end.
    Stop(Error),
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        match error.kind() {
            LogErrorKind::Abortable | LogErrorKind::Indefinite | LogErrorKind::Unavailable => {
                Self::Again(error.into())
            }
            LogErrorKind::Fenced | LogErrorKind::Invalid => Self::Stop(ended_by(error)),
        }
    }
}
