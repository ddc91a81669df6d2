//! A few seconds of every benchmark in a debug build, so that they do not rot.

use std::process::Command;

use super::Verdict;
use super::rust::{FEATURES, without_kafka};
use crate::{bench, process};

/// What the benchmarks measure against or with.
const PROGRAMS: [&str; 4] = ["nginx", "redis-server", "valgrind", "wrk"];

pub(super) fn smoke() -> Verdict {
    let missing = PROGRAMS.iter().filter(|program| process::find(program).is_none());
    let missing: Vec<&str> = missing.copied().collect();
    if !missing.is_empty() {
        let why = format!("not on PATH: {}", missing.join(", "));
        return Verdict::Skipped { why, way: format!("apt-get install {}", missing.join(" ")) };
    }
    Verdict::of(run())
}

fn run() -> Result<(), String> {
    // The same features as the other tests, so that what they built is used again.
    let build = [&["build", "--bins", "--features", FEATURES], &without_kafka()[..]].concat();
    process::run(&mut process::cargo(&build))?;
    let program = process::target().join("debug/semel-bench");
    bench::NAMES.iter().try_for_each(|name| {
        let mut command = Command::new(&program);
        process::run(command.args(["--smoke", name]).current_dir(process::root()))
    })
}
