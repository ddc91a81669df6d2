//! Says how the benchmarks of Kafka are got in a build that is without them.

use crate::extent::Extent;
use crate::{Error, Verdict};

pub(crate) fn run(name: &str, _: Extent) -> Result<Verdict, Error> {
    Err(format!("this build is without Kafka; run: cargo xtask bench {name}").into())
}

pub(crate) fn run_settings(_: &[&str]) -> Result<Verdict, Error> {
    run("kafka-transactions", Extent::SMOKE)
}
