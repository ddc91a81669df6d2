//! What PostgreSQL's errors mean to a consumer or a relay.

use deadpool_postgres::{PoolError, TimeoutType};
use semel::{Error, ErrorKind};
use tokio_postgres::error::{DbError, Severity, SqlState};

/// Why a call to the server failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Not the server's: the caller or the rows are at fault.
    Caller(Error),
    /// The pool gave no connection.
    Exhausted,
    /// The server refused, or the connection broke.
    Server(tokio_postgres::Error),
    /// No answer in time: it may have been done.
    Silent,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Caller(error)
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Server(error),
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle | TimeoutType::Wait)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_) => Self::Exhausted,
        }
    }
}

impl Fault {
    pub(super) fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Server(error) => error.code(),
            Self::Caller(_) | Self::Exhausted | Self::Silent => None,
        }
    }

    /// Whether the server ended the session. In the middle of a commit that says nothing about it.
    fn is_session_end(&self) -> bool {
        let Self::Server(error) = self else { return false };
        let severity = error.as_db_error().and_then(DbError::parsed_severity);
        matches!(severity, Some(Severity::Fatal | Severity::Panic))
    }

    /// Whether the connection must not be used again.
    pub(super) fn is_fatal_to_connection(&self) -> bool {
        // A server that became read-only is a standby now: only a new connection finds the primary.
        self.is_session_end()
            || self.state().is_none_or(|state| *state == SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Whether the call may have been done although it failed.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Self::Silent => true,
            Self::Server(error) => {
                self.is_session_end()
                    || error.code().is_none_or(|state| state.code().starts_with("08"))
            }
            Self::Caller(_) | Self::Exhausted => false,
        }
    }

    /// The error of a call whose effect is not part of a transaction that is still open.
    pub(super) fn into_error_of_effect(self) -> Error {
        let is_ambiguous = self.is_ambiguous();
        let error = self.into_error();
        if is_ambiguous { error.with_outcome_unknown() } else { error }
    }

    /// Names the rule and the way out.
    pub(super) fn into_error(self) -> Error {
        let unavailable = |message: &'static str| Error::new(ErrorKind::Unavailable, message);
        match self {
            Self::Caller(error) => error,
            Self::Exhausted => unavailable(
                "the pool gave no connection to the ledger's database in time; the server is \
                 slow, or the pool is too small for the consumers and relays that share it",
            ),
            Self::Silent => unavailable(
                "the ledger's database did not answer in time; look at its load, locks and \
                 network, and at `response_timeout`",
            ),
            Self::Server(error) => explain(error),
        }
    }
}

fn explain(error: tokio_postgres::Error) -> Error {
    let Some(state) = error.code() else {
        let message = format!("the ledger's database cannot be reached: {}", innermost(&error));
        return Error::new(ErrorKind::Unavailable, message).with_source(error);
    };
    let said = error.as_db_error().map_or("", DbError::message);
    // Class 22: what was given cannot be stored, however often it is tried.
    let is_callers = state.code().starts_with("22");
    let kind = if is_callers { ErrorKind::Invalid } else { ErrorKind::Unavailable };
    Error::new(kind, explain_state(state, said)).with_source(error)
}

fn explain_state(state: &SqlState, said: &str) -> String {
    match state {
        &SqlState::INVALID_SCHEMA_NAME
        | &SqlState::UNDEFINED_TABLE
        | &SqlState::UNDEFINED_COLUMN
        | &SqlState::UNDEFINED_FUNCTION => format!(
            "the ledger's database lacks its tables or functions ({said}); run \
             `PostgresLedger::migrate`, or the scripts of `PostgresLedger::MIGRATIONS`"
        ),
        &SqlState::INSUFFICIENT_PRIVILEGE => format!(
            "the ledger's user may not do this ({said}); it needs USAGE on the schema \
             `semel_kafka` and SELECT, INSERT, UPDATE and DELETE on its tables"
        ),
        &SqlState::READ_ONLY_SQL_TRANSACTION => format!(
            "the ledger's database is read-only, so probably a standby ({said}); let the pool \
             connect with `target_session_attrs=read-write`"
        ),
        &SqlState::LOCK_NOT_AVAILABLE | &SqlState::QUERY_CANCELED => format!(
            "the ledger's database gave up waiting ({said}); an earlier owner's transaction may \
             still be open: look for long transactions on `semel_kafka.position`"
        ),
        &SqlState::IN_FAILED_SQL_TRANSACTION => {
            "a statement of the handler failed and its error was not handed on; the server had \
             undone the transaction at that point, and nothing is committed"
                .to_owned()
        }
        _ => {
            format!("the ledger's database failed: {said} (SQLSTATE {code})", code = state.code())
        }
    }
}

/// The error at the bottom says what happened; those above only say where.
fn innermost(error: &tokio_postgres::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// A row that cannot be read.
pub(super) fn unreadable(name: &str, error: impl std::fmt::Display) -> Error {
    let message = format!("column {name} of the ledger cannot be read: {error}");
    Error::new(ErrorKind::Corrupt, message)
}
