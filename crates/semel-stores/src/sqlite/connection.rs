//! Opening the file: pragmas, schema, and what is refused.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use semel::{Error, ErrorKind, Random, SystemRandom};

use super::fault::{Fault, explain};

/// The schema that this program writes.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// Statements that a connection keeps prepared; more than there are.
const STATEMENTS_MAX: usize = 64;

/// Opens a connection with everything a store relies on.
pub(super) fn open(path: &Path, create: bool, patience: Duration) -> Result<Connection, Error> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    } else if !path.exists() {
        let message = format!(
            "there is no store at {}; check the path (only serving makes a new one)",
            path.display()
        );
        return Err(Error::new(ErrorKind::Unavailable, message));
    }
    prepare(path, flags, patience).map_err(|error| explain(&error, path))
}

fn prepare(path: &Path, flags: OpenFlags, patience: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(patience)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // WAL: readers never wait for the writer. FULL: a commit is on the disk when it is answered.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A checkpoint writes pages at random; fewer of them leave more room for commits.
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "cache_size", -65_536)?;
    Ok(connection)
}

/// Makes the tables if they are not there and returns the secret of the file.
pub(super) fn prepare_schema(
    connection: &mut Connection,
    path: &Path,
    create: bool,
) -> Result<[u8; 32], Error> {
    ensure(connection, path, create).map_err(|fault| fault.into_error(path))
}

fn ensure(connection: &mut Connection, path: &Path, create: bool) -> Result<[u8; 32], Fault> {
    if let Some(secret) = known(connection, path)? {
        return Ok(secret);
    }
    if !create {
        let message = format!(
            "{} holds no records of semel; check the path (only serving makes the tables)",
            path.display()
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let secret = match known(&transaction, path)? {
        Some(secret) => secret,
        None => {
            let mut secret = [0; 32];
            SystemRandom.fill(&mut secret)?;
            transaction.execute_batch(include_str!("schema.sql"))?;
            let insert = "INSERT INTO semel_meta (name, value) VALUES (?1, ?2)";
            transaction.execute(insert, ("schema", SCHEMA_VERSION))?;
            transaction.execute(insert, ("counter", 0))?;
            transaction.execute(insert, ("secret", secret))?;
            secret
        }
    };
    transaction.commit()?;
    Ok(secret)
}

/// The secret of a file that has the tables already.
fn known(connection: &Connection, path: &Path) -> Result<Option<[u8; 32]>, Fault> {
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'semel_meta'";
    if connection.query_row(tables, (), |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let version: Option<i64> = connection
        .query_row("SELECT value FROM semel_meta WHERE name = 'schema'", (), |row| row.get(0))
        .optional()?;
    let name = path.display();
    match version {
        Some(SCHEMA_VERSION) => {}
        Some(newer) if newer > SCHEMA_VERSION => {
            let message = format!(
                "the store {name} has schema {newer}, this program knows {SCHEMA_VERSION}; \
                 upgrade this program"
            );
            return Err(Error::new(ErrorKind::TooNew, message).into());
        }
        other => {
            let message = format!("the store {name} has no valid schema version ({other:?})");
            return Err(Error::new(ErrorKind::Corrupt, message).into());
        }
    }
    let secret: Option<Vec<u8>> = connection
        .query_row("SELECT value FROM semel_meta WHERE name = 'secret'", (), |row| row.get(0))
        .optional()?;
    match secret.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
        Some(secret) => Ok(Some(secret)),
        None => {
            let message = format!("the store {name} has lost its secret; restore it from a copy");
            Err(Error::new(ErrorKind::Corrupt, message).into())
        }
    }
}
