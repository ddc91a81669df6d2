//! The PostgreSQL store against real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may panic, print and watch real processes"
)]

mod forgetting;
mod mistakes;
mod network;
mod processes;
mod steps;
mod suite;
mod support;
mod transactions;
