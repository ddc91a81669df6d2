//! What the programs of this folder share: an invoice for each order.
//!
//! - `listener`: the idempotent listener as it is usually written. It is not.
//! - `safe`: the same with an inbox, ten lines longer.
//! - `shop`: one key through an HTTP request, an outbox, Kafka and a consumer.
//!
//! Start a broker with `cargo xtask services kafka`, which prints its address for `--brokers`, or
//! name your own. That one makes the topic `orders` with the first record; where yours does not,
//! create it first. `shop` writes a record for each `POST /orders`; an order by hand is a record
//! with an `Idempotency-Key` header and an item as its payload.

use std::path::PathBuf;

use rusqlite::Connection;
use semel_kafka::log::Record;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The topic of the orders.
pub const ORDERS: &str = "orders";

/// `--NAME VALUE` from the command line.
#[must_use]
pub fn option(name: &str, default: &str) -> String {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).unwrap_or_else(|| default.to_owned())
}

/// The file with the invoices.
#[must_use]
pub fn database() -> PathBuf {
    PathBuf::from(option("--db", "billing.db"))
}

/// Opens it and makes its tables.
///
/// # Errors
/// When SQLite refuses the file.
pub fn open() -> rusqlite::Result<Connection> {
    let db = Connection::open(database())?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE IF NOT EXISTS invoice (id INTEGER PRIMARY KEY, item TEXT NOT NULL);
         CREATE TABLE IF NOT EXISTS processed (id TEXT PRIMARY KEY);",
    )?;
    Ok(db)
}

/// The effect: one row for each order.
///
/// # Errors
/// When SQLite refuses the row.
pub fn bill(db: &Connection, item: &str) -> rusqlite::Result<()> {
    db.execute("INSERT INTO invoice (item) VALUES (?1)", [item]).map(drop)
}

/// What was ordered.
#[must_use]
pub fn item(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}
