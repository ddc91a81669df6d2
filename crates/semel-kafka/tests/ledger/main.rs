//! The ledgers, on SQLite and on a real PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may panic, print and watch real processes"
)]

mod endings;
mod forgetting;
mod model;
mod network;
mod outbox;
mod owners;
mod support;
mod tables;
mod windows;
