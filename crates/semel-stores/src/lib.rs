//! Stores for [semel]: one feature and one folder each.
//!
//! | URL | feature | store |
//! |---|---|---|
//! | `memory:` | – | [`semel::MemoryStore`]: one process, gone with it |
//! | `sqlite:PATH` | `sqlite` | [`sqlite::SqliteStore`]: durable, several processes on one file |
//!
//! [`open`] takes such a URL.

#[cfg(feature = "postgres")]
mod coalesce;
mod url;

#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use url::{Opened, Purpose, open};
