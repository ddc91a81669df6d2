//! Consumers and relays in real processes on a real Apache Kafka, killed, stopped and started
//! again.
//!
//! A worker is this test program again, told by an environment variable what to do; see `worker`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may panic and print, and real processes have the real clock"
)]

mod acceptance;
mod audit;
mod classes;
mod crew;
mod failpoints;
mod history;
mod indefinite;
mod job;
mod members;
mod naive;
mod outbox;
mod pauses;
mod place;
mod reader;
mod sink;
mod wire;
mod worker;
