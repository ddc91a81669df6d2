//! The Redis store keeps every rule of the public suite, agrees with the reference machine, and
//! survives what happens to servers and networks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "real threads stand for other executors")]

mod clusters;
mod damage;
mod facts;
mod faults;
mod golden;
mod refusals;
mod sentinels;
mod suite;
mod support;
mod waiters;
