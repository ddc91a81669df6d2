//! Workers that die, and others that are stopped, at every point of every class.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use semel_kafka::failpoint::POINTS;

use super::audit::audit;
use super::crew::Worker;
use super::job::Class;
use super::outbox;
use super::place::{Run, block_on, shared_broker, until};

/// How many stories are told at once.
pub(crate) const AT_ONCE: usize = 8;

const INBOX: [&str; 6] = [
    "kafka:before_transaction",
    "kafka:after_remember",
    "kafka:after_effect",
    "kafka:before_commit",
    "kafka:after_commit",
    "kafka:revoked",
];

const TRANSFORM: [&str; 7] = [
    "kafka:before_transaction",
    "kafka:after_effect",
    "kafka:after_send",
    "kafka:after_positions",
    "kafka:before_commit",
    "kafka:after_commit",
    "kafka:revoked",
];

const GUARDED: [&str; 9] = [
    "before_claim",
    "after_claim",
    "before_effect",
    "after_effect",
    "before_complete",
    "after_complete",
    "kafka:before_position",
    "kafka:after_position",
    "kafka:revoked",
];

const REVOKED: &str = "kafka:revoked";

/// Points that are passed once in a while, whatever there is to do.
const RARE: [&str; 3] = [REVOKED, "kafka:before_position", "kafka:after_position"];

/// Whether others have to wait for who is stopped there.
fn holds_others_up(class: Class, point: &str) -> bool {
    let is_inside = ["kafka:after_remember", "kafka:after_effect", "kafka:before_commit"];
    matches!(class, Class::InboxPostgres | Class::InboxSqlite) && is_inside.contains(&point)
}

/// One worker dies at the point, a second one is stopped there until the group has given it up and
/// others have done its work; then it goes on. A third one ends the work.
async fn story(bootstrap: &str, class: Class, point: &'static str, pass: u32) {
    let start = Instant::now();
    let name = point.trim_start_matches("kafka:");
    let Some(mut run) = Run::new(bootstrap, class, name).await else { return };
    let halt = Some((point, pass));
    run.feed(150).await;
    let mut first = run.worker_that_halts("first", halt);
    let mut second = None;
    if point == REVOKED {
        more_effects(&run, 0).await;
        second = Some(run.worker_that_halts("second", halt));
    }
    first.halts().await;
    let at_death = run.sink.count().await;
    first.kill();
    run.feed(150).await;
    let mut second = second.unwrap_or_else(|| run.worker_that_halts("second", halt));
    let mut third = None;
    if point == REVOKED {
        more_effects(&run, at_death).await;
        third = Some(run.worker("first"));
    }
    second.halts().await;
    freeze_without_locks(&run, &second).await;
    let at_stop = run.sink.count().await;
    run.feed(150).await;
    // It has the name of the one that died, as a worker that is started again.
    let third = third.unwrap_or_else(|| run.worker("first"));
    run.gives_up(&second).await;
    if !holds_others_up(class, point) {
        run.finishes().await;
    }
    second.go();
    second.thaw();
    run.finishes().await;
    run.feed(50).await;
    run.finishes().await;
    let ended = second.leave().await;
    let is_fine = ended == "ended well" || ended.starts_with("ended by ClaimLost");
    assert!(is_fine, "{}: {ended}", run.name);
    assert_eq!(third.leave().await, "ended well");
    run.assert_once_and_in_order().await;
    let more = audit(&run).await;
    println!(
        "{} at {point}, pass {pass}: killed after {at_death}, stopped after {at_stop}, {} of {} \
         once and in order, {more}the stopped one {ended}, {:?}",
        class.name(),
        run.sink.count().await,
        run.fed,
        start.elapsed()
    );
}

/// Other lanes of a worker go on until it is stopped. If one of them has the lock of a SQLite file
/// then, everybody waits for it and no heir could work.
async fn freeze_without_locks(run: &Run, worker: &Worker) {
    until("a stop without locks", async || {
        worker.freeze();
        if run.class != Class::Guarded || run.sink.is_free() {
            return true;
        }
        worker.thaw();
        false
    })
    .await;
}

async fn more_effects(run: &Run, known: usize) {
    until("more effects", async || run.sink.count().await > known).await;
}

#[test]
fn every_point_is_in_a_story() {
    let told = [&INBOX[..], &TRANSFORM, &GUARDED, &outbox::POINTS].concat();
    let missing: Vec<_> = POINTS.iter().filter(|it| !told.contains(it)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn whoever_dies_or_is_stopped_at_a_point_loses_and_repeats_nothing() {
    let only = std::env::var("SEMEL_TEST_ONLY").unwrap_or_default();
    let stories: Vec<_> = [
        (Class::Transform, &TRANSFORM[..]),
        (Class::InboxPostgres, &INBOX),
        (Class::InboxSqlite, &INBOX),
        (Class::Guarded, &GUARDED),
    ]
    .into_iter()
    .flat_map(|(class, points)| points.iter().map(move |point| (class, *point)))
    .filter(|(class, point)| format!("{} {point}", class.name()).contains(&only))
    .collect();
    block_on(async {
        let Some(bootstrap) = shared_broker() else { return };
        let stories = (1..).zip(stories).map(|(number, (class, point))| {
            let pass = if RARE.contains(&point) { 1 } else { 1 + number % 4 };
            story(&bootstrap, class, point, pass)
        });
        stream::iter(stories).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    });
}
