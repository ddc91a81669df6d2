//! Workers that die, and others that are stopped, at every point of every class.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use semel_kafka::GroupProtocol;
use semel_kafka::failpoint::POINTS;

use super::audit::audit;
use super::crew::Worker;
use super::job::{Class, FAILING};
use super::outbox;
use super::place::{Run, block_on, shared_broker, until};

/// How many stories are told at once.
pub(crate) const AT_ONCE: usize = 8;

const INBOX: [&str; 7] = [
    "kafka:before_transaction",
    "kafka:after_remember",
    "kafka:after_effect",
    LETTER,
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

const GUARDED: [&str; 10] = [
    "before_claim",
    "after_claim",
    "before_effect",
    "after_effect",
    "before_complete",
    "after_complete",
    "kafka:before_position",
    "kafka:after_position",
    LETTER,
    "kafka:revoked",
];

/// A record is in the retry topic, and its position is not committed yet.
const LETTER: &str = "kafka:after_letter";

const REVOKED: &str = "kafka:revoked";

/// Points that are passed once in a while, whatever there is to do.
const RARE: [&str; 4] = [REVOKED, LETTER, "kafka:before_position", "kafka:after_position"];

/// Whether others have to wait for who is stopped there.
fn holds_others_up(class: Class, point: &str) -> bool {
    let is_inside = ["kafka:after_remember", "kafka:after_effect", LETTER, "kafka:before_commit"];
    matches!(class, Class::InboxPostgres | Class::InboxSqlite) && is_inside.contains(&point)
}

/// What a story is about.
#[derive(Clone, Copy)]
struct Told {
    class: Class,
    point: &'static str,
    protocol: GroupProtocol,
}

/// One worker dies at the point, a second one is stopped there until the group has given it up and
/// others have done its work; then it goes on. A third one ends the work.
async fn story(bootstrap: &str, told: Told, pass: u32) {
    let Told { class, point, protocol } = told;
    let start = Instant::now();
    let name = point.trim_start_matches("kafka:");
    // Only where handlers fail is anything written there.
    let kind = if point == LETTER { FAILING } else { "" };
    let name = format!("{name}-{protocol:?}{kind}");
    let Some(mut run) = Run::new(bootstrap, class, &name).await else { return };
    run.protocol = protocol;
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
        // Once it has all partitions, the next one gets some of them from it, and not those of the
        // one that died.
        run.finishes().await;
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
        run.name,
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
    run.reaches(known + 1).await;
}

#[test]
fn every_point_is_in_a_story() {
    let told = [&INBOX[..], &TRANSFORM, &GUARDED, &outbox::POINTS].concat();
    let missing: Vec<_> = POINTS.iter().filter(|it| !told.contains(it)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn whoever_dies_or_is_stopped_at_a_point_loses_and_repeats_nothing() {
    let classic = [
        (Class::Transform, &TRANSFORM[..]),
        (Class::InboxPostgres, &INBOX),
        (Class::InboxSqlite, &INBOX),
        (Class::Guarded, &GUARDED),
    ];
    tell(GroupProtocol::Classic, &classic);
}

/// Whose partitions are revoked, and who loses them in the middle of its work.
#[test]
fn brokers_that_assign_the_partitions_change_nothing_of_that() {
    let consumer = [
        (Class::Transform, &["kafka:before_commit", REVOKED][..]),
        (Class::InboxPostgres, &["kafka:before_commit", REVOKED]),
        (Class::InboxSqlite, &["kafka:before_commit", REVOKED]),
        (Class::Guarded, &["before_complete", "kafka:before_position", REVOKED]),
    ];
    tell(GroupProtocol::Consumer, &consumer);
}

/// A story for each point of each class.
fn tell(protocol: GroupProtocol, stories: &[(Class, &[&'static str])]) {
    let only = std::env::var("SEMEL_TEST_ONLY").unwrap_or_default();
    let each = |(class, points): &(Class, &[&'static str])| {
        let class = *class;
        points.iter().map(move |point| Told { class, point, protocol }).collect::<Vec<_>>()
    };
    let stories: Vec<_> = (stories.iter().flat_map(each))
        .filter(|it| format!("{} {}", it.class.name(), it.point).contains(&only))
        .collect();
    block_on(async {
        let Some(bootstrap) = shared_broker() else { return };
        let stories = (1..).zip(stories).map(|(number, told)| {
            let pass = if RARE.contains(&told.point) { 1 } else { 1 + number % 4 };
            story(&bootstrap, told, pass)
        });
        stream::iter(stories).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    });
}
