//! `cargo xtask bench`: release builds, then the benchmarks of `bench/`.

use std::process::Command;

use crate::{Failure, process, suggest};

/// The benchmarks; each prints its own ratio and bar.
pub(crate) const NAMES: [&str; 6] =
    ["guard", "postgres", "proxy", "redis", "redis-proxy", "sqlite"];

/// `cargo xtask bench [NAME…]`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    for argument in arguments {
        if !NAMES.contains(&argument.as_str()) {
            return Err(Failure::Usage(suggest::unknown("benchmark", argument, &NAMES)));
        }
    }
    let names: Vec<&str> = match arguments {
        [] => NAMES.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    let build = ["build", "--release", "--package", "semel-bench", "--package", "semel-cli"];
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
