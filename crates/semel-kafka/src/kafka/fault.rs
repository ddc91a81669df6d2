//! What an error of librdkafka means.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::log::{LogError, LogErrorKind};

/// What to do about a code, where that does not depend on the call.
fn kind(code: Code) -> Option<LogErrorKind> {
    match code {
        Code::Fatal
        | Code::Fenced
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping
        | Code::TransactionCoordinatorFenced
        | Code::OutOfOrderSequenceNumber
        | Code::FencedInstanceId => Some(LogErrorKind::Fenced),
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::MemberIdRequired
        | Code::RebalanceInProgress
        | Code::AssignmentLost
        | Code::PollExceeded
        | Code::StaleMemberEpoch
        | Code::FencedMemberEpoch
        | Code::PurgeQueue
        | Code::PurgeInflight => Some(LogErrorKind::Abortable),
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::InvalidMessageSize
        | Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::InvalidRequiredAcks
        | Code::InvalidConfig
        | Code::InvalidArgument
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::InvalidTransactionTimeout
        | Code::InconsistentGroupProtocol
        | Code::UnsupportedAssignor
        | Code::UnsupportedVersion
        | Code::UnsupportedFeature
        | Code::UnsupportedForMessageFormat
        | Code::PolicyViolation
        | Code::Authentication
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::State => Some(LogErrorKind::Invalid),
        _ => None,
    }
}

/// An error of a call that had no effect: what the code says, or try again.
pub(super) fn plain(what: &str, error: KafkaError) -> LogError {
    let code = error.rdkafka_error_code();
    let kind = if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        LogErrorKind::Fenced
    } else {
        code.and_then(kind).unwrap_or(LogErrorKind::Unavailable)
    };
    with(kind, what, error)
}

/// An error of a call inside a transaction.
pub(super) fn transactional(step: Step, error: KafkaError) -> LogError {
    with(class(step, &error), step.what(), error)
}

/// A call of a transactional producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Init,
    Begin,
    Positions,
    Commit,
    Abort,
}

impl Step {
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Init => "take the transactional id over",
            Self::Begin => "begin a transaction",
            Self::Positions => "add positions to the transaction",
            Self::Commit => "commit the transaction",
            Self::Abort => "abort the transaction",
        }
    }
}

fn class(step: Step, error: &KafkaError) -> LogErrorKind {
    let KafkaError::Transaction(inner) = error else {
        // Records were still on their way when the time was over: nothing was decided.
        return LogErrorKind::Abortable;
    };
    let known = kind(inner.code());
    if inner.is_fatal() {
        return match known {
            Some(LogErrorKind::Invalid) => LogErrorKind::Invalid,
            _ => LogErrorKind::Fenced,
        };
    }
    let is_over = matches!(inner.code(), Code::OperationTimedOut | Code::RequestTimedOut);
    match step {
        Step::Init | Step::Begin => known.unwrap_or(LogErrorKind::Unavailable),
        // The request may still be on its way, and arrive in a later transaction.
        Step::Positions if is_over => LogErrorKind::Indefinite,
        Step::Positions | Step::Commit if inner.txn_requires_abort() => match known {
            Some(LogErrorKind::Invalid) => LogErrorKind::Invalid,
            _ => LogErrorKind::Abortable,
        },
        Step::Positions => known.unwrap_or(if inner.is_retriable() {
            LogErrorKind::Unavailable
        } else {
            LogErrorKind::Abortable
        }),
        Step::Commit | Step::Abort => LogErrorKind::Indefinite,
    }
}

/// The error of a record that was not delivered.
pub(super) fn delivery(is_transactional: bool, error: KafkaError) -> LogError {
    let known = error.rdkafka_error_code().and_then(kind);
    let kind = match known {
        Some(LogErrorKind::Fenced | LogErrorKind::Invalid) => known,
        _ if is_transactional => Some(LogErrorKind::Abortable),
        // A broker may have it although nobody said so in time.
        _ => Some(LogErrorKind::Indefinite),
    };
    with(kind.unwrap_or(LogErrorKind::Indefinite), "deliver a record", error)
}

fn with(kind: LogErrorKind, what: &str, error: KafkaError) -> LogError {
    let way_out = match kind {
        LogErrorKind::Abortable => "abort and read again from the committed position",
        LogErrorKind::Fenced => "stop: another one has taken over, or the client gave up",
        LogErrorKind::Indefinite => "make the producer anew: whether it happened is not known",
        LogErrorKind::Invalid => "fix what it names: it will be refused again",
        LogErrorKind::Unavailable => "try again: nothing happened",
    };
    LogError::new(kind, format!("Kafka did not {what}: {error}; {way_out}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_tells_what_to_do() {
        for (code, expected) in [
            (Code::IllegalGeneration, LogErrorKind::Abortable),
            (Code::FencedInstanceId, LogErrorKind::Fenced),
            (Code::UnknownTopicOrPartition, LogErrorKind::Invalid),
            (Code::BrokerTransportFailure, LogErrorKind::Unavailable),
        ] {
            assert_eq!(plain("commit", KafkaError::ConsumerCommit(code)).kind(), expected);
        }
    }

    #[test]
    fn a_record_that_may_have_arrived_is_not_simply_sent_again() {
        let late = || KafkaError::MessageProduction(Code::MessageTimedOut);
        assert_eq!(delivery(false, late()).kind(), LogErrorKind::Indefinite);
        assert_eq!(delivery(true, late()).kind(), LogErrorKind::Abortable);
        let large = KafkaError::MessageProduction(Code::MessageSizeTooLarge);
        assert_eq!(delivery(false, large).kind(), LogErrorKind::Invalid);
    }

    #[test]
    fn a_commit_that_never_left_is_to_be_aborted() {
        let error = KafkaError::Flush(Code::OperationTimedOut);
        assert_eq!(transactional(Step::Commit, error).kind(), LogErrorKind::Abortable);
    }
}
