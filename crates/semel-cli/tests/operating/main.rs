//! What operators and clients of the program see: answers, records, decisions, mistakes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "real processes are watched with the real clock")]
#![allow(clippy::print_stdout, reason = "the last words of a child help when a test fails")]
#![allow(dead_code, reason = "the crash tests use the rest of the support")]

mod admin;
mod answers;
mod config;
mod mistakes;
mod records;
mod stores;
#[path = "../crash/support.rs"]
mod support;
