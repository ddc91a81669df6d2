//! Expiry by dropping partitions, and waiters that are woken.

use std::time::Duration;

use semel::conformance::Harness;
use semel::store::Completion;
use semel::{Clock, Store, SystemClock};

use super::support::{Place, acquire, block_on, completion, finish, id};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn expired_records_go_with_their_partition_and_others_stay() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.postgres();
        let keep = async |key: &str, retention: Duration| {
            let fence = acquire(&*store, key).await;
            let completion = Completion { retention, ..completion(key, fence, "x") };
            store.complete(&completion).await.unwrap();
        };
        let parts = "SELECT count(*) FROM pg_partition_tree('semel.done') WHERE isleaf";
        keep("hour", HOUR).await;
        keep("month", HOUR * 24 * 30).await;
        keep("year", HOUR * 24 * 365).await;
        acquire(&*store, "flying").await;
        assert_eq!(place.number(parts).await, 6, "one in use and one ahead for each class");
        place.elapse(HOUR * 24).await;
        assert!(store.get(&id("hour")).await.unwrap().is_none(), "expired is absent at once");
        assert_eq!(store.sweep(1).await.unwrap(), 1);
        assert_eq!(place.number(parts).await, 4);
        for key in ["month", "year", "flying"] {
            assert!(store.get(&id(key)).await.unwrap().is_some(), "{key}");
        }
        place.elapse(HOUR * 24 * 400).await;
        store.sweep(1).await.unwrap();
        assert!(store.get(&id("flying")).await.unwrap().is_some());
        // New partitions are made although the store believes to have some for hours.
        finish(&*store, "again", "x").await.unwrap();
    });
}

#[test]
fn a_partition_in_use_is_dropped_later_and_nobody_waits_for_it() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.postgres();
        finish(&*store, "k", "x").await.unwrap();
        place.elapse(HOUR * 24).await;
        let other = super::support::client(&place.url).await;
        let look = format!("BEGIN; SELECT * FROM {}.done", place.schema);
        other.batch_execute(&look).await.unwrap();
        assert_eq!(store.sweep(1000).await.unwrap(), 0);
        finish(&*store, "meanwhile", "x").await.unwrap();
        other.batch_execute("COMMIT").await.unwrap();
        assert_eq!(store.sweep(1000).await.unwrap(), 1);
    });
}

#[test]
fn a_waiter_of_another_process_is_woken_by_the_end_of_the_operation() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (owner, waiting) = (place.postgres(), place.open().await);
        for round in 0..5 {
            let key = format!("k{round}");
            let fence = acquire(&*owner, &key).await;
            let name = id(&key);
            let waiter = waiting.changed(&name);
            let end = async {
                // The end is announced only to somebody who waits, so wait for him to.
                let asks =
                    format!("SELECT count(*) FROM semel.open WHERE awaited AND key = '{key}'");
                while place.number(&asks).await == 0 {}
                owner.complete(&completion(&key, fence, "done")).await.unwrap();
            };
            let both = futures_util::future::join(waiter, end);
            let late = SystemClock.sleep(Duration::from_secs(20));
            let woken = futures_util::future::select(Box::pin(both), late).await;
            assert!(matches!(woken, futures_util::future::Either::Left(_)), "nobody woke it");
        }
        // Nothing is in flight any more, so there is nothing to wait for.
        waiting.changed(&id("k0")).await;
    });
}

#[test]
fn the_views_show_people_what_is_there() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.postgres();
        finish(&*store, "finished", "x").await.unwrap();
        acquire(&*store, "silent").await;
        place.sql("UPDATE semel.open SET deadline = 1").await;
        let count = async |query: &str| place.number(query).await;
        assert_eq!(count("SELECT count(*) FROM semel.record WHERE state = 'completed'").await, 1);
        assert_eq!(count("SELECT count(*) FROM semel.suspect WHERE key = 'silent'").await, 1);
        assert_eq!(count("SELECT count(*) FROM semel.decision").await, 0);
    });
}
