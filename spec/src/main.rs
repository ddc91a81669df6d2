//! `cargo run --release -p semel-spec [-- --write]`: checks every world within the full bounds,
//! prints what it saw, and compares `docs/guarantees.md` with it (or writes it).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "talking to a person is the job")]

use std::process::ExitCode;

use semel_spec::document::{self, Document};
use semel_spec::table::{Bounds, tables};

fn main() -> ExitCode {
    let write = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--write") => true,
        Some(other) => {
            eprintln!("error: unknown argument `{other}`; use `--write` or nothing");
            return ExitCode::from(2);
        }
    };
    let made = tables(Bounds::FULL, |name, class, verdict| {
        println!("{:>10} moments  {name} / {class}: {}", verdict.moments, verdict.promise());
    });
    println!("{:>10} moments in all", made.moments);
    match document::read().and_then(|old| finish(&old, &made.markdown, write)) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(1)
        }
    }
}

fn finish(old: &Document, markdown: &str, write: bool) -> Result<&'static str, String> {
    if old.table() == markdown {
        return Ok("docs/guarantees.md says the same");
    }
    if write {
        old.with_table(markdown).write()?;
        return Ok("docs/guarantees.md is written anew");
    }
    Err("docs/guarantees.md says something else; run again with `--write`".to_owned())
}
