//! Which ids count as seen.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use semel::ErrorKind;
use semel_kafka::ledger::Ledger;
use semel_kafka::{Clockwork, Refresh, Window};

use super::model::{Model, UNIT_MS};
use super::support::{
    Bench, OnPostgres, OnSqlite, block_on, name, on_both, remember, see, sighting, take,
};

on_both!(
    an_id_that_was_never_taken_care_of_is_refused,
    an_id_without_a_time_counts_as_now,
    an_endless_window_never_forgets,
    equal_ids_in_one_batch_are_new_once,
    equal_ids_in_one_batch_are_judged_by_their_own_times,
    groups_do_not_see_each_others_ids,
    many_batches_at_once_agree_on_who_was_first,
    of_two_transactions_with_one_id_the_second_waits_for_the_first,
);

#[derive(Clone, Debug)]
enum Step {
    /// Units of time pass.
    Elapse(u8),
    Forget,
    /// Letters, partitions, and how late or early.
    Remember(Vec<(u8, i32, i64)>),
}

fn window() -> impl Strategy<Value = Window> {
    let clockwork = prop_oneof![Just(Clockwork::Event), Just(Clockwork::Wall)];
    let refresh = prop_oneof![Just(Refresh::Fixed), Just(Refresh::Sliding)];
    let length = Duration::from_millis(10 * UNIT_MS);
    let time = (clockwork, refresh)
        .prop_map(move |(clockwork, refresh)| Window::of(length, clockwork, refresh).unwrap());
    prop_oneof![
        6 => time.clone(),
        3 => (1..6_u64).prop_map(|count| Window::latest(count).unwrap()),
        4 => (time, 1..6_u64).prop_map(|(window, count)| window.at_most(count).unwrap()),
        1 => Just(Window::endless()),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (1..12_u8).prop_map(Step::Elapse),
        1 => Just(Step::Forget),
        // Less than one length apart: more would be later than what is kept.
        6 => vec((0..7_u8, 0..2, -4..5_i64), 0..7).prop_map(Step::Remember),
    ];
    vec(step, 1..14)
}

async fn agree<B: Bench>(bench: &B, window: &Window, steps: &[Step]) -> Result<(), TestCaseError> {
    let (ledger, group) = (bench.ledger(), name("group"));
    take(&*ledger, &group, &[0, 1]).await;
    let is_wall = window.time().is_some_and(|time| time.clockwork == Clockwork::Wall);
    // Times of records: long ago, so that nothing is in the future.
    let mut model = Model::default();
    model.now = 1_000;
    for step in steps {
        match step {
            Step::Elapse(units) => {
                model.now += i64::from(*units);
                if is_wall {
                    let passed = Duration::from_millis(UNIT_MS * u64::from(*units));
                    bench.elapse(&group, passed).await;
                }
            }
            Step::Forget => drop(ledger.forget(&group, window, 3).await.unwrap()),
            Step::Remember(seen) => {
                let seen: Vec<_> = seen
                    .iter()
                    .map(|(id, partition, late)| {
                        (char::from(b'a' + id).to_string(), *partition, model.now + late)
                    })
                    .collect();
                let sightings: Vec<_> = seen
                    .iter()
                    .map(|(id, partition, at)| {
                        sighting(id, *partition, Some(at.unsigned_abs() * UNIT_MS))
                    })
                    .collect();
                let found = remember(&*ledger, &group, window, &sightings).await;
                prop_assert_eq!(found, model.remember(window, &seen), "{:?}", seen);
            }
        }
    }
    Ok(())
}

fn every_window_means_what_it_says<B: Bench>(bench: &B, cases: u32) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let agreed = TestRunner::new(config).run(&(window(), steps()), |(window, steps)| {
        runtime.block_on(agree(bench, &window, &steps))
    });
    agreed.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_window_means_what_it_says_on_sqlite() {
    every_window_means_what_it_says(&OnSqlite::new(), 150);
}

#[test]
fn every_window_means_what_it_says_on_postgres() {
    let Some(bench) = block_on(OnPostgres::new()) else { return };
    // Connections of the pool belong to the runtime that made them.
    let bench = OnPostgres { pool: super::support::pool(&bench.url, 12), ..bench };
    let bench = OnPostgres { ledger: super::support::patient(bench.pool.clone()).into(), ..bench };
    every_window_means_what_it_says(&bench, 200);
}

async fn an_id_that_was_never_taken_care_of_is_refused<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    take(&*ledger, &group, &[0]).await;
    let mut transaction = ledger.begin().await.unwrap();
    let sightings = [sighting("a", 0, None), sighting("b", 1, None)];
    let window = Window::endless();
    let error = ledger.remember(&mut transaction, &group, &window, &sightings).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    ledger.rollback(transaction).await;
}

async fn an_id_without_a_time_counts_as_now<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    take(&*ledger, &group, &[0]).await;
    let hour = Duration::from_secs(3600);
    let window = Window::of(hour, Clockwork::Event, Refresh::Fixed).unwrap();
    assert_eq!(see(&*ledger, &group, &window, &["a"]).await, [true]);
    assert_eq!(see(&*ledger, &group, &window, &["a"]).await, [false]);
    let old = [sighting("a", 0, Some(1_000))];
    assert_eq!(remember(&*ledger, &group, &window, &old).await, [true]);
    assert_eq!(see(&*ledger, &group, &window, &["a"]).await, [true]);
}

async fn an_endless_window_never_forgets<B: Bench>(bench: &B) {
    let (ledger, group, window) = (bench.ledger(), name("group"), Window::endless());
    take(&*ledger, &group, &[0]).await;
    assert_eq!(see(&*ledger, &group, &window, &["a"]).await, [true]);
    bench.elapse(&group, Duration::from_secs(100 * 366 * 86_400)).await;
    assert_eq!(ledger.forget(&group, &window, 100).await.unwrap(), 0);
    assert_eq!(see(&*ledger, &group, &window, &["a"]).await, [false]);
}

async fn equal_ids_in_one_batch_are_new_once<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    take(&*ledger, &group, &[0]).await;
    let day = Duration::from_secs(86_400);
    let windows = [
        Window::endless(),
        Window::latest(1).unwrap(),
        Window::of(day, Clockwork::Wall, Refresh::Sliding).unwrap(),
        Window::of(day, Clockwork::Event, Refresh::Fixed).unwrap().at_most(1).unwrap(),
    ];
    for window in windows {
        let (a, b) = (name("a"), name("b"));
        let found = see(&*ledger, &group, &window, &[&a, &a, &b, &a]).await;
        assert_eq!(found, [true, false, true, false], "{window:?}");
    }
    assert_eq!(see(&*ledger, &group, &Window::endless(), &[]).await, [false; 0]);
}

async fn equal_ids_in_one_batch_are_judged_by_their_own_times<B: Bench>(bench: &B) {
    let ledger = bench.ledger();
    let length = Duration::from_secs(10);
    let at = |seconds: u64| sighting("a", 0, Some(1_000_000 + seconds * 1_000));
    let batch = [at(0), at(8), at(16), at(17), at(40), at(45)];
    for (refresh, expected) in [
        (Refresh::Fixed, [true, false, true, false, true, false]),
        (Refresh::Sliding, [true, false, false, false, true, false]),
    ] {
        let group = name("group");
        take(&*ledger, &group, &[0]).await;
        let window = Window::of(length, Clockwork::Event, refresh).unwrap();
        assert_eq!(remember(&*ledger, &group, &window, &batch).await, expected);
        assert_eq!(remember(&*ledger, &group, &window, &[at(49)]).await, [false]);
    }
}

async fn groups_do_not_see_each_others_ids<B: Bench>(bench: &B) {
    let (ledger, window) = (bench.ledger(), Window::endless());
    for group in [name("group"), name("group")] {
        take(&*ledger, &group, &[0]).await;
        assert_eq!(see(&*ledger, &group, &window, &["a"]).await, [true]);
    }
}

async fn of_two_transactions_with_one_id_the_second_waits_for_the_first<B: Bench>(bench: &B) {
    for commits in [true, false] {
        let (ledger, group, window) = (bench.ledger(), name("group"), Window::endless());
        take(&*ledger, &group, &[0, 1]).await;
        let mut first = ledger.begin().await.unwrap();
        let seen = [sighting("a", 0, None)];
        assert_eq!(ledger.remember(&mut first, &group, &window, &seen).await.unwrap(), [true]);
        let (other, others_group) = (bench.other(), group.clone());
        let second = tokio::spawn(async move {
            remember(&*other, &others_group, &window, &[sighting("a", 1, None)]).await
        });
        bench.somebody_waits().await;
        assert!(!second.is_finished());
        if commits {
            ledger.commit(first).await.unwrap();
        } else {
            ledger.rollback(first).await;
        }
        assert_eq!(second.await.unwrap(), [!commits]);
    }
}

async fn many_batches_at_once_agree_on_who_was_first<B: Bench>(bench: &B) {
    const TASKS: i32 = 6;
    const BATCHES: usize = 12;
    let group = name("group");
    let all: Vec<_> = (0..TASKS).collect();
    take(&*bench.ledger(), &group, &all).await;
    let tasks = all.into_iter().map(|task| {
        let (ledger, group) = (bench.ledger(), group.clone());
        tokio::spawn(async move {
            let mut found = 0;
            for batch in 0..BATCHES {
                // The same twenty ids for everybody, each time in another order.
                let turn = usize::try_from(task).unwrap() * 7 + 3;
                let ids = (0..20).map(|at| format!("{batch}-{}", (at * turn) % 20));
                let ids: Vec<_> = ids.map(|id| sighting(&id, task, None)).collect();
                let is_new = remember(&*ledger, &group, &Window::endless(), &ids).await;
                let mut fresh: Vec<_> =
                    ids.iter().zip(is_new).filter(|(_, is_new)| *is_new).collect();
                fresh.dedup_by_key(|(sighting, _)| sighting.id.clone());
                found += fresh.len();
            }
            found
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let mut found = 0;
    for task in tasks {
        found += task.await.unwrap();
    }
    let kept = format!("SELECT count(*) FROM semel_kafka.seen WHERE grp = '{group}'");
    assert_eq!(i64::try_from(found).unwrap(), bench.number(&kept).await);
}

#[test]
fn two_batches_never_wait_for_each_other() {
    block_on(async {
        let Some(bench) = OnPostgres::new().await else { return };
        let (ledger, group, window) = (bench.ledger(), name("group"), Window::endless());
        take(&*ledger, &group, &[0, 1, 2]).await;
        let mut first = ledger.begin().await.unwrap();
        let seen = [sighting("m", 0, None)];
        assert_eq!(ledger.remember(&mut first, &group, &window, &seen).await.unwrap(), [true]);
        let mut others = Vec::new();
        for (number, ids) in [(1, &["z", "m", "a"][..]), (2, &["a", "z"][..])] {
            let session = name("session");
            let ids: Vec<_> = ids.iter().map(|id| sighting(id, number, None)).collect();
            let (other, group) = (bench.named(&session), group.clone());
            others.push(tokio::spawn(async move { remember(&other, &group, &window, &ids).await }));
            bench.waits(&session).await;
        }
        ledger.commit(first).await.unwrap();
        let second = others.pop().unwrap().await.unwrap();
        assert_eq!(others.pop().unwrap().await.unwrap(), [true, false, true]);
        assert_eq!(second, [false, false]);
    });
}
