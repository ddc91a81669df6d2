//! `cargo xtask bench`: release builds, then the benchmarks of `bench/`.

use std::process::Command;

use crate::{Failure, process, suggest};

/// The benchmarks; each prints its own ratio and bar.
pub(crate) const NAMES: [&str; 7] =
    ["guard", "postgres", "proxy", "redis", "redis-proxy", "sqlite", "tasks"];

/// Those that are only run when they are named: they need librdkafka, which takes minutes to build.
const NAMES_WITH_KAFKA: [&str; 5] =
    ["kafka", "kafka-inbox", "kafka-lanes", "kafka-transactions", "kafka-transform"];

/// `cargo xtask bench [NAME…]`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let known = [&NAMES[..], &NAMES_WITH_KAFKA].concat();
    for argument in arguments {
        if !known.contains(&argument.as_str()) {
            return Err(Failure::Usage(suggest::unknown("benchmark", argument, &known)));
        }
    }
    let names: Vec<&str> = match arguments {
        [] => NAMES.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let mut build = vec!["build", "--release", "--package", "semel-bench"];
    if names.iter().any(|name| NAMES.contains(name)) {
        build.extend(["--package", "semel-cli"]);
    }
    if names.iter().any(|name| NAMES_WITH_KAFKA.contains(name)) {
        build.extend(["--features", "semel-bench/kafka"]);
    }
    process::run(&mut process::cargo(&build))?;
    let program = process::target().join("release/semel-bench");
    let mut failed = false;
    for name in names {
        println!("\n==> benchmark {name}");
        if let Err(error) =
            process::run(Command::new(&program).arg(name).current_dir(process::root()))
        {
            println!("error: {error}");
            failed = true;
        }
    }
    if failed { Err(Failure::Failed) } else { Ok(()) }
}
