//! What many write themselves, and how it duplicates and loses.

use std::collections::BTreeMap;
use std::future::Future;

use rusqlite::Connection;
use semel::Error;
use semel::failpoint::pass;
use semel_kafka::log::{
    ConsumerSettings, Event, Log, LogConsumer, Position, Record, TopicPartition,
};

use super::classes::{kafka, number};
use super::job::{Class, Job};
use super::place::{Run, block_on, shared_broker};
use super::sink;

/// Between the look for the id and the effect.
const BEFORE_EFFECT: &str = "naive:before_effect";
/// Between the effect and the id.
const AFTER_EFFECT: &str = "naive:after_effect";
/// Between the id and the effect.
const AFTER_MARK: &str = "naive:after_mark";

/// Consumes, record by record, and commits the positions afterwards.
pub(crate) async fn run(job: &Job, until: impl Future<Output = ()>) -> Result<(), Error> {
    let settings = ConsumerSettings::new(&job.run, [job.input()]);
    let mut consumer = kafka(job).consumer(&settings).unwrap();
    let database = sink::open(&job.sink);
    let mut until = std::pin::pin!(until);
    loop {
        let event = tokio::select! {
            () = &mut until => break,
            event = consumer.next() => event,
        };
        match event {
            Ok(Event::Assigned(partitions)) => {
                let starts = partitions.into_iter().map(|it| (it, None)).collect();
                consumer.assign(starts).await.unwrap();
            }
            Ok(Event::Revoked(partitions) | Event::Lost(partitions)) => {
                consumer.unassign(partitions).await.unwrap();
            }
            Ok(Event::Records(records)) => {
                records.iter().for_each(|record| handle(job.class, &database, record));
                commit(&mut *consumer, &records).await;
            }
            Err(error) => tracing::warn!(%error, "again"),
        }
    }
    drop(consumer.close().await);
    Ok(())
}

fn handle(class: Class, database: &Connection, record: &Record) {
    let id = std::str::from_utf8(record.header("id").unwrap()).unwrap();
    let mark = || database.execute("INSERT OR IGNORE INTO seen (id) VALUES (?1)", [id]).unwrap();
    let effect = || {
        let insert = "INSERT INTO effect (number) VALUES (?1)";
        database.execute(insert, [number(record)]).unwrap();
    };
    if class == Class::MarkFirst {
        if mark() == 1 {
            pass(AFTER_MARK);
            effect();
        }
        return;
    }
    let look = "SELECT count(*) FROM seen WHERE id = ?1";
    let known: i64 = database.query_row(look, [id], |row| row.get(0)).unwrap();
    if known == 0 {
        pass(BEFORE_EFFECT);
        effect();
        pass(AFTER_EFFECT);
        mark();
    }
}

async fn commit(consumer: &mut dyn LogConsumer, records: &[Record]) {
    let mut next: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    for record in records {
        next.insert(record.partition.clone(), record.offset + 1);
    }
    let positions = next.into_iter().map(|(partition, next)| Position { partition, next });
    if let Err(error) = consumer.commit(positions.collect()).await {
        tracing::warn!(%error, "again");
    }
}

const RECORDS: u32 = 100;

/// How many numbers took effect more than once, and how many never.
async fn twice_and_never(run: &Run) -> (usize, usize) {
    let mut numbers = run.sink.numbers().await;
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    (all - numbers.len(), run.fed as usize - numbers.len())
}

/// A worker dies at the point, and another one ends the work.
async fn crash(class: Class, point: &'static str) -> Option<(usize, usize)> {
    let mut run = Run::new(&shared_broker()?, class, "crash").await?;
    run.feed(RECORDS).await;
    let mut first = run.worker_that_halts("first", Some((point, 42)));
    first.halts().await;
    first.kill();
    let second = run.worker("second");
    run.is_read().await;
    assert_eq!(second.leave().await, "ended well");
    let found = twice_and_never(&run).await;
    println!("{} killed at {point}: {} twice, {} never", class.name(), found.0, found.1);
    Some(found)
}

#[test]
fn exists_by_id_duplicates_when_it_dies_after_its_effect() {
    block_on(async {
        let Some(found) = crash(Class::ExistsById, AFTER_EFFECT).await else { return };
        assert_eq!(found, (1, 0));
    });
}

#[test]
fn mark_first_loses_when_it_dies_before_its_effect() {
    block_on(async {
        let Some(found) = crash(Class::MarkFirst, AFTER_MARK).await else { return };
        assert_eq!(found, (0, 1));
    });
}

#[test]
fn exists_by_id_duplicates_when_a_member_wakes_up_after_a_rebalance() {
    block_on(async {
        let Some(bootstrap) = shared_broker() else { return };
        let class = Class::ExistsById;
        let Some(mut run) = Run::new(&bootstrap, class, "zombie").await else { return };
        run.feed(RECORDS).await;
        let mut first = run.worker_that_halts("first", Some((BEFORE_EFFECT, 42)));
        first.halts().await;
        first.freeze();
        let second = run.worker("second");
        run.gives_up(&first).await;
        run.is_read().await;
        assert_eq!(run.sink.count().await, RECORDS as usize);
        first.go();
        first.thaw();
        assert_eq!(first.leave().await, "ended well");
        assert_eq!(second.leave().await, "ended well");
        let found = twice_and_never(&run).await;
        println!("{} rebalanced: {} twice, {} never", class.name(), found.0, found.1);
        assert_eq!(found, (1, 0));
    });
}
