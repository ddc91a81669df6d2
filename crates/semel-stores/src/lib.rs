//! Stores for [semel]: one feature and one folder each.
//!
//! | URL | feature | store |
//! |---|---|---|
//! | `memory:` | – | [`semel::MemoryStore`]: one process, gone with it |
//! | `sqlite:PATH` | `sqlite` | [`sqlite::SqliteStore`]: durable, several processes on one file |
//! | `postgres://…` | `postgres` | [`postgres::PostgresStore`]: durable, several machines |
//! | `redis://…`, `redis-cluster://…`, `redis-sentinel://…` | `redis` | [`redis::RedisStore`]: quick, several machines on one server or cluster |
//!
//! [`open`] takes such a URL.

#[cfg(any(feature = "postgres", feature = "redis"))]
mod coalesce;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod parameter;
#[cfg(feature = "replay-cache")]
mod replays;
mod url;

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(feature = "replay-cache")]
pub use replays::ReplayCache;
pub use url::{Kind, Opened, Purpose, check, open, open_with};
