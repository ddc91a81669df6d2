//! Small records from one topic to another in transactions: a transform whose handler does
//! nothing, against a loop over librdkafka.

use std::sync::Arc;

use semel_kafka::log::{Outgoing, Record};
use semel_kafka::{ConsumerOptions, Identity, Poison, Transform};

use super::bare::Bare;
use super::ground::{Ground, PAYLOAD, Progress};
use crate::cpu;
use crate::extent::Extent;
use crate::stats::{Bar, judge, median};
use crate::{Error, Verdict};

const PARTITIONS: i32 = 4;

const KEYS: u32 = 1_000;

/// One measured run.
struct Sample {
    rate: f64,
    cpu_us: f64,
}

pub(super) async fn run(ground: &Ground, extent: Extent) -> Result<Verdict, Error> {
    let count = if extent.is_judged { 50_000 } else { 2_000 };
    let record = |record: Outgoing, number: u32| {
        let mut record = record.key((number % KEYS).to_string()).value(PAYLOAD);
        record.partition = i32::try_from(number % KEYS).ok().map(|key| key % PARTITIONS);
        record
    };
    let input = ground.filled(PARTITIONS, count, record).await?;
    let mut verdict = Verdict::Met;
    for batch_max in [500, 1_000] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for pair in 0..extent.pairs {
            // Who goes first alternates, so that a trend of the machine favours neither.
            let turns = if pair % 2 == 0 { [true, false] } else { [false, true] };
            for is_ours in turns {
                let sample = sample(ground, is_ours, &input, batch_max, count).await?;
                if is_ours { ours.push(sample) } else { theirs.push(sample) }
            }
        }
        let ratio =
            print_row("transform", batch_max, &ours) / print_row("bare", batch_max, &theirs);
        let what = format!("transform / bare loop, at most {batch_max} in a transaction");
        if judge(&what, ratio, Bar::AtLeast(0.8), extent) == Verdict::Missed {
            verdict = Verdict::Missed;
        }
    }
    Ok(verdict)
}

/// Returns the median rate.
fn print_row(name: &str, batch_max: usize, samples: &[Sample]) -> f64 {
    let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
    let cpu: Vec<f64> = samples.iter().map(|sample| sample.cpu_us).collect();
    let (rate, cpu) = (median(&rates), median(&cpu));
    println!(
        "{name:<9} at most {batch_max:>4}: {rate:>8.0} records/s, {cpu:>5.1} µs of processor time \
         each, the broker's included"
    );
    rate
}

async fn sample(
    ground: &Ground,
    is_ours: bool,
    input: &str,
    batch_max: usize,
    count: u32,
) -> Result<Sample, Error> {
    let output = ground.topic(PARTITIONS).await?;
    let before = cpu::used(std::process::id())?;
    let progress = Progress::to(count);
    if is_ours {
        ours(ground, input, &output, batch_max, &progress).await?;
    } else {
        let bare = Bare {
            bootstrap: ground.bootstrap(),
            name: ground.name("bare"),
            input: input.to_owned(),
            output,
            batch_max,
        };
        let progress = Arc::clone(&progress);
        tokio::task::spawn_blocking(move || bare.run(&progress)).await??;
    }
    let used = cpu::used(std::process::id())?.saturating_sub(before);
    Ok(Sample { rate: progress.rate(), cpu_us: used.as_secs_f64() * 1e6 / f64::from(count) })
}

async fn ours(
    ground: &Ground,
    input: &str,
    output: &str,
    batch_max: usize,
    progress: &Progress,
) -> Result<(), Error> {
    let name = ground.name("transform");
    let options = ConsumerOptions::new(&name, [input], Poison::stop(1)).batch_max(batch_max);
    let transform = Transform::new(ground.log()?, &name, Identity::place(), options)?;
    let output: Arc<str> = output.into();
    let handler = |record: Arc<Record>| {
        progress.begin();
        let mut outgoing = Outgoing::to(Arc::clone(&output));
        outgoing.key.clone_from(&record.key);
        outgoing.value.clone_from(&record.value);
        progress.end(Default::default());
        std::future::ready(Ok(vec![outgoing]))
    };
    transform.run(handler, progress.all()).await?;
    Ok(())
}
