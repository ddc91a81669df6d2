//! The proxy is killed and frozen for real, at every named point an operation passes.
//!
//! Goal: whatever dies when, the promise of the mode holds: under `hold` an effect never happens
//! twice and a silent end is told as "outcome unknown"; under `retry` a lost execution runs again;
//! a stored answer is replayed after any restart; a late owner never overwrites.
//! Method: a child process halts at the point (`SEMEL_FAILPOINT`), the test kills it with SIGKILL,
//! starts another one on the same file and asks again. The upstream counts its effects.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "real processes are killed at real times")]
#![allow(clippy::print_stdout, reason = "the last words of a child help when a test fails")]
#![allow(dead_code, reason = "the operating tests use the rest of the support")]

mod points;
mod support;
mod zombies;
