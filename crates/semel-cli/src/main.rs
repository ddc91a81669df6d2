//! `semel` on the command line. Each command is one file or folder of `commands`.
//!
//! Exit codes: 0 done, 1 it failed while it ran (or the answer is no), 2 it was called wrongly.

#![allow(clippy::disallowed_methods, reason = "a program at the edge uses the real clock")]

mod cli;
mod commands;
mod config;
mod failpoints;
mod failure;
mod output;
mod probe;
mod text;

use std::process::ExitCode;

fn main() -> ExitCode {
    match failpoints::install().and_then(|()| cli::parse()).and_then(commands::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
