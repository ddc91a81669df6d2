//! Faults that a test asks for.

use crate::log::{LogError, LogErrorKind};

/// A call that can be made to fail; see [`TestLog::fail_next`](super::TestLog::fail_next).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// [`Log::producer`](crate::log::Log::producer).
    Producer,
    /// [`LogProducer::begin`](crate::log::LogProducer::begin).
    Begin,
    /// [`LogProducer::send`](crate::log::LogProducer::send).
    Send,
    /// [`LogProducer::send_positions`](crate::log::LogProducer::send_positions).
    SendPositions,
    /// [`LogProducer::commit`](crate::log::LogProducer::commit).
    Commit,
    /// [`LogProducer::abort`](crate::log::LogProducer::abort).
    Abort,
    /// [`LogConsumer::commit`](crate::log::LogConsumer::commit).
    ConsumerCommit,
    /// [`LogConsumer::next`](crate::log::LogConsumer::next).
    Next,
    /// [`LogReader::next`](crate::log::LogReader::next).
    Read,
}

/// What the next call of an [`Op`] does instead of its work.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// It fails and has no effect.
    Fails(LogErrorKind),
    /// A commit takes effect, and its answer is lost.
    AnswerLost,
}

/// Faults that wait for their call, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(Op, Fault)>);

impl Faults {
    pub(super) fn add(&mut self, op: Op, fault: Fault) {
        self.0.push((op, fault));
    }

    pub(super) fn take(&mut self, op: Op) -> Option<Fault> {
        let at = self.0.iter().position(|(waiting, _)| *waiting == op)?;
        Some(self.0.remove(at).1)
    }

    /// Takes the next fault of a call that cannot lose its answer.
    pub(super) fn check(&mut self, op: Op) -> Result<(), LogError> {
        match self.take(op) {
            None => Ok(()),
            Some(Fault::Fails(kind)) => Err(asked_for(op, kind)),
            Some(Fault::AnswerLost) => Err(asked_for(op, LogErrorKind::Indefinite)),
        }
    }
}

pub(super) fn asked_for(op: Op, kind: LogErrorKind) -> LogError {
    LogError::new(kind, format!("a test made this {op:?} fail; nothing has to be done"))
}
