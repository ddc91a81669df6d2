//! Claim + complete pairs of the PostgreSQL store against the two ways in which they are written
//! by hand: SELECT, INSERT, UPDATE (three round trips, and wrong under concurrency), and one atomic
//! statement each to claim and to complete.
//!
//! The peers use prepared statements on a pool of 32 connections, the store has its 8. Server,
//! table layout and answers are the same, `fsync` and `synchronous_commit` are on.

use std::sync::Arc;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use semel_stores::postgres::{PostgresStore, migrate};
use semel_testkit::servers::Postgres;
use tokio_postgres::NoTls;

use crate::cpu;
use crate::extent::Extent;
use crate::pairs::{self, BODY, key};
use crate::stats::{Bar, judge, median};
use crate::{Error, Verdict};

const PEER_POOL: usize = 32;

const PEER_TABLE: &str = "CREATE TABLE IF NOT EXISTS peer (
    key text PRIMARY KEY, state text NOT NULL, fence bigint, answer bytea, expires_at timestamptz
)";

/// The ways that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Semel,
    /// SELECT, INSERT, UPDATE.
    Naive,
    /// INSERT … ON CONFLICT … RETURNING, UPDATE … WHERE fence.
    Single,
}

struct Ground {
    server: Postgres,
    store: Arc<PostgresStore>,
    pool: Pool,
}

/// Measures all in turns and prints the ratios.
pub(crate) fn run(extent: Extent) -> Result<Verdict, Error> {
    if let Some(missing) = Postgres::missing() {
        println!("skipped: {missing}");
        return Ok(Verdict::Skipped);
    }
    let server = Postgres::with(&[("max_wal_size", "4GB"), ("autovacuum", "on")])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let ground = Ground::prepare(server).await?;
        let mut verdicts = Vec::new();
        for (concurrent, peer, bar) in [
            (256, Way::Naive, Bar::AtLeast(5.0)),
            (16, Way::Single, Bar::AtLeast(1.0)),
            (1, Way::Single, Bar::AtLeast(1.0)),
        ] {
            let ratio = ground.compare(concurrent, peer, extent).await?;
            let what = format!("semel / {peer:?} at {concurrent}").to_lowercase();
            verdicts.push(judge(&what, ratio, bar, extent));
        }
        println!(
            "command: cargo xtask bench postgres ({} interleaved pairs of {} s each)",
            extent.pairs,
            extent.run.as_secs()
        );
        let is_met = verdicts.iter().all(|it| *it == Verdict::Met);
        Ok(if is_met { Verdict::Met } else { Verdict::Missed })
    })
}

impl Ground {
    async fn prepare(server: Postgres) -> Result<Self, Error> {
        let url = server.url();
        migrate::up(&url, Default::default()).await?;
        let store = Arc::new(PostgresStore::connect(&url).await?);
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(url.parse()?, NoTls, recycling);
        let pool = Pool::builder(manager).max_size(PEER_POOL).build()?;
        pool.get().await?.batch_execute(PEER_TABLE).await?;
        Ok(Self { server, store, pool })
    }

    /// The median of ours over the median of the peer's.
    async fn compare(&self, concurrent: usize, peer: Way, extent: Extent) -> Result<f64, Error> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let (mut our_work, mut their_work) = (Vec::new(), Vec::new());
        for pair in 0..extent.pairs {
            // Who goes first alternates, so that a trend of the machine favours neither.
            let turns = if pair % 2 == 0 { [Way::Semel, peer] } else { [peer, Way::Semel] };
            for way in turns {
                self.server.sql("TRUNCATE peer, semel.open, semel.done")?;
                self.server.sql("CHECKPOINT")?;
                let before = cpu::used(std::process::id())?;
                let rate = self.rate(way, concurrent, extent).await?;
                let work = cpu::used(std::process::id())?.saturating_sub(before);
                let micros = work.as_secs_f64() * 1e6 / (rate * extent.run.as_secs_f64());
                let (rates, works) = match way {
                    Way::Semel => (&mut ours, &mut our_work),
                    Way::Naive | Way::Single => (&mut theirs, &mut their_work),
                };
                rates.push(rate);
                works.push(micros);
            }
        }
        let (ours, theirs) = (median(&ours), median(&theirs));
        let (our_work, their_work) = (median(&our_work), median(&their_work));
        for (name, rate, work) in
            [("Semel".to_owned(), ours, our_work), (format!("{peer:?}"), theirs, their_work)]
        {
            println!(
                "{name:<6} {concurrent:>3} concurrent: {rate:>8.0} durable pairs/s, {work:>5.0} µs \
                 of processor time each, client and server"
            );
        }
        Ok(ours / theirs)
    }

    async fn rate(&self, way: Way, concurrent: usize, extent: Extent) -> Result<f64, Error> {
        let (store, pool) = (Arc::clone(&self.store), self.pool.clone());
        let time = extent.run;
        match way {
            Way::Semel => {
                let pair = move |_, number| {
                    let store = Arc::clone(&store);
                    async move { pairs::pair(&*store, number).await }
                };
                pairs::rate_on_all_threads(concurrent, time, pair).await
            }
            Way::Naive => {
                let pair = move |_, number| naive(pool.clone(), key(number));
                pairs::rate_on_all_threads(concurrent, time, pair).await
            }
            Way::Single => {
                let pair = move |_, number| single(pool.clone(), key(number));
                pairs::rate_on_all_threads(concurrent, time, pair).await
            }
        }
    }
}

async fn naive(pool: Pool, key: String) -> Result<(), Error> {
    let client = pool.get().await?;
    let select = client.prepare_cached("SELECT state, answer FROM peer WHERE key = $1").await?;
    if client.query_opt(&select, &[&key]).await?.is_some() {
        return Err("a new key must be free".into());
    }
    let insert = "INSERT INTO peer (key, state) VALUES ($1, 'in-progress')";
    client.execute(&client.prepare_cached(insert).await?, &[&key]).await?;
    drop(client);
    let client = pool.get().await?;
    let update = "UPDATE peer SET state = 'completed', answer = $2, \
                  expires_at = now() + interval '1 day' WHERE key = $1";
    client.execute(&client.prepare_cached(update).await?, &[&key, &BODY]).await?;
    Ok(())
}

async fn single(pool: Pool, key: String) -> Result<(), Error> {
    let client = pool.get().await?;
    let claim = "INSERT INTO peer (key, state, fence) VALUES ($1, 'in-progress', 1) \
                 ON CONFLICT (key) DO UPDATE SET fence = peer.fence + 1 \
                 WHERE peer.expires_at < now() RETURNING fence";
    let row = client.query_one(&client.prepare_cached(claim).await?, &[&key]).await?;
    drop(client);
    let (client, fence) = (pool.get().await?, row.get::<_, i64>(0));
    let complete = "UPDATE peer SET state = 'completed', answer = $2, \
                    expires_at = now() + interval '1 day' WHERE key = $1 AND fence = $3";
    client.execute(&client.prepare_cached(complete).await?, &[&key, &BODY, &fence]).await?;
    Ok(())
}
