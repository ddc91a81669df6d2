//! Opening the file: pragmas, schema, and what is refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use semel::{Error, ErrorKind, Random, SystemRandom};

use super::fault::Fault;
use super::lock::{is_busy, pause};

/// The schema that this program writes.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// Statements that a connection keeps prepared; more than there are.
const STATEMENTS_MAX: usize = 64;

/// How long to wait before trying again to make the file a WAL file.
const PAUSE: Duration = Duration::from_millis(1);

/// The path as it stays when the process changes its folder. SQLite gives some names a meaning of
/// their own (`:memory:`, `file:…`); an absolute path is a path.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, Error> {
    if path.as_os_str().is_empty() || path.as_os_str() == ":memory:" {
        let message = format!(
            "`{}` is no path of a SQLite file; give the store a file, or use the store `memory:`",
            path.display()
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    std::path::absolute(path).map_err(|error| {
        let message = format!("the path {} cannot be resolved: {error}", path.display());
        Error::new(ErrorKind::Unavailable, message)
    })
}

/// Opens the file for the first time, makes what is missing if it may, and returns the secret.
pub(super) fn open(
    path: &Path,
    create: bool,
    patience: Duration,
) -> Result<(Connection, [u8; 32]), Error> {
    let open = || -> Result<_, Fault> {
        let mut connection = connect(path, create, patience)?;
        // SQLite opens what it may not write read-only, and says so at the first write only.
        if create && connection.is_readonly(rusqlite::MAIN_DB)? {
            let message = format!(
                "the store {} cannot be written; the process needs write access to the file and \
                 its folder",
                path.display()
            );
            return Err(Error::new(ErrorKind::Unavailable, message).into());
        }
        // Looking into somebody else's database must not change it, not even its journal mode.
        if !create && known(&connection, path)?.is_none() {
            let message = format!(
                "{} holds no records of semel; check the path (only serving makes the tables)",
                path.display()
            );
            return Err(Error::new(ErrorKind::Invalid, message).into());
        }
        configure(&connection, path, patience)?;
        let secret = ensure_schema(&mut connection, path)?;
        Ok((connection, secret))
    };
    open().map_err(|fault| fault.into_error(path))
}

/// Opens another connection to a file that was opened before.
pub(super) fn reopen(
    path: &Path,
    secret: &[u8; 32],
    patience: Duration,
) -> Result<Connection, Error> {
    let open = || -> Result<_, Fault> {
        let connection = connect(path, false, patience)?;
        if known(&connection, path)?.as_ref() != Some(secret) {
            let message = format!(
                "another file is at {} than the one that was opened; put the store back, or \
                 restart to serve from this one",
                path.display()
            );
            return Err(Error::new(ErrorKind::Unavailable, message).into());
        }
        configure(&connection, path, patience)?;
        Ok(connection)
    };
    open().map_err(|fault| fault.into_error(path))
}

fn connect(path: &Path, create: bool, patience: Duration) -> Result<Connection, Fault> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let is_new = !path.exists();
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    } else if is_new {
        let message = format!(
            "there is no store at {}; check the path (only serving makes a new one)",
            path.display()
        );
        return Err(Error::new(ErrorKind::Unavailable, message).into());
    }
    let connection = Connection::open_with_flags(path, flags)?;
    if is_new {
        make_private(path);
    }
    connection.busy_timeout(patience)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    Ok(connection)
}

/// Stored answers and the secret are nobody else's business. Done while the file is empty; SQLite
/// gives its log the same mode. A file that was there keeps the mode that somebody chose.
fn make_private(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A file system without modes is no reason not to serve.
        drop(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)));
    }
    #[cfg(not(unix))]
    let _ = path;
}

fn configure(connection: &Connection, path: &Path, patience: Duration) -> Result<(), Fault> {
    // WAL: readers never wait for the writer. FULL: a commit is on the disk when it is answered.
    write_ahead(connection, path, patience)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // On macOS a plain sync stops at the drive's cache; elsewhere this changes nothing.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    // A checkpoint writes pages at random; fewer of them leave more room for commits.
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "cache_size", -65_536)?;
    Ok(())
}

/// Two processes that make the same new file into a WAL file meet SQLite's refusal to wait in a
/// situation that could be a deadlock, whatever its busy timeout says. So the waiting is done here.
fn write_ahead(connection: &Connection, path: &Path, patience: Duration) -> Result<(), Fault> {
    let set =
        || connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get::<_, String>(0));
    let mut waited = Duration::ZERO;
    loop {
        match set() {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let message = format!(
                    "the store {} cannot keep a write-ahead log (its journal mode is `{mode}`); \
                     put it on a local disk, network file systems do not work",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Unavailable, message).into());
            }
            Err(error) if is_busy(&error) && waited < patience => {
                pause(PAUSE);
                waited += PAUSE;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn ensure_schema(connection: &mut Connection, path: &Path) -> Result<[u8; 32], Fault> {
    if let Some(secret) = known(connection, path)? {
        return Ok(secret);
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
