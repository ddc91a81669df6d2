//! Commits of which the client does not hear whether they took effect.

use std::time::Instant;

use futures_util::future::join_all;
use semel_testkit::servers::Kafka;

use super::audit::audit;
use super::job::Class;
use super::place::{Run, block_on, broker_with, until};
use super::wire::{Trick, Wire, send_late};

/// How many commits get through before the one that does not.
const PASSING: u32 = 2;

const CLASSES: [Class; 3] = [Class::Transform, Class::RelayPostgres, Class::RelaySqlite];

const SLOT: &str = "only";

fn transactional_id(run: &Run) -> String {
    match run.class {
        Class::Transform => format!("{}-{SLOT}", run.name),
        _ => format!("semel-outbox-{}", run.name),
    }
}

/// A broker that all clients reach through the wire alone.
fn wired_broker() -> Option<(Kafka, Wire)> {
    let wire = Wire::lay();
    let here = format!("PLAINTEXT://{}", wire.address());
    let kafka = broker_with(&[("advertised.listeners", &here)])?;
    wire.serve(&kafka.bootstrap());
    Some((kafka, wire))
}

/// The commit arrives or not, and the client goes on either way.
async fn story(wire: &Wire, class: Class, trick: Trick) {
    let start = Instant::now();
    let Some(mut run) = Run::new(&wire.address(), class, &format!("{trick:?}")).await else {
        return;
    };
    let id = transactional_id(&run);
    wire.trap(&id, PASSING, trick);
    run.feed(150).await;
    let worker = run.worker(SLOT);
    until("a commit is caught", async || wire.line(&id).caught.is_some()).await;
    run.feed(150).await;
    run.finishes().await;
    assert_eq!(worker.leave().await, "ended well");
    let line = wire.line(&id);
    assert_eq!(line.is_answered, trick != Trick::LoseRequest, "{}", run.name);
    // After a connection has broken, librdkafka asks again by itself.
    let producers = if trick == Trick::BreakOff { 1 } else { 2 };
    assert_eq!(line.producers, producers, "{}: producers", run.name);
    run.assert_once_and_in_order().await;
    let more = audit(&run).await;
    assert_eq!(more != "0 outputs aborted, ", trick == Trick::LoseRequest, "{more}");
    println!("{}: {} once and in order, {more}{:?}", run.name, run.fed, start.elapsed());
}

/// The commit arrives when the next producer's transaction is open. If it took effect there, what
/// that one has written so far would stay although it dies before it is done.
async fn late_story(kafka: &Kafka, wire: &Wire, class: Class) {
    let start = Instant::now();
    let Some(mut run) = Run::new(&wire.address(), class, "late").await else { return };
    let id = transactional_id(&run);
    wire.trap(&id, PASSING, Trick::LoseRequest);
    run.feed(150).await;
    let mut worker = run.worker_that_halts(SLOT, Some(("kafka:after_send", PASSING + 2)));
    worker.halts().await;
    let line = wire.line(&id);
    assert_eq!(line.producers, 2, "{}: producers", run.name);
    let error = send_late(&kafka.bootstrap(), &line.caught.unwrap());
    assert_ne!(error, 0, "{}: a late commit took effect", run.name);
    worker.kill();
    let heir = run.worker(SLOT);
    run.finishes().await;
    assert_eq!(heir.leave().await, "ended well");
    run.assert_once_and_in_order().await;
    let more = audit(&run).await;
    println!("{}: refused with {error}, {more}{:?}", run.name, start.elapsed());
}

#[test]
fn a_commit_without_an_answer_loses_and_repeats_nothing() {
    block_on(async {
        let Some((_kafka, wire)) = wired_broker() else { return };
        let tricks = [Trick::LoseAnswer, Trick::BreakOff, Trick::LoseRequest];
        let stories = CLASSES.into_iter().flat_map(|class| tricks.map(|trick| (class, trick)));
        join_all(stories.map(|(class, trick)| story(&wire, class, trick))).await;
    });
}

#[test]
fn a_commit_that_arrives_late_is_refused() {
    block_on(async {
        let Some((kafka, wire)) = wired_broker() else { return };
        join_all(CLASSES.map(|class| late_story(&kafka, &wire, class))).await;
    });
}
