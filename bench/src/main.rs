//! Benchmarks of semel. Each prints a ratio against a peer or a limit that was measured in the
//! same run, interleaved with it, because a figure alone says more about the machine than about
//! the program. Run them with `cargo xtask bench`; each takes about a minute. `--smoke` runs a few
//! seconds of each and judges nothing: the tests use it to see that they still work.
//!
//! Exit codes: 0 the bar was met (or there is none), 1 it was not or the run failed, 2 wrong usage.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its result")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures with the real clock")]

mod cpu;
mod extent;
mod guard;
#[cfg_attr(not(feature = "kafka"), path = "kafka/absent.rs")]
mod kafka;
mod pairs;
mod postgres;
mod proxy;
mod redis;
mod sqlite;
mod stats;
mod tasks;

use std::process::ExitCode;

use extent::Extent;

/// Any error; a benchmark only reports it.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// How a benchmark ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It ran, and the figure is within its bar if it has one.
    Met,
    /// It ran, and the figure is beyond its bar.
    Missed,
    /// It cannot run here; it said why.
    Skipped,
}

fn run(name: &str, extent: Extent) -> Option<Result<Verdict, Error>> {
    match name {
        "guard" => Some(guard::run(extent)),
        "kafka" | "kafka-inbox" | "kafka-lanes" | "kafka-transactions" | "kafka-transform" => {
            Some(kafka::run(name, extent))
        }
        "postgres" => Some(postgres::run(extent)),
        "proxy" => Some(proxy::run(extent)),
        "redis" => Some(redis::run(extent)),
        "redis-proxy" => Some(proxy::run_redis(extent)),
        "sqlite" => Some(sqlite::run(extent)),
        "tasks" => Some(tasks::run(extent)),
        _ => None,
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["guard-loop", what, count] => Some(guard::run_loop(what, count)),
        ["kafka-settings", ref settings @ ..] => Some(kafka::run_settings(settings)),
        ["upstream"] => Some(proxy::run_upstream()),
        ["--smoke", name] => run(name, Extent::SMOKE),
        [name] => run(name, Extent::FULL),
        _ => None,
    };
    let Some(result) = result else {
        eprintln!(
            "usage: semel-bench [--smoke] guard|kafka|kafka-inbox|kafka-lanes|kafka-transactions|\
             kafka-transform|postgres|proxy|redis|redis-proxy|sqlite|tasks"
        );
        return ExitCode::from(2);
    };
    match result {
        Ok(Verdict::Met | Verdict::Skipped) => ExitCode::SUCCESS,
        Ok(Verdict::Missed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}
