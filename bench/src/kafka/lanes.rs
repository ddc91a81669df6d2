//! Records of one partition with a little asynchronous work each: how well keys run side by side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use semel::{Clock, Effect, FingerprintKey, Guard, MemoryStore, SystemClock};
use semel_kafka::log::{Outgoing, Record};
use semel_kafka::{ConsumerOptions, Guarded, Identity, Poison};

use super::ground::{Ground, PAYLOAD, Progress};
use crate::extent::Extent;
use crate::stats::{Bar, judge, median};
use crate::{Error, Verdict};

const CONCURRENCY: usize = 100;

/// With so many keys the limit holds.
const JUDGED_FROM: u32 = 20;

const SECONDS_MAX: f64 = 2.3;

const NUMBER: &str = "number";

pub(super) async fn run(ground: &Ground, extent: Extent) -> Result<Verdict, Error> {
    let count = if extent.is_judged { 10_000 } else { 500 };
    let mut verdict = Verdict::Met;
    for keys in [1, 20, 100, 1_000] {
        let record = |record: Outgoing, number: u32| {
            let record = record.key((number % keys).to_string()).value(PAYLOAD);
            record.header(NUMBER, number.to_string())
        };
        let topic = ground.filled(1, count, record).await?;
        // One key takes as long as all the work does, so once is enough.
        let runs = if keys < JUDGED_FROM { 1 } else { extent.pairs };
        let (mut seconds, mut worked) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let progress = once(ground, &topic, count).await?;
            seconds.push(progress.seconds());
            worked.push(progress.worked().as_secs_f64());
        }
        let (seconds, worked) = (median(&seconds), median(&worked));
        let what = format!("lanes, {keys:>4} keys, {count} records, seconds");
        if keys < JUDGED_FROM {
            println!("{what}: {seconds:.2} (sum of the work: {worked:.2})");
            continue;
        }
        if judge(&what, seconds, Bar::AtMost(SECONDS_MAX), extent) == Verdict::Missed {
            verdict = Verdict::Missed;
        }
        println!("    sum of the work, which one after the other takes: {worked:.2} s");
    }
    Ok(verdict)
}

async fn once(ground: &Ground, topic: &str, count: u32) -> Result<Arc<Progress>, Error> {
    let guard = Guard::builder(Arc::new(MemoryStore::new()))
        .operation("bench")?
        .effect(Effect::Keyed)
        .build()?;
    let secret = FingerprintKey::from_secret(b"sixteen bytes or more")?;
    let options = ConsumerOptions::new(ground.name("lanes"), [topic], Poison::stop(1))
        .concurrency(CONCURRENCY);
    let consumer = Guarded::new(ground.log()?, guard, secret, Identity::header(NUMBER), options)?;
    let progress = Progress::to(count);
    let seen = Arc::clone(&progress);
    let handler = move |record: Arc<Record>, _| {
        let progress = Arc::clone(&seen);
        async move {
            progress.begin();
            let began = Instant::now();
            SystemClock.sleep(work(&record)).await;
            progress.end(began.elapsed());
            Ok(())
        }
    };
    consumer.run(handler, progress.all()).await?;
    Ok(progress)
}

/// 0 to 5 ms, the same for a number in every run.
fn work(record: &Record) -> Duration {
    let number = record.header(NUMBER).and_then(|number| str::from_utf8(number).ok());
    let number: u64 = number.and_then(|number| number.parse().ok()).unwrap_or_default();
    let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Duration::from_micros(mixed % 5_001)
}
