//! What workers run.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use semel::{Context, Effect, Error, Failure, FingerprintKey, Guard, Settings, SystemClock};
use semel_kafka::log::{Outgoing, Record};
use semel_kafka::{
    ConsumerOptions, Failed, GroupProtocol, Guarded, Identity, Inbox, KafkaLog, KafkaOptions,
    Poison, PostgresLedger, SqliteLedger, Transform, Window,
};
use semel_stores::sqlite::SqliteStore;

use super::job::{Class, Job, RETRY_SUFFIX};
use super::place::KEYS;
use super::{naive, outbox, sink};

/// So long a member may be silent. The broker has to allow it, or to set it.
pub(crate) const SESSION: Duration = Duration::from_secs(3);

/// So long a transaction may be open.
pub(crate) const TRANSACTION: Duration = Duration::from_secs(6);

/// Which attempt has made an output.
pub(crate) const ATTEMPT_HEADER: &str = "attempt";

pub(crate) async fn run(
    job: &Job,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    match job.class {
        Class::InboxPostgres => inbox_postgres(job, until).await,
        Class::InboxSqlite => inbox_sqlite(job, until).await,
        Class::Transform => transform(job, until).await,
        Class::Guarded => guarded(job, until).await,
        Class::RelayPostgres | Class::RelaySqlite => outbox::run(job, until).await,
        Class::ExistsById | Class::MarkFirst => naive::run(job, until).await,
    }
}

pub(crate) fn kafka(job: &Job) -> KafkaLog {
    let options = KafkaOptions::new(&job.bootstrap)
        .set("client.id", &job.name)
        .set("reconnect.backoff.max.ms", "500")
        .group_protocol(job.protocol);
    let options = match job.protocol {
        GroupProtocol::Classic => options
            .set("session.timeout.ms", SESSION.as_millis().to_string())
            .set("heartbeat.interval.ms", "300"),
        _ => options,
    };
    KafkaLog::with(options).unwrap()
}

fn options(job: &Job) -> ConsumerOptions {
    let poison = if job.fails() {
        Poison::dead_letter(job.dead(), 1_000).retry_topics(RETRY_SUFFIX, 2).backlog_max(200)
    } else {
        Poison::dead_letter(job.dead(), 50)
    };
    let poison = poison.pause(Duration::from_millis(10));
    ConsumerOptions::new(&job.run, [job.input()], poison)
        .batch_max(job.batch_max)
        .commit_every(Duration::from_millis(50))
        .drain_max(Duration::from_secs(5))
}

pub(crate) fn number(record: &Record) -> u32 {
    std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse().unwrap()
}

/// Whether a handler fails this time: every second time for some keys, in runs that fail.
fn fails(job: &Job, number: u32) -> bool {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed) + u64::from(std::process::id());
    // One step of SplitMix64.
    let mixed = call.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    job.fails() && (number % KEYS).is_multiple_of(7) && (mixed ^ mixed >> 31) & 1 == 0
}

async fn inbox_postgres(job: &Job, until: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let ledger = Arc::new(PostgresLedger::new(sink::pool(&job.sink)));
    let (log, identity) = (Arc::new(kafka(job)), Identity::header("id"));
    let inbox = Inbox::new(log, ledger, identity, Window::endless(), options(job))?;
    let insert = format!("INSERT INTO effect (run, number) VALUES ('{}', ", job.run);
    inbox
        .run(
            |record, transaction| {
                let insert = format!("{insert}{})", number(record));
                let fails = fails(job, number(record));
                Box::pin(async move {
                    transaction.batch_execute(&insert).await?;
                    if fails { Err(Failed::retry("not now")) } else { Ok(()) }
                })
            },
            until,
        )
        .await
}

async fn inbox_sqlite(job: &Job, until: impl Future<Output = ()> + Send) -> Result<(), Error> {
    // Whoever is stopped while it writes holds everybody up until it goes on.
    let patience = Duration::from_secs(10);
    let ledger = SqliteLedger::open_with(&job.sink, patience, Arc::new(SystemClock))?;
    let (log, identity) = (Arc::new(kafka(job)), Identity::header("id"));
    let inbox = Inbox::new(log, Arc::new(ledger), identity, Window::endless(), options(job))?;
    inbox
        .run(
            |record, transaction| {
                let number = number(record);
                let fails = fails(job, number);
                Box::pin(async move {
                    let insert = "INSERT INTO effect (number) VALUES (?1)";
                    transaction.with(move |it| it.execute(insert, [number])).await?;
                    if fails { Err(Failed::retry("not now")) } else { Ok(()) }
                })
            },
            until,
        )
        .await
}

async fn transform(job: &Job, until: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let (log, identity) = (Arc::new(kafka(job)), Identity::header("id"));
    let transform =
        Transform::new(log, format!("{}-{}", job.run, job.slot), identity, options(job))?
            .transaction_timeout(TRANSACTION);
    let (output, name, attempts) = (job.output(), job.name.clone(), AtomicU64::new(0));
    let handler = |record: Arc<Record>| {
        let attempt = format!("{name}/{}", attempts.fetch_add(1, Ordering::Relaxed));
        let partition = Some(record.partition.partition);
        let (key, value) = (record.key.clone(), record.value.clone());
        let copy = Outgoing { partition, key, value, ..Outgoing::to(&*output) };
        let fails = fails(job, number(&record));
        async move {
            if fails {
                return Err(Failed::retry("not now"));
            }
            Ok(vec![copy.header(ATTEMPT_HEADER, attempt)])
        }
    };
    transform.run(handler, until).await
}

async fn guarded(job: &Job, until: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let mut settings = Settings::default();
    settings.lease = Duration::from_secs(3);
    settings.store_patience = Duration::from_secs(2);
    settings.retry_after = Duration::from_millis(200);
    // Workers are killed so often that one record may meet it several times.
    settings.lost_leases_max = 100;
    let store = SqliteStore::open(format!("{}.records", job.sink))?;
    let guard = Guard::builder(Arc::new(store)).settings(settings).operation("consume")?;
    let guard = guard.effect(Effect::Keyed).build()?;
    let secret = FingerprintKey::from_secret(b"sixteen bytes or more")?;
    let (log, identity) = (Arc::new(kafka(job)), Identity::header("id"));
    let guarded = Guarded::new(log, guard, secret, identity, options(job))?;
    let effects = Arc::new(Mutex::new(sink::open(&job.sink)));
    let job = job.clone();
    let handler = move |record: Arc<Record>, context: Context| {
        let (effects, number) = (Arc::clone(&effects), number(&record));
        let fails = fails(&job, number);
        async move {
            if fails {
                return Err(Failure::not_applied("not now"));
            }
            let key = context.step_key("effect");
            let effects = effects.lock().unwrap();
            sink::call(&effects, key.as_str(), number).map_err(Failure::not_applied)
        }
    };
    guarded.run(handler, until).await
}
