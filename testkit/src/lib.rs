//! Real servers and a faulty network for semel's own tests.
//!
//! [`servers`] starts a PostgreSQL, a Redis and their relatives from `PATH`, each on a free
//! loopback port with a temporary folder, and leaves nothing behind, however the test ends.
//!
//! Everything here blocks and runs on plain threads, so it can be used under any async runtime.

#![allow(clippy::disallowed_methods, reason = "real processes are watched with the real clock")]

pub mod servers;
