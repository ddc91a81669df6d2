//! Where effects are, and what they were.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use rusqlite::Connection;
use tokio_postgres::NoTls;

use super::reader::Reader;

/// The effects of a run.
pub(crate) enum Sink {
    Postgres { pool: Pool, run: String },
    Sqlite(Connection),
    Topic(Arc<Reader>),
}

impl Sink {
    /// The numbers of the records that took effect, in the order in which they did.
    pub(crate) async fn numbers(&self) -> Vec<u32> {
        match self {
            Self::Postgres { pool, run } => {
                let client = pool.get().await.unwrap();
                let select = "SELECT number FROM effect WHERE run = $1 ORDER BY seq";
                let rows = client.query(select, &[run]).await.unwrap();
                rows.iter().map(|row| u32::try_from(row.get::<_, i32>(0)).unwrap()).collect()
            }
            Self::Sqlite(connection) => {
                let select = "SELECT number FROM effect ORDER BY seq";
                let mut select = connection.prepare(select).unwrap();
                let rows = select.query_map([], |row| row.get(0)).unwrap();
                rows.map(Result::unwrap).collect()
            }
            Self::Topic(reader) => reader.entries().iter().map(|entry| entry.value).collect(),
        }
    }

    /// How many there are.
    pub(crate) async fn count(&self) -> usize {
        let count: i64 = match self {
            Self::Postgres { pool, run } => {
                let client = pool.get().await.unwrap();
                let select = "SELECT count(*) FROM effect WHERE run = $1";
                client.query_one(select, &[run]).await.unwrap().get(0)
            }
            Self::Sqlite(connection) => {
                let select = "SELECT count(*) FROM effect";
                connection.query_row(select, [], |row| row.get(0)).unwrap()
            }
            Self::Topic(reader) => return reader.count(),
        };
        usize::try_from(count).unwrap()
    }

    /// How often a handler asked for an effect, where that is known.
    pub(crate) fn calls(&self) -> Option<usize> {
        let Self::Sqlite(connection) = self else { return None };
        let select = "SELECT count(*) FROM call";
        let count: i64 = connection.query_row(select, [], |row| row.get(0)).unwrap();
        usize::try_from(count).ok()
    }

    /// Whether nobody holds the lock of the files.
    pub(crate) fn is_free(&self) -> bool {
        let Self::Sqlite(effects) = self else { return true };
        let records = Connection::open(format!("{}.records", effects.path().unwrap())).unwrap();
        [effects, &records].into_iter().all(|it| {
            it.busy_timeout(Duration::from_millis(20)).unwrap();
            it.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
        })
    }
}

pub(crate) fn pool(url: &str) -> Pool {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(url.parse().unwrap(), NoTls, recycling);
    Pool::builder(manager).max_size(8).build().unwrap()
}

/// The table in PostgreSQL, for all runs.
pub(crate) const TABLE: &str = "CREATE TABLE effect (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run text NOT NULL,
    number int NOT NULL)";

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS effect (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, number INTEGER NOT NULL, step TEXT UNIQUE);
    CREATE TABLE IF NOT EXISTS call (number INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);";

/// Opens a file of effects.
pub(crate) fn open(path: impl AsRef<Path>) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    // Only processes die here, and what they wrote stays.
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF").unwrap();
    connection.execute_batch(TABLES).unwrap();
    connection
}

/// A call to a service that recognises the keys of its callers.
pub(crate) fn call(connection: &Connection, key: &str, number: u32) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute("INSERT INTO call (number) VALUES (?1)", [number])?;
    let insert = "INSERT OR IGNORE INTO effect (number, step) VALUES (?1, ?2)";
    transaction.execute(insert, (number, key))?;
    transaction.commit()
}
