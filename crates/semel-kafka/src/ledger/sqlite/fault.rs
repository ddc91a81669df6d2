//! What SQLite's errors mean to a consumer or a relay.

use std::path::Path;

use rusqlite::{ErrorCode, ffi};
use semel::{Error, ErrorKind};

/// Why an operation on the file failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Not the file's: the caller or the rows are at fault.
    Caller(Error),
    /// The file or its transaction is at fault.
    File(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::File(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Caller(error)
    }
}

impl Fault {
    pub(super) fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Caller(error) => error,
            Self::File(error) => explain(error, path),
        }
    }
}

/// Names the file, the rule and the way out.
fn explain(error: rusqlite::Error, path: &Path) -> Error {
    let path = path.display();
    let (kind, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::Unavailable,
            format!(
                "the ledger {path} is locked by another writer for longer than `patience`; keep \
                 transactions on that file short"
            ),
        ),
        Some(ErrorCode::DiskFull) => (
            ErrorKind::Unavailable,
            format!("the disk under the ledger {path} is full; free space, and it goes on"),
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
            ErrorKind::Unavailable,
            format!(
                "the ledger {path} cannot be written; the process needs write access to the file \
                 and its folder (SQLite keeps its log beside the file)"
            ),
        ),
        Some(ErrorCode::CannotOpen) => (
            ErrorKind::Unavailable,
            format!(
                "the ledger {path} cannot be opened; the folder must exist and allow the process \
                 to read and write"
            ),
        ),
        Some(ErrorCode::NotADatabase) => (
            ErrorKind::Corrupt,
            format!("{path} is no SQLite database; choose another path or move the file away"),
        ),
        Some(ErrorCode::DatabaseCorrupt) => (
            ErrorKind::Corrupt,
            format!(
                "the ledger {path} is damaged; stop all writers, keep a copy, and try `.recover` \
                 of the sqlite3 tool"
            ),
        ),
        _ if is_stray_commit(&error) => return broken(),
        _ => (ErrorKind::Unavailable, format!("the ledger {path} failed: {error}")),
    };
    Error::new(kind, message).with_source(error)
}

/// Whether our hook made a COMMIT fail.
fn is_stray_commit(error: &rusqlite::Error) -> bool {
    error.sqlite_extended_error_code() == Some(ffi::SQLITE_CONSTRAINT_COMMITHOOK)
}

/// Somebody else has ended the transaction.
pub(super) fn broken() -> Error {
    let message = "the transaction was ended from inside (by COMMIT, ROLLBACK, a conflict clause \
                   that rolls back, or a failure of the disk) and everything in it is undone; \
                   leave its end to the consumer";
    Error::new(ErrorKind::Invalid, message)
}

/// Whether a COMMIT that failed like this may still be found in the file after a crash. SQLite
/// writes the frame that commits last, so a disk without room for it, or a lock that was not had,
/// leaves nothing; a failed sync leaves everything open.
pub(super) fn may_have_committed(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::ConstraintViolation
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
        )
    )
}
