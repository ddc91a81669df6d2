//! Rows in PostgreSQL for records, once each: an inbox against one transaction a record with
//! prepared statements, as it is written by hand. `fsync` and `synchronous_commit` are on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use semel::{Clock, SystemClock};
use semel_kafka::log::{ConsumerSettings, Event, LogConsumer, Outgoing, Record};
use semel_kafka::{
    Clockwork, ConsumerOptions, Failed, Identity, Inbox, KEY_HEADER, Poison, PostgresLedger,
    PostgresTransaction, Refresh, Window,
};
use semel_testkit::servers::Postgres;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Statement};

use super::ground::{Ground, PAYLOAD, Progress};
use crate::cpu;
use crate::extent::Extent;
use crate::stats::{Bar, judge, median};
use crate::{Error, Verdict};

const TABLES: &str = "
    CREATE TABLE effect (id text NOT NULL, body bytea NOT NULL);
    CREATE TABLE peer_seen (id text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE peer_position (part int PRIMARY KEY, next bigint NOT NULL);
    INSERT INTO peer_position VALUES (0, 0)";

const EFFECT: &str = "INSERT INTO effect (id, body) VALUES ($1, $2)";

struct Place<'a> {
    ground: &'a Ground,
    server: Postgres,
    ledger: Arc<PostgresLedger>,
    pool: Pool,
    topic: String,
    /// How many records are in the topic.
    count: u32,
}

pub(super) async fn run(ground: &Ground, extent: Extent) -> Result<Verdict, Error> {
    let place = Place::prepare(ground, extent).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut our_work, mut their_work) = (Vec::new(), Vec::new());
    for pair in 0..extent.pairs {
        // Who goes first alternates, so that a trend of the machine favours neither.
        let turns = if pair % 2 == 0 { [true, false] } else { [false, true] };
        for is_ours in turns {
            place.server.sql("TRUNCATE effect, peer_seen, semel_kafka.seen")?;
            place.server.sql("CHECKPOINT")?;
            let before = cpu::used(std::process::id())?;
            let progress = Progress::to(place.count);
            if is_ours {
                place.ours(&progress, extent.run).await?;
            } else {
                place.theirs(&progress, extent.run).await?;
            }
            let used = cpu::used(std::process::id())?.saturating_sub(before);
            let rows: u32 = place.server.sql("SELECT count(*) FROM effect")?.trim().parse()?;
            if rows != progress.count() {
                let handled = progress.count();
                return Err(format!("{handled} records were handled, {rows} rows are there").into());
            }
            let micros = used.as_secs_f64() * 1e6 / f64::from(rows);
            let (rates, work) =
                if is_ours { (&mut ours, &mut our_work) } else { (&mut theirs, &mut their_work) };
            rates.push(progress.rate());
            work.push(micros);
        }
    }
    for (name, rates, work) in [("inbox", &ours, &our_work), ("peer", &theirs, &their_work)] {
        let (rate, work) = (median(rates), median(work));
        println!(
            "{name:<5} {rate:>8.0} records/s, {work:>5.0} µs of processor time each, all told"
        );
    }
    let ratio = median(&ours) / median(&theirs);
    Ok(judge("inbox / one transaction a record", ratio, Bar::AtLeast(5.0), extent))
}

impl<'a> Place<'a> {
    async fn prepare(ground: &'a Ground, extent: Extent) -> Result<Self, Error> {
        let server = Postgres::with(&[("max_wal_size", "4GB"), ("autovacuum", "on")])?;
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(server.url().parse()?, NoTls, recycling);
        let pool = Pool::builder(manager).max_size(4).build()?;
        let ledger = PostgresLedger::new(pool.clone()).response_timeout(Duration::from_secs(60));
        ledger.migrate().await?;
        pool.get().await?.batch_execute(TABLES).await?;
        let count = if extent.is_judged { 200_000 } else { 20_000 };
        let record = |record: Outgoing, number: u32| {
            record.value(PAYLOAD).header(KEY_HEADER, format!("order-{number:08x}"))
        };
        let topic = ground.filled(1, count, record).await?;
        Ok(Self { ground, server, ledger: Arc::new(ledger), pool, topic, count })
    }

    async fn ours(&self, progress: &Arc<Progress>, time: Duration) -> Result<(), Error> {
        let week = Duration::from_secs(7 * 86_400);
        let window = Window::of(week, Clockwork::Event, Refresh::Fixed)?;
        let options =
            ConsumerOptions::new(self.ground.name("inbox"), [&*self.topic], Poison::stop(1));
        let (log, ledger) = (self.ground.log()?, Arc::clone(&self.ledger));
        let inbox = Inbox::new(log, ledger, Identity::header(KEY_HEADER), window, options)?;
        let seen = Arc::clone(progress);
        inbox
            .run(
                move |record, transaction| {
                    let progress = Arc::clone(&seen);
                    Box::pin(async move {
                        progress.begin();
                        insert(record, transaction).await?;
                        progress.end(Duration::ZERO);
                        Ok(())
                    })
                },
                progress.all_within(SystemClock.sleep(time)),
            )
            .await?;
        Ok(())
    }

    async fn theirs(&self, progress: &Progress, time: Duration) -> Result<(), Error> {
        let client = self.pool.get().await?;
        let peer = Peer::prepare(&client).await?;
        let settings = ConsumerSettings::new(self.ground.name("peer"), [&self.topic]);
        let mut consumer = self.ground.log()?.consumer(&settings)?;
        let mut began = None;
        loop {
            for record in records(&mut consumer).await? {
                progress.begin();
                peer.transact(&record).await?;
                progress.end(Duration::ZERO);
                if began.get_or_insert_with(Instant::now).elapsed() >= time {
                    progress.stop();
                    consumer.close().await?;
                    return Ok(());
                }
            }
        }
    }
}

async fn insert(record: &Record, transaction: &PostgresTransaction) -> Result<(), Failed> {
    let values: [(&(dyn ToSql + Sync), Type); 2] =
        [(&id(record), Type::TEXT), (&body(record), Type::BYTEA)];
    transaction.execute_typed(EFFECT, &values).await?;
    Ok(())
}

fn id(record: &Record) -> &str {
    record.header(KEY_HEADER).and_then(|id| str::from_utf8(id).ok()).unwrap_or_default()
}

fn body(record: &Record) -> &[u8] {
    record.value.as_deref().unwrap_or_default()
}

/// The next records; the events before them are answered.
async fn records(consumer: &mut Box<dyn LogConsumer>) -> Result<Vec<Record>, Error> {
    loop {
        match consumer.next().await? {
            Event::Assigned(partitions) => {
                consumer.assign(partitions.into_iter().map(|it| (it, None)).collect()).await?;
            }
            Event::Revoked(partitions) | Event::Lost(partitions) => {
                consumer.unassign(partitions).await?;
            }
            Event::Records(records) => return Ok(records),
        }
    }
}

/// One transaction a record on one connection.
struct Peer<'a> {
    client: &'a Client,
    remember: Statement,
    effect: Statement,
    position: Statement,
}

impl<'a> Peer<'a> {
    async fn prepare(client: &'a Client) -> Result<Self, Error> {
        let remember = "INSERT INTO peer_seen (id) VALUES ($1) ON CONFLICT DO NOTHING";
        let position = "UPDATE peer_position SET next = $2 WHERE part = $1";
        Ok(Self {
            remember: client.prepare(remember).await?,
            effect: client.prepare(EFFECT).await?,
            position: client.prepare(position).await?,
            client,
        })
    }

    async fn transact(&self, record: &Record) -> Result<(), Error> {
        self.client.batch_execute("BEGIN").await?;
        if self.client.execute(&self.remember, &[&id(record)]).await? == 1 {
            self.client.execute(&self.effect, &[&id(record), &body(record)]).await?;
        }
        let (partition, next) = (record.partition.partition, record.offset + 1);
        self.client.execute(&self.position, &[&partition, &next]).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok(())
    }
}
