//! `cargo xtask tidy`: the house rules that no compiler checks, as a test.

mod code;
mod directions;
mod files;
mod lines;
mod links;
mod pages;
mod sizes;

use std::fmt;

use crate::process;
use crate::{Failure, suggest};

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    what: String,
    rule: &'static str,
    way_out: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, what, rule, way_out } = self;
        write!(f, "{path}:{line}: {what}; {rule}; {way_out}")
    }
}

/// `cargo xtask tidy`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    if let Some(argument) = arguments.first() {
        return Err(Failure::Usage(suggest::unknown(
            "argument",
            argument,
            &["no argument at all"],
        )));
    }
    check().map_err(Failure::Broken)
}

/// Checks everything, prints each violation, and fails if there is one.
pub(crate) fn check() -> Result<(), String> {
    let files = files::read(&process::root())?;
    let mut violations = directions::check()?;
    for file in &files {
        violations.extend(lines::check(file));
        violations.extend(sizes::check(file));
        violations.extend(links::check(file, &process::root()));
    }
    violations.extend(pages::check(&files));
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => {
            println!("    tidy: {} files keep the rules", files.len());
            Ok(())
        }
        count => Err(format!("{count} places break the rules")),
    }
}
