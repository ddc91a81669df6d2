//! Suites that need nothing but Rust.

use super::Verdict;
use crate::{process, tidy};

/// Everything that tests need beyond the defaults: the conformance suite that every store runs,
/// the named points at which crash tests kill the process, and transactions of sqlx.
pub(super) const FEATURES: &str = "semel/conformance,semel-cli/failpoints,semel-stores/sqlx";

pub(super) fn fmt() -> Verdict {
    missing_component("fmt", "rustfmt").unwrap_or_else(|| cargo(&["fmt", "--all", "--check"]))
}

pub(super) fn clippy() -> Verdict {
    missing_component("clippy", "clippy").unwrap_or_else(|| {
        let features = format!("{FEATURES},semel-cli/test-services");
        let what = ["clippy", "--workspace", "--all-targets", "--features", &features];
        cargo(&[&what[..], &["--", "-D", "warnings"]].concat())
    })
}

pub(super) fn tidy() -> Verdict {
    Verdict::of(tidy::check())
}

pub(super) fn test() -> Verdict {
    cargo(&["test", "--workspace", "--features", FEATURES])
}

pub(super) fn doc() -> Verdict {
    let mut command = process::cargo(&["doc", "--workspace", "--no-deps", "--features", FEATURES]);
    Verdict::of(process::run(command.env("RUSTDOCFLAGS", "-D warnings")))
}

fn cargo(arguments: &[&str]) -> Verdict {
    Verdict::of(process::run(&mut process::cargo(arguments)))
}

fn missing_component(subcommand: &str, component: &str) -> Option<Verdict> {
    let probe = process::output(&mut process::cargo(&[subcommand, "--version"]));
    let why = format!("the Rust component `{component}` is missing ({})", probe.err()?);
    Some(Verdict::Skipped { why, way: format!("rustup component add {component}") })
}
