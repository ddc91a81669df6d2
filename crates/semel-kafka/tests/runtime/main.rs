//! The classes of consumers on the log in the process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "a test that hangs is ended by the real clock")]

mod classes;
mod guarded;
mod inbox;
mod outbox;
mod retries;
mod storms;
mod support;
mod transform;
