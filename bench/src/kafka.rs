//! Benchmarks of Kafka's door on a real broker: lanes against a limit, transactions against sends
//! without them, a transform against a bare loop, an inbox against one transaction a record.

mod bare;
mod ground;
mod inbox;
mod lanes;
mod transactions;
mod transform;

use semel_testkit::servers::{Kafka, Postgres};

use self::ground::Ground;
use crate::extent::Extent;
use crate::{Error, Verdict};

/// All of them, or the one of that name.
pub(crate) fn run(name: &str, extent: Extent) -> Result<Verdict, Error> {
    if let Some(missing) = Kafka::missing() {
        println!("skipped: {missing}");
        return Ok(Verdict::Skipped);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ground = Ground::start()?;
    let mut verdicts = Vec::new();
    let is_asked = |part| name == "kafka" || name == part;
    if is_asked("kafka-lanes") {
        verdicts.push(runtime.block_on(lanes::run(&ground, extent))?);
    }
    if is_asked("kafka-transactions") {
        verdicts.push(runtime.block_on(transactions::run(&ground, extent))?);
    }
    if is_asked("kafka-transform") {
        verdicts.push(runtime.block_on(transform::run(&ground, extent))?);
    }
    if is_asked("kafka-inbox") {
        verdicts.push(match Postgres::missing() {
            None => runtime.block_on(inbox::run(&ground, extent))?,
            Some(missing) => {
                println!("skipped: {missing}");
                Verdict::Skipped
            }
        });
    }
    println!(
        "command: cargo xtask bench {name} ({} interleaved pairs; one broker without copies, \
         records of 100 B)",
        extent.pairs
    );
    Ok(worst(&verdicts))
}

/// Prints what transactions cost with settings of librdkafka: `NAME=VALUE,NAME=VALUE` each.
pub(crate) fn run_settings(settings: &[&str]) -> Result<Verdict, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ground = Ground::start()?;
    runtime.block_on(transactions::run_settings(&ground, settings))
}

fn worst(verdicts: &[Verdict]) -> Verdict {
    let has = |verdict| verdicts.contains(&verdict);
    match (has(Verdict::Missed), has(Verdict::Met)) {
        (true, _) => Verdict::Missed,
        (false, true) => Verdict::Met,
        (false, false) => Verdict::Skipped,
    }
}
