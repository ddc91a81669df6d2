//! The task door: guarded functions that do nothing, so that only the guard is measured.
//!
//! The bars are rates: so many operations a second a queue's worker can have guarded on one
//! machine. Beside them stands the same work by hand, two statements or two commands for each
//! operation, in runs that alternate with ours. On SQLite ten steps are compared with the twelve
//! commits that they are at least (a claim, ten steps, a completion).

use std::sync::Arc;
use std::time::Instant;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use semel::{Effect, FingerprintKey, Guard, Key, Store};
use semel_stores::postgres::{PostgresStore, migrate};
use semel_stores::redis::{RedisOptions, RedisStore};
use semel_stores::sqlite::SqliteStore;
use semel_tasks::TaskGuard;
use semel_testkit::servers::{Postgres, Redis};
use tokio_postgres::NoTls;

use crate::extent::Extent;
use crate::pairs::{self, BODY, key};
use crate::stats::{Bar, judge, median};
use crate::{Error, Verdict};

/// At once, on a server.
const CONCURRENT: usize = 64;

const STEPS: u32 = 10;

const PEER: &str = "CREATE TABLE peer (key text PRIMARY KEY, answer bytea)";
const CLAIM: &str = "INSERT INTO peer (key) VALUES ($1) ON CONFLICT DO NOTHING";
const COMPLETE: &str = "UPDATE peer SET answer = $2 WHERE key = $1";

pub(crate) fn run(extent: Extent) -> Result<Verdict, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let verdicts = runtime.block_on(async {
        Ok::<_, Error>([postgres(extent).await?, redis(extent).await?, sqlite(extent).await?])
    })?;
    println!(
        "command: cargo xtask bench tasks ({} interleaved runs of {} s each)",
        extent.pairs,
        extent.run.as_secs()
    );
    let is_met = verdicts.iter().flatten().all(|it| *it != Verdict::Missed);
    Ok(if is_met { Verdict::Met } else { Verdict::Missed })
}

fn tasks(store: Arc<dyn Store>) -> Result<TaskGuard, Error> {
    let guard = Guard::builder(store).operation("bench")?.effect(Effect::Keyed).build()?;
    Ok(TaskGuard::new(guard, FingerprintKey::from_secret(b"sixteen bytes or more")?))
}

/// A task that answers with a hundred bytes, and does nothing.
async fn no_op(tasks: &TaskGuard, number: u64) -> Result<(), Error> {
    let key = Key::parse(&key(number))?;
    let answer = std::str::from_utf8(BODY)?;
    let ran = tasks.run(&key, &number, async |_| Ok(answer.to_owned())).await?;
    (ran.value.len() == BODY.len()).then_some(()).ok_or_else(|| "another answer".into())
}

async fn guarded(tasks: &TaskGuard, extent: Extent) -> Result<f64, Error> {
    let tasks = tasks.clone();
    let work = move |_, number| {
        let tasks = tasks.clone();
        async move { no_op(&tasks, number).await }
    };
    pairs::rate_on_all_threads(CONCURRENT, extent.run, work).await
}

fn print_row(name: &str, rates: &[f64]) -> f64 {
    let rate = median(rates);
    println!("{name:<26}: {rate:>8.0}/s at {CONCURRENT} concurrent");
    rate
}

async fn postgres(extent: Extent) -> Result<Vec<Verdict>, Error> {
    if let Some(missing) = Postgres::missing() {
        println!("skipped: {missing}");
        return Ok(vec![Verdict::Skipped]);
    }
    let server = Postgres::with(&[("max_wal_size", "4GB")])?;
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(server.url().parse()?, NoTls, manager);
    let pool = Pool::builder(manager).max_size(32).build()?;
    migrate::up(&server.url(), Default::default()).await?;
    pool.get().await?.batch_execute(PEER).await?;
    let tasks = tasks(Arc::new(PostgresStore::connect(&server.url()).await?))?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..extent.pairs {
        ours.push(guarded(&tasks, extent).await?);
        let pool = pool.clone();
        let by_hand = move |_, number| {
            let pool = pool.clone();
            async move {
                let client = pool.get().await?;
                let (claim, complete) =
                    (client.prepare_cached(CLAIM).await?, client.prepare_cached(COMPLETE).await?);
                let key = key(number);
                client.execute(&claim, &[&key]).await?;
                client.execute(&complete, &[&key, &BODY]).await?;
                Ok(())
            }
        };
        theirs.push(pairs::rate_on_all_threads(CONCURRENT, extent.run, by_hand).await?);
    }
    let rate = print_row("guarded on PostgreSQL", &ours);
    let ratio = rate / print_row("two statements by hand", &theirs);
    println!("guarded / by hand on PostgreSQL: {ratio:.2}");
    Ok(vec![judge("guarded tasks a second on PostgreSQL", rate, Bar::AtLeast(5_000.0), extent)])
}

async fn redis(extent: Extent) -> Result<Vec<Verdict>, Error> {
    if let Some(missing) = Redis::missing() {
        println!("skipped: {missing}");
        return Ok(vec![Verdict::Skipped]);
    }
    let server = Redis::with(&[("auto-aof-rewrite-percentage", "0")])?;
    let store = RedisStore::connect(&server.url(), RedisOptions::default()).await?;
    let tasks = tasks(Arc::new(store))?;
    let peer = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    let (mut ours, mut theirs, mut replays) = (Vec::new(), Vec::new(), Vec::new());
    no_op(&tasks, u64::MAX).await?;
    for _ in 0..extent.pairs {
        ours.push(guarded(&tasks, extent).await?);
        let peer = peer.clone();
        let by_hand = move |_, number| {
            let mut peer = peer.clone();
            async move {
                let key = key(number);
                let mut set = redis::cmd("SET");
                set.arg(&key).arg("worker").arg("NX").arg("EX").arg(30);
                set.exec_async(&mut peer).await?;
                let mut set = redis::cmd("SET");
                set.arg(&key).arg(BODY).arg("EX").arg(86_400).exec_async(&mut peer).await?;
                Ok(())
            }
        };
        theirs.push(pairs::rate_on_all_threads(CONCURRENT, extent.run, by_hand).await?);
        let again = tasks.clone();
        let replay = move |_, _| {
            let tasks = again.clone();
            async move { no_op(&tasks, u64::MAX).await }
        };
        replays.push(pairs::rate_on_all_threads(CONCURRENT, extent.run, replay).await?);
    }
    let rate = print_row("guarded on Redis", &ours);
    let ratio = rate / print_row("two commands by hand", &theirs);
    println!("guarded / by hand on Redis: {ratio:.2}");
    let replayed = print_row("replayed from Redis", &replays);
    Ok(vec![
        judge("guarded tasks a second on Redis", rate, Bar::AtLeast(15_000.0), extent),
        judge("replays a second from Redis", replayed, Bar::AtLeast(20_000.0), extent),
    ])
}

/// Operations of ten steps one after the other, and as many times the commits that they need.
async fn sqlite(extent: Extent) -> Result<Vec<Verdict>, Error> {
    let folder = tempfile::tempdir()?;
    let tasks = tasks(Arc::new(SqliteStore::open(folder.path().join("tasks.db"))?))?;
    let peer = rusqlite::Connection::open(folder.path().join("peer.db"))?;
    peer.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE step (number INTEGER PRIMARY KEY, result BLOB);",
    )?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut number = 0;
    for _ in 0..extent.pairs {
        let (began, mut count) = (Instant::now(), 0_u32);
        while began.elapsed() < extent.run {
            number += 1;
            count += 1;
            ten_steps(&tasks, number).await?;
        }
        ours.push(f64::from(count) / began.elapsed().as_secs_f64());
        let (began, mut count) = (Instant::now(), 0_u32);
        while began.elapsed() < extent.run {
            count += 1;
            for _ in 0..STEPS + 2 {
                peer.execute("INSERT INTO step (result) VALUES (?1)", [BODY])?;
            }
        }
        theirs.push(f64::from(count) / began.elapsed().as_secs_f64());
    }
    let (ours, theirs) = (median(&ours), median(&theirs));
    println!("ten steps on SQLite       : {ours:>8.0} operations/s one after the other");
    println!("twelve commits by hand    : {theirs:>8.0} times/s");
    let what = "ten steps / the twelve commits that they are";
    Ok(vec![judge(what, ours / theirs, Bar::AtLeast(0.5), extent)])
}

async fn ten_steps(tasks: &TaskGuard, number: u64) -> Result<(), Error> {
    let key = Key::parse(&pairs::key(number))?;
    tasks
        .run(&key, &number, async |task| {
            for step in 0..STEPS {
                let name = format!("step-{step}");
                task.step(&name, async |_| Ok::<_, semel::StepFailure>(step)).await?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}
