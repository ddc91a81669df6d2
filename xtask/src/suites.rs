//! The suites of `cargo xtask test`, in the order in which they run: cheap and telling first.

mod benchmarks;
mod flask_storm;
mod python;
mod rust;
mod servers;
mod venv;

/// One suite.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) run: fn() -> Verdict,
}

/// How a suite ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    Passed,
    Failed(String),
    /// It cannot run here: why, and the way to get it.
    Skipped {
        why: String,
        way: String,
    },
}

impl Verdict {
    fn of(result: Result<(), String>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(why) => Self::Failed(why),
        }
    }
}

pub(crate) const SUITES: [Suite; 11] = [
    Suite { name: "fmt", about: "the formatting of all Rust code", run: rust::fmt },
    Suite { name: "clippy", about: "lints, as errors", run: rust::clippy },
    Suite { name: "tidy", about: "the rules that no compiler checks", run: rust::tidy },
    Suite {
        name: "servers",
        about: "that the servers which the tests start are there",
        run: servers::present,
    },
    Suite {
        name: "cargo-test",
        about: "unit, integration and documentation tests",
        run: rust::test,
    },
    Suite {
        name: "kafka",
        about: "lints, tests and documentation of the Kafka door, on real brokers",
        run: rust::kafka,
    },
    Suite {
        name: "apalis",
        about: "the example worker of apalis over its three backends, a workspace of its own",
        run: rust::apalis,
    },
    Suite { name: "bench-smoke", about: "that the benchmarks still work", run: benchmarks::smoke },
    Suite { name: "doc", about: "the documentation, warnings as errors", run: rust::doc },
    Suite {
        name: "flask-storm",
        about: "duplicate storms on the Flask example under gunicorn, behind `semel proxy`",
        run: flask_storm::run,
    },
    Suite {
        name: "python",
        about: "the Python package: its wheel, its types and its tests",
        run: python::run,
    },
];
