//! Real servers and a faulty network for semel's own tests.
//!
//! [`servers`] starts a PostgreSQL, a Redis, an Apache Kafka and their relatives, each on a free
//! loopback port with a temporary folder, and leaves nothing behind, however the test ends.
//! [`FaultProxy`] stands between a client and such a server, breaks the network as a test wants
//! it broken, and counts what passes.
//!
//! Everything here blocks and runs on threads of its own, so it can be used under any async
//! runtime.

#![allow(clippy::disallowed_methods, reason = "real processes are watched with the real clock")]

mod error;
mod proxy;
pub mod servers;

pub use error::Error;
pub use proxy::{Direction, FaultProxy, Traffic};
