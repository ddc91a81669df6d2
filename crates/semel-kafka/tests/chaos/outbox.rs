//! From a database into the log, by relays that die and relays that are stopped.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use rusqlite::Connection;
use semel::{Error, SystemClock};
use semel_kafka::ledger::OutboxTable;
use semel_kafka::log::Outgoing;
use semel_kafka::outbox::Relay;
use semel_kafka::{PostgresLedger, SqliteLedger};

use super::audit::audit;
use super::classes::{TRANSACTION, kafka};
use super::failpoints::AT_ONCE;
use super::job::{Class, Job};
use super::place::{KEYS, Run, block_on, shared_broker, until};
use super::sink;

/// The points of a relay, in the order in which it passes them.
pub(crate) const POINTS: [&str; 8] = [
    "kafka:after_takeover",
    "kafka:before_seal",
    "kafka:after_seal",
    "kafka:before_transaction",
    "kafka:after_send",
    "kafka:before_commit",
    "kafka:after_commit",
    "kafka:after_relay",
];

/// Passed once for each producer.
const TAKEOVER: &str = "kafka:after_takeover";

/// Rows from here on are in transactions that were rolled back.
const GHOSTS: u32 = 1_000_000;

/// How many write at once where the database allows that. Each has its own keys.
const WRITERS: u32 = 4;

/// The side of the requests: they write rows into the database of a run.
pub(crate) struct Outbox {
    name: String,
    topic: String,
    database: Database,
}

enum Database {
    Postgres(Pool),
    Sqlite(Connection),
}

impl Outbox {
    pub(crate) async fn make(class: Class, address: &str, run: &str) -> Self {
        let database = if class == Class::RelayPostgres {
            let pool = sink::pool(address);
            PostgresLedger::new(pool.clone()).migrate().await.unwrap();
            Database::Postgres(pool)
        } else {
            drop(SqliteLedger::open(address).unwrap());
            let connection = Connection::open(address).unwrap();
            connection.busy_timeout(Duration::from_secs(60)).unwrap();
            Database::Sqlite(connection)
        };
        Self { name: run.to_owned(), topic: format!("{run}-out"), database }
    }

    /// Writes numbers in many small transactions, with others between them that are rolled back.
    pub(crate) async fn write(&mut self, numbers: Range<u32>) {
        match &mut self.database {
            Database::Postgres(pool) => {
                let (pool, name, topic) = (&*pool, &*self.name, &*self.topic);
                join_all((0..WRITERS).map(|writer| {
                    let own = numbers.clone().filter(move |it| it % KEYS % WRITERS == writer);
                    write_postgres(pool, name, topic, own.collect())
                }))
                .await;
            }
            Database::Sqlite(connection) => {
                for (numbers, is_kept) in transactions(&numbers.collect::<Vec<_>>()) {
                    let transaction = connection.transaction().unwrap();
                    for number in numbers {
                        let row = row(&self.topic, number);
                        SqliteLedger::enqueue(&transaction, &self.name, &row).unwrap();
                    }
                    if is_kept { transaction.commit() } else { transaction.rollback() }.unwrap();
                }
            }
        }
    }
}

async fn write_postgres(pool: &Pool, name: &str, topic: &str, numbers: Vec<u32>) {
    let mut client = pool.get().await.unwrap();
    for (numbers, is_kept) in transactions(&numbers) {
        let transaction = client.transaction().await.unwrap();
        for number in numbers {
            let row = row(topic, number);
            PostgresLedger::enqueue(&*transaction, name, &row).await.unwrap();
        }
        if is_kept { transaction.commit().await } else { transaction.rollback().await }.unwrap();
    }
}

/// Each followed by one that is rolled back.
fn transactions(numbers: &[u32]) -> Vec<(Vec<u32>, bool)> {
    let mut transactions = Vec::new();
    for kept in numbers.chunks(3) {
        let ghosts = kept.iter().map(|number| GHOSTS + number).collect();
        transactions.extend([(kept.to_vec(), true), (ghosts, false)]);
    }
    transactions
}

fn row(topic: &str, number: u32) -> Outgoing {
    Outgoing::to(topic).key((number % GHOSTS % KEYS).to_string()).value(number.to_string())
}

/// What a worker does.
pub(crate) async fn run(job: &Job, until: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let table: Arc<dyn OutboxTable> = if job.class == Class::RelayPostgres {
        Arc::new(PostgresLedger::new(sink::pool(&job.sink)))
    } else {
        let patience = Duration::from_secs(10);
        Arc::new(SqliteLedger::open_with(&job.sink, patience, Arc::new(SystemClock))?)
    };
    let relay = Relay::new(Arc::new(kafka(job)), table, &job.run, &job.output())?;
    let relay = relay.batch_max(job.batch_max).poll_every(Duration::from_millis(10));
    let relay = relay.transaction_timeout(TRANSACTION);
    relay.run(until).await
}

/// One relay dies at the point, a second one is stopped there and a third one takes over; then
/// the second one goes on.
async fn story(bootstrap: &str, class: Class, point: &'static str, pass: u32) {
    let start = Instant::now();
    let name = point.trim_start_matches("kafka:");
    let Some(mut run) = Run::new(bootstrap, class, name).await else { return };
    let halt = Some((point, pass));
    run.feed(150).await;
    let mut first = run.worker_that_halts("first", halt);
    first.halts().await;
    let at_death = run.sink.count().await;
    first.kill();
    run.feed(150).await;
    let mut second = run.worker_that_halts("second", halt);
    second.halts().await;
    second.freeze();
    let at_stop = run.sink.count().await;
    run.feed(150).await;
    let third = run.worker("third");
    run.finishes().await;
    second.go();
    second.thaw();
    // With nothing to send it would not hear of its successor.
    until("the older relay ends", async || {
        run.feed(1).await;
        second.has_ended()
    })
    .await;
    let ended = second.leave().await;
    assert!(ended.starts_with("ended by ClaimLost"), "{}: {ended}", run.name);
    run.finishes().await;
    assert_eq!(third.leave().await, "ended well");
    run.assert_once_and_in_order().await;
    let more = audit(&run).await;
    println!(
        "{} at {point}, pass {pass}: killed after {at_death}, stopped after {at_stop}, {} of {} \
         once and in order, {more}{:?}",
        class.name(),
        run.sink.count().await,
        run.fed,
        start.elapsed()
    );
}

#[test]
fn a_relay_that_dies_or_is_stopped_at_a_point_loses_and_repeats_nothing() {
    let only = std::env::var("SEMEL_TEST_ONLY").unwrap_or_default();
    let stories: Vec<_> = [Class::RelayPostgres, Class::RelaySqlite]
        .into_iter()
        .flat_map(|class| POINTS.map(|point| (class, point)))
        .filter(|(class, point)| format!("{} {point}", class.name()).contains(&only))
        .collect();
    block_on(async {
        let Some(bootstrap) = shared_broker() else { return };
        let stories = (1..).zip(stories).map(|(number, (class, point))| {
            let pass = if point == TAKEOVER { 1 } else { 1 + number % 4 };
            story(&bootstrap, class, point, pass)
        });
        stream::iter(stories).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    });
}

#[test]
fn a_second_relay_ends_the_first_one_and_nothing_arrives_twice() {
    block_on(async {
        let Some(bootstrap) = shared_broker() else { return };
        for class in [Class::RelayPostgres, Class::RelaySqlite] {
            let Some(mut run) = Run::new(&bootstrap, class, "two").await else { return };
            run.feed(100).await;
            let mut first = run.worker("first");
            run.finishes().await;
            let second = run.worker("second");
            until("the first relay ends", async || {
                run.feed(1).await;
                first.has_ended()
            })
            .await;
            let ended = first.leave().await;
            assert!(ended.starts_with("ended by ClaimLost"), "{}: {ended}", run.name);
            run.finishes().await;
            assert_eq!(second.leave().await, "ended well");
            run.assert_once_and_in_order().await;
            audit(&run).await;
        }
    });
}

#[test]
fn a_relay_that_was_stopped_for_longer_than_its_transaction_goes_on() {
    block_on(async {
        let Some(bootstrap) = shared_broker() else { return };
        let class = Class::RelaySqlite;
        let Some(mut run) = Run::new(&bootstrap, class, "too-late").await else { return };
        run.feed(100).await;
        let mut relay = run.worker_that_halts("only", Some(("kafka:before_commit", 2)));
        relay.halts().await;
        relay.freeze();
        run.is_without_transactions().await;
        relay.go();
        relay.thaw();
        run.finishes().await;
        assert_eq!(relay.leave().await, "ended well");
        run.assert_once_and_in_order().await;
        audit(&run).await;
    });
}
