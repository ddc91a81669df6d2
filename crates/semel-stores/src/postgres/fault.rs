//! What PostgreSQL's errors mean to a caller of the store.

use std::error::Error as _;
use std::io;

use deadpool_postgres::{PoolError, TimeoutType};
use semel::{Error, ErrorKind};
use tokio_postgres::error::{DbError, Severity, SqlState};

/// Why a call to the server failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The record or the request is at fault; asking again does not help.
    Record(Error),
    /// The server refused, or the connection broke.
    Server(tokio_postgres::Error),
    /// No connection of the pool became free.
    Exhausted,
    /// No answer in time: it may have been done.
    Silent,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Record(error)
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
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => Self::Silent,
            PoolError::Timeout(TimeoutType::Wait)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_) => Self::Exhausted,
        }
    }
}

impl Fault {
    fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Server(error) => error.code(),
            Self::Exhausted | Self::Record(_) | Self::Silent => None,
        }
    }

    /// Whether the same call may succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        let Self::Server(error) = self else { return matches!(self, Self::Silent) };
        let Some(state) = error.code() else {
            // No word from the server: the connection could not be made, or it broke.
            return !is_tls_or_config(error);
        };
        *state == SqlState::ADMIN_SHUTDOWN
            || *state == SqlState::CRASH_SHUTDOWN
            || *state == SqlState::CANNOT_CONNECT_NOW
            || *state == SqlState::TOO_MANY_CONNECTIONS
            || *state == SqlState::READ_ONLY_SQL_TRANSACTION
            || state.code().starts_with("08")
            || self.lacks_partition()
            || self.is_rival()
    }

    /// Whether another transaction got in the way; nothing of ours was done.
    pub(super) fn is_rival(&self) -> bool {
        self.state().is_some_and(|state| {
            *state == SqlState::T_R_DEADLOCK_DETECTED
                || *state == SqlState::T_R_SERIALIZATION_FAILURE
                || *state == SqlState::LOCK_NOT_AVAILABLE
        })
    }

    /// Whether the partition for a finished record is missing.
    pub(super) fn lacks_partition(&self) -> bool {
        self.state() == Some(&SqlState::CHECK_VIOLATION)
    }

    /// Whether the server ended the session. In the middle of a commit that says nothing about it.
    fn is_session_end(&self) -> bool {
        let Self::Server(error) = self else { return false };
        let severity = error.as_db_error().and_then(DbError::parsed_severity);
        matches!(severity, Some(Severity::Fatal | Severity::Panic))
    }

    /// Whether the connection must not be used again.
    pub(super) fn is_fatal_to_connection(&self) -> bool {
        if self.is_session_end() {
            return true;
        }
        // A server that became read-only is a standby now: only a new connection finds the primary.
        self.state().is_none() || self.state() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
    }

    /// Whether the call may have been done although it failed.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Self::Silent => true,
            Self::Server(error) => {
                self.is_session_end()
                    || error.code().is_none_or(|state| state.code().starts_with("08"))
            }
            Self::Exhausted | Self::Record(_) => false,
        }
    }

    /// Names the server, the rule and the way out.
    pub(super) fn into_error(self, place: &str) -> Error {
        match self {
            Self::Record(error) => error,
            Self::Exhausted => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "all connections to the store {place} stay in use; the server is slow, or \
                     there are too few (`pool`, and `transactions_max` for handlers)"
                ),
            ),
            Self::Silent => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the store {place} did not answer in time; look at its load, locks and network"
                ),
            ),
            Self::Server(error) => explain(error, place),
        }
    }
}

/// Errors of setting a connection up that no retry mends.
fn is_tls_or_config(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    let is_cut = innermost_io(error).is_some_and(|kind| {
        matches!(
            kind,
            io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::UnexpectedEof
        )
    });
    !is_cut && text.contains("TLS") || text.contains("config") || text.contains("authentication")
}

/// The input's error at the bottom, if that is what it was.
fn innermost_io(error: &tokio_postgres::Error) -> Option<io::ErrorKind> {
    let mut source: Option<&dyn std::error::Error> = error.source();
    let mut found = None;
    while let Some(error) = source {
        found = error.downcast_ref::<io::Error>().map(io::Error::kind).or(found);
        source = error.source();
    }
    found
}

fn explain(error: tokio_postgres::Error, place: &str) -> Error {
    let message = match error.code() {
        None => {
            let said = innermost(&error);
            let way_out = way_out(innermost_io(&error), &said);
            format!("the store {place} cannot be reached: {said}{way_out}")
        }
        Some(state) => {
            let said = error.as_db_error().map_or("", |error| error.message());
            explain_state(state, said, place)
        }
    };
    Error::new(ErrorKind::Unavailable, message).with_source(error)
}

/// What to do where no PostgreSQL has said a word.
fn way_out(kind: Option<io::ErrorKind>, said: &str) -> &'static str {
    let is_foreign = |said: &str| {
        ["bytes remaining", "message tag", "message length", "unexpected message"]
            .iter()
            .any(|word| said.contains(word))
    };
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => "; is it running, and is the port right?",
        _ if is_foreign(said) => "; what answers there is no PostgreSQL: is the port right?",
        _ => "",
    }
}

fn explain_state(state: &SqlState, said: &str, place: &str) -> String {
    let code = state.code();
    match state {
        &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => format!(
            "the store {place} refuses the user or the password ({said}); check the store's URL \
             and the server's pg_hba.conf"
        ),
        &SqlState::INVALID_CATALOG_NAME => format!(
            "the store {place} is on a database that does not exist ({said}); create it, or \
             correct the store's URL"
        ),
        &SqlState::INVALID_SCHEMA_NAME
        | &SqlState::UNDEFINED_TABLE
        | &SqlState::UNDEFINED_FUNCTION => format!(
            "the store {place} lacks its tables or functions ({said}); run `semel migrate up` \
             with the store's URL"
        ),
        &SqlState::INSUFFICIENT_PRIVILEGE => format!(
            "the user of the store {place} may not do this ({said}); docs/postgres.md lists the \
             rights it needs"
        ),
        &SqlState::READ_ONLY_SQL_TRANSACTION => format!(
            "the store {place} is read-only, so probably a standby ({said}); name all hosts in \
             the URL with `target_session_attrs=read-write`"
        ),
        &SqlState::ACTIVE_SQL_TRANSACTION => format!(
            "the store {place} runs claims under the wrong isolation ({said}); set \
             default_transaction_isolation back to `read committed` for this user"
        ),
        &SqlState::T_R_SERIALIZATION_FAILURE => format!(
            "the transaction is too strict for the store {place} ({said}): a heartbeat has written \
             the record since it began; use READ COMMITTED"
        ),
        &SqlState::TOO_MANY_CONNECTIONS => format!(
            "the store {place} has no connection left for us ({said}); raise max_connections, \
             lower `pool`, or put a pooler in front"
        ),
        &SqlState::DISK_FULL => {
            format!("the disk of the store {place} is full; free space, and it goes on ({said})")
        }
        &SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE => format!(
            "the store {place} gave up waiting ({said}); look for long transactions on its tables \
             and at statement_timeout"
        ),
        _ if said.contains("startup parameter") => format!(
            "a pooler before the store {place} refuses our settings ({said}); add \
             `pooler=transaction` to the store's URL"
        ),
        _ => format!("the store {place} failed: {said} (SQLSTATE {code})"),
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
