//! What SQLite's errors mean to a caller of the store.

use std::path::Path;

use rusqlite::ErrorCode;
use semel::{Error, ErrorKind};

/// Why an operation on the file failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The record or the request is at fault; the transaction goes on for others.
    Record(Error),
    /// The file or its transaction is at fault.
    File(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => {
                Self::Record(Error::new(ErrorKind::Corrupt, error.to_string()))
            }
            error => Self::File(error),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Record(error)
    }
}

impl Fault {
    pub(super) fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Record(error) => error,
            Self::File(error) => explain(&error, path),
        }
    }
}

/// Names the file, the rule and the way out.
pub(super) fn explain(error: &rusqlite::Error, path: &Path) -> Error {
    let path = path.display();
    let unavailable = |message| Error::new(ErrorKind::Unavailable, message);
    let made = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => unavailable(format!(
            "the store {path} is locked by another writer for longer than `patience`; keep \
             transactions on that file short"
        )),
        Some(ErrorCode::DiskFull) => unavailable(format!(
            "the disk under the store {path} is full; nothing was changed: free space, and it goes \
             on"
        )),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => unavailable(format!(
            "the store {path} cannot be written; the process needs write access to the file and \
             its folder (SQLite keeps its log beside the file)"
        )),
        Some(ErrorCode::CannotOpen) => unavailable(format!(
            "the store {path} cannot be opened; the folder must exist and allow the process to \
             read and write"
        )),
        Some(ErrorCode::NotADatabase) => Error::new(
            ErrorKind::Corrupt,
            format!("{path} is no SQLite database; choose another path or move the file away"),
        ),
        Some(ErrorCode::DatabaseCorrupt) => Error::new(
            ErrorKind::Corrupt,
            format!(
                "the store {path} is damaged; stop all writers, keep a copy, and try `.recover` \
                 of the sqlite3 tool"
            ),
        ),
        Some(ErrorCode::SystemIoFailure) => unavailable(format!(
            "the disk under the store {path} failed to read or write; look at the system's log"
        )),
        _ => unavailable(format!("the store {path} failed: {error}")),
    };
    made.with_source(std::io::Error::other(error.to_string()))
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

/// Whether one member of a group may be the cause of this, so that the others do better alone: an
/// answer that finds no room, a damaged page under one key. Nothing was committed.
pub(super) fn may_be_one_members(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::DiskFull | ErrorCode::TooBig)
    )
}

/// Whether the connection must be opened anew before it is trusted again.
pub(super) fn spoils_connection(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
        )
    )
}
