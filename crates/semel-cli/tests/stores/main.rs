//! The program on stores that several machines share: PostgreSQL, Redis, Redis Cluster.
//!
//! Goal: whatever number of proxies stands before one store, a key takes effect once and everybody
//! hears the same answer; a proxy or a server that dies leaves the truth behind; operators see and
//! decide the same as on SQLite, and are told in words what a server is lacking.
//! Method: real servers from `PATH` (a test says `SKIPPED` where one is missing), at least two
//! proxy processes, an upstream that counts its effects, SIGKILL and SIGSTOP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and real processes are watched with the real clock"
)]
#![allow(dead_code, clippy::print_stdout, reason = "the support is shared with other tests")]

mod calls;
mod client;
#[cfg(feature = "failpoints")]
mod crashes;
mod doctor;
mod migrate;
mod outage;
mod records;
mod servers;
mod settings;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod thousand;
mod zombies;
