//! What is deleted, and what is not.

use std::time::Duration;

use semel_kafka::ledger::Ledger;
use semel_kafka::{Clockwork, Refresh, Window};

use super::support::{Bench, name, on_both, remember, see, sighting, take};

on_both!(
    what_a_window_has_forgotten_is_deleted_bit_by_bit,
    only_the_latest_ids_of_each_partition_are_kept,
    a_consumer_that_is_far_behind_keeps_its_ids,
);

const HOUR: Duration = Duration::from_secs(3600);

async fn kept<B: Bench>(bench: &B, group: &str) -> i64 {
    bench.number(&format!("SELECT count(*) FROM semel_kafka.seen WHERE grp = '{group}'")).await
}

async fn what_a_window_has_forgotten_is_deleted_bit_by_bit<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    take(&*ledger, &group, &[0]).await;
    let window = Window::of(HOUR, Clockwork::Wall, Refresh::Fixed).unwrap();
    see(&*ledger, &group, &window, &["a", "b", "c", "d", "e"]).await;
    assert_eq!(ledger.forget(&group, &window, 100).await.unwrap(), 0);
    bench.elapse(&group, HOUR).await;
    see(&*ledger, &group, &window, &["new"]).await;
    assert_eq!(ledger.forget(&group, &window, 2).await.unwrap(), 2);
    assert_eq!(ledger.forget(&group, &window, 100).await.unwrap(), 3);
    assert_eq!(kept(bench, &group).await, 1);
    assert_eq!(see(&*ledger, &group, &window, &["new", "a"]).await, [false, true]);
}

async fn only_the_latest_ids_of_each_partition_are_kept<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    take(&*ledger, &group, &[0, 1]).await;
    let window = Window::latest(2).unwrap();
    let ids = ["a", "b", "c", "d"].map(|id| sighting(id, 0, None));
    remember(&*ledger, &group, &window, &ids).await;
    remember(&*ledger, &group, &window, &[sighting("other", 1, None)]).await;
    assert_eq!(ledger.forget(&group, &window, 100).await.unwrap(), 2);
    assert_eq!(kept(bench, &group).await, 3);
    let found = see(&*ledger, &group, &window, &["c", "d", "other", "a"]).await;
    assert_eq!(found, [false, false, false, true]);
}

async fn a_consumer_that_is_far_behind_keeps_its_ids<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    take(&*ledger, &group, &[0, 1]).await;
    let window = Window::of(HOUR, Clockwork::Event, Refresh::Fixed).unwrap();
    let at = |id: &str, hours: u64| sighting(id, 0, Some(1_000_000_000 + hours * 3_600_000));
    let old = [at("a", 0), at("b", 1)];
    assert_eq!(remember(&*ledger, &group, &window, &old).await, [true, true]);
    // Another partition that is up to date says nothing about this one.
    let other = [sighting("other", 1, Some(1_700_000_000_000))];
    remember(&*ledger, &group, &window, &other).await;
    assert_eq!(ledger.forget(&group, &window, 100).await.unwrap(), 0);
    assert_eq!(remember(&*ledger, &group, &window, &old).await, [false, false]);
    // One that is late by almost a length finds its duplicate.
    remember(&*ledger, &group, &window, &[at("c", 2)]).await;
    assert_eq!(ledger.forget(&group, &window, 100).await.unwrap(), 1);
    assert_eq!(remember(&*ledger, &group, &window, &[at("b", 1)]).await, [false]);
}
