//! Opening the file: pragmas, tables, and what is refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};
use semel::{Error, ErrorKind};

use super::fault::Fault;

/// The tables that this program writes.
const SCHEMA_VERSION: i64 = 1;

/// Statements that a connection keeps prepared; more than there are.
const STATEMENTS_MAX: usize = 64;

/// How often to try to make the file a WAL file while others do the same.
const TRIES_MAX: usize = 100;

/// The path as it stays when the process changes its folder. SQLite gives some names a meaning of
/// their own (`:memory:`, `file:…`); an absolute path is a path.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, Error> {
    if path.as_os_str().is_empty() || path.as_os_str() == ":memory:" {
        let message = "a ledger needs a file that outlives the process; give it a path";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    std::path::absolute(path).map_err(|error| {
        let message = format!("the path {} cannot be resolved: {error}", path.display());
        Error::new(ErrorKind::Unavailable, message)
    })
}

/// Opens the file, and makes it and its tables where they are missing.
pub(super) fn open(path: &Path, patience: Duration) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(patience)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // WAL: readers never wait for the writer. FULL: a commit is on the disk when it is answered.
    write_ahead(&connection, path)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // On macOS a plain sync stops at the drive's cache; elsewhere this changes nothing.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    if !has_tables(&connection, path)? {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been faster.
        if !has_tables(&transaction, path)? {
            transaction.execute_batch(include_str!("schema.sql"))?;
        }
        transaction.commit()?;
    }
    Ok(connection)
}

/// Two processes that make the same new file into a WAL file meet SQLite's refusal to wait in a
/// situation that could be a deadlock, whatever its busy timeout says. Beginning a transaction
/// does wait, so that is done in between.
fn write_ahead(connection: &Connection, path: &Path) -> Result<(), Fault> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mode = "PRAGMA journal_mode = WAL";
        match connection.query_row(mode, (), |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let message = format!(
                    "the ledger {} cannot keep a write-ahead log (its journal mode is `{mode}`); \
                     put it on a local disk, network file systems do not work",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Unavailable, message).into());
            }
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && tries < TRIES_MAX =>
            {
                connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK")?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn has_tables(connection: &Connection, path: &Path) -> Result<bool, Fault> {
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'semel_kafka_meta'";
    if connection.query_row(tables, (), |row| row.get::<_, i64>(0))? == 0 {
        return Ok(false);
    }
    let version = "SELECT value FROM semel_kafka_meta WHERE name = 'schema'";
    let version: Option<i64> = connection.query_row(version, (), |row| row.get(0)).optional()?;
    let (kind, message) = match version {
        Some(SCHEMA_VERSION) => return Ok(true),
        Some(newer) if newer > SCHEMA_VERSION => (
            ErrorKind::TooNew,
            format!(
                "the ledger {} has tables of version {newer}, this program knows \
                 {SCHEMA_VERSION}; upgrade it",
                path.display()
            ),
        ),
        other => (
            ErrorKind::Corrupt,
            format!("the ledger {} has no valid version ({other:?})", path.display()),
        ),
    };
    Err(Error::new(kind, message).into())
}
