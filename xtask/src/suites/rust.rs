//! Suites that need nothing but Rust.

use super::Verdict;
use crate::{process, tidy};

/// Everything that tests need beyond the defaults: the conformance suite that every store runs,
/// the named points at which crash tests kill the process, and transactions of sqlx.
pub(super) const FEATURES: &str = "semel/conformance,semel-cli/failpoints,semel-stores/sqlx,\
    semel-tasks/apalis,semel-tasks/failpoints";

/// What builds librdkafka, which takes minutes and `make`: the suite `kafka` looks after it, and
/// the others leave it out.
const KAFKA_PACKAGES: [&str; 2] = ["kafka-orders", "semel-kafka"];

/// As [`FEATURES`], for what builds librdkafka: the door, and the program with it.
const KAFKA_FEATURES: &str = "semel-kafka/conformance,semel-kafka/failpoints,\
    semel-kafka/postgres,semel-kafka/sqlite";
const KAFKA_PROGRAM: [&str; 4] =
    ["-p", "semel-cli", "--features", "semel-cli/kafka,semel-cli/failpoints"];

pub(super) fn fmt() -> Verdict {
    missing_component("fmt", "rustfmt").unwrap_or_else(|| cargo(&["fmt", "--all", "--check"]))
}

pub(super) fn clippy() -> Verdict {
    missing_component("clippy", "clippy").unwrap_or_else(|| {
        let features = format!("{FEATURES},semel-cli/test-services");
        let what = ["clippy", "--all-targets", "--features", &features];
        cargo(&[&what[..], &without_kafka(), &["--", "-D", "warnings"]].concat())
    })
}

pub(super) fn tidy() -> Verdict {
    Verdict::of(tidy::check())
}

pub(super) fn test() -> Verdict {
    cargo(&[&["test", "--features", FEATURES], &without_kafka()[..]].concat())
}

pub(super) fn doc() -> Verdict {
    let what = [&["doc", "--no-deps", "--features", FEATURES], &without_kafka()[..]].concat();
    Verdict::of(document(&what))
}

/// Lints, tests and documentation of everything that builds librdkafka.
pub(super) fn kafka() -> Verdict {
    if process::find("make").is_none() {
        let why = "not on PATH: make, which librdkafka is built with".to_owned();
        return Verdict::Skipped { why, way: "apt-get install make".to_owned() };
    }
    let packages = KAFKA_PACKAGES.iter().flat_map(|name| ["-p", name]);
    let door: Vec<&str> = packages.chain(["--features", KAFKA_FEATURES]).collect();
    let run = || -> Result<(), String> {
        for what in [&door[..], &KAFKA_PROGRAM] {
            let lint = [&["clippy", "--all-targets"], what, &["--", "-D", "warnings"]].concat();
            process::run(&mut process::cargo(&lint))?;
        }
        process::run(&mut process::cargo(&[&["test"], &door[..]].concat()))?;
        let program = [&["test", "--test", "kafka"], &KAFKA_PROGRAM[..]].concat();
        process::run(&mut process::cargo(&program))?;
        document(&[&["doc", "--no-deps"], &door[..]].concat())
    };
    Verdict::of(run())
}

/// The example that cannot be in the workspace, because its SQLite and ours cannot be in one graph.
pub(super) fn apalis() -> Verdict {
    let place = ["--manifest-path", "examples/apalis-orders/Cargo.toml"];
    let target = process::target().join("apalis");
    let run = |what: &[&str]| process::run(process::cargo(what).env("CARGO_TARGET_DIR", &target));
    let lint = [&["clippy", "--all-targets"], &place[..], &["--", "-D", "warnings"]].concat();
    let all = || {
        run(&[&["fmt", "--check"], &place[..]].concat())?;
        run(&lint)?;
        run(&[&["test"], &place[..]].concat())
    };
    Verdict::of(all())
}

fn document(what: &[&str]) -> Result<(), String> {
    process::run(process::cargo(what).env("RUSTDOCFLAGS", "-D warnings"))
}

/// The whole workspace but what builds librdkafka.
pub(super) fn without_kafka() -> Vec<&'static str> {
    let excluded = KAFKA_PACKAGES.iter().flat_map(|name| ["--exclude", name]);
    ["--workspace"].into_iter().chain(excluded).collect()
}

fn cargo(arguments: &[&str]) -> Verdict {
    Verdict::of(process::run(&mut process::cargo(arguments)))
}

fn missing_component(subcommand: &str, component: &str) -> Option<Verdict> {
    let probe = process::output(&mut process::cargo(&[subcommand, "--version"]));
    let why = format!("the Rust component `{component}` is missing ({})", probe.err()?);
    Some(Verdict::Skipped { why, way: format!("rustup component add {component}") })
}
