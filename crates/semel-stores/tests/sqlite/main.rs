//! The SQLite store keeps every rule of the public suite, agrees with the reference machine, and
//! survives what happens to files and processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "real processes are killed at real times")]
#![allow(clippy::print_stdout, reason = "children tell their parent how far they are")]

mod bounds;
mod damage;
mod golden;
mod misuse;
mod opening;
mod processes;
mod steps;
mod suite;
mod support;
mod transactions;
