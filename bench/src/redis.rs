//! Claim + complete pairs of the Redis store against the way in which they are safely written by
//! hand: GET, SET NX for a lock, SET EX with the answer, DEL of the lock. Four round trips.
//!
//! The peer has a connection for each worker, the store has its one. Server, settings, answers and
//! driver are the same. Every run gets a server of its own, so that no run pays for what another
//! one left behind. Processor time is that of client and server together; it moves less with the
//! machine's other load than pairs per second do.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value};
use semel_stores::redis::{RedisOptions, RedisStore};
use semel_testkit::servers::Redis;

use crate::cpu;
use crate::extent::Extent;
use crate::pairs::{self, BODY, RETENTION, key};
use crate::stats::{Bar, judge, median};
use crate::{Error, Verdict};

/// How long a lock of the peer lives when its holder dies.
const LOCK_S: u64 = 30;

/// What may take long on a busy machine; redis-rs would give up after half a second.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The ways that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Semel,
    /// GET, SET NX, SET EX, DEL.
    Lock,
}

/// One measured run of one way.
struct Sample {
    rate: f64,
    cpu_us: f64,
}

/// Measures both in turns and prints the ratios.
pub(crate) fn run(extent: Extent) -> Result<Verdict, Error> {
    if let Some(missing) = Redis::missing() {
        println!("skipped: {missing}");
        return Ok(Verdict::Skipped);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut verdicts = Vec::new();
    for (concurrent, bar) in [(256, Bar::AtLeast(4.0)), (1, Bar::AtLeast(1.0))] {
        let ratio = runtime.block_on(compare(concurrent, extent))?;
        verdicts.push(judge(&format!("semel / lock at {concurrent}"), ratio, bar, extent));
    }
    print_row("semel", 16, &[runtime.block_on(sample(Way::Semel, 16, extent))?]);
    println!(
        "command: cargo xtask bench redis ({} interleaved pairs of {} s each, appendfsync \
         everysec)",
        extent.pairs,
        extent.run.as_secs()
    );
    let is_met = verdicts.iter().all(|it| *it == Verdict::Met);
    Ok(if is_met { Verdict::Met } else { Verdict::Missed })
}

/// The median of ours over the median of the peer's.
async fn compare(concurrent: usize, extent: Extent) -> Result<f64, Error> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..extent.pairs {
        // Who goes first alternates, so that a trend of the machine favours neither.
        let turns = if pair % 2 == 0 { [Way::Semel, Way::Lock] } else { [Way::Lock, Way::Semel] };
        for way in turns {
            let sample = sample(way, concurrent, extent).await?;
            if way == Way::Semel { ours.push(sample) } else { theirs.push(sample) }
        }
    }
    Ok(print_row("semel", concurrent, &ours) / print_row("lock", concurrent, &theirs))
}

/// Returns the median rate.
fn print_row(name: &str, concurrent: usize, samples: &[Sample]) -> f64 {
    let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
    let cpu: Vec<f64> = samples.iter().map(|sample| sample.cpu_us).collect();
    let (rate, cpu) = (median(&rates), median(&cpu));
    println!("{name:<5} {concurrent:>3} concurrent: {rate:>8.0} pairs/s, {cpu:>5.1} µs CPU a pair");
    rate
}

async fn sample(way: Way, concurrent: usize, extent: Extent) -> Result<Sample, Error> {
    // Whoever writes more in three seconds would be the only one that pays for a rewrite.
    let server = Redis::with(&[("auto-aof-rewrite-percentage", "0")])?;
    let before = cpu::used(std::process::id())?;
    let rate = match way {
        Way::Semel => {
            let options = RedisOptions::default().response_timeout(ANSWER_MAX);
            let store = Arc::new(RedisStore::connect(&server.url(), options).await?);
            let pair = move |_, number| {
                let store = Arc::clone(&store);
                async move { pairs::pair(&*store, number).await }
            };
            pairs::rate_on_all_threads(concurrent, extent.run, pair).await?
        }
        Way::Lock => {
            let connections = connections(&server.url(), concurrent).await?;
            let pair = move |worker: usize, number| lock(connections[worker].clone(), key(number));
            pairs::rate_on_all_threads(concurrent, extent.run, pair).await?
        }
    };
    // The server is a child of this process.
    let used = cpu::used(std::process::id())?.saturating_sub(before);
    Ok(Sample { rate, cpu_us: used.as_secs_f64() * 1e6 / (rate * extent.run.as_secs_f64()) })
}

async fn connections(url: &str, count: usize) -> Result<Vec<MultiplexedConnection>, Error> {
    let client = redis::Client::open(url)?;
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_MAX));
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(client.get_multiplexed_async_connection_with_config(&config).await?);
    }
    Ok(connections)
}

async fn lock(mut connection: MultiplexedConnection, key: String) -> Result<(), Error> {
    let (answer, lock) = (format!("answer:{key}"), format!("lock:{key}"));
    let found: Value = redis::cmd("GET").arg(&answer).query_async(&mut connection).await?;
    if found != Value::Nil {
        return Err("a new key must be free".into());
    }
    let mut set = redis::cmd("SET");
    set.arg(&lock).arg("worker").arg("NX").arg("EX").arg(LOCK_S);
    let taken: Value = set.query_async(&mut connection).await?;
    if taken != Value::Okay {
        return Err("a new key must be free to lock".into());
    }
    let mut set = redis::cmd("SET");
    set.arg(&answer).arg(BODY).arg("EX").arg(RETENTION.as_secs());
    set.exec_async(&mut connection).await?;
    redis::cmd("DEL").arg(&lock).exec_async(&mut connection).await?;
    Ok(())
}
