//! A lock has one holder, follows it through whatever blocks it, and a resource that compares
//! fences is safe even from a holder that was paused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use semel::{ErrorKind, Guard};
use semel_tasks::Locks;
use support::{Bench, LEASE, key};

const HELD_MAX: Duration = Duration::from_secs(600);

fn locks(bench: &Bench) -> Locks {
    let builder = Guard::builder(bench.store.clone()).clock(bench.watched_clock());
    Locks::over(builder, "account", LEASE, HELD_MAX).unwrap()
}

#[tokio::test]
async fn a_lock_has_one_holder_and_its_fence_rises_with_every_holder() {
    let bench = Bench::new();
    let (here, there) = (locks(&bench), locks(&bench));
    let mut last = 0;
    for _ in 0..3 {
        let lock = here.try_acquire(&key()).await.unwrap().unwrap();
        assert!(there.try_acquire(&key()).await.unwrap().is_none());
        assert!(lock.fence().counter > last && !lock.is_lost());
        last = lock.fence().counter;
        lock.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_holder_that_blocks_its_thread_keeps_the_lock() {
    let bench = Bench::new();
    let lock = locks(&bench).try_acquire(&key()).await.unwrap().unwrap();
    bench.beat(4);
    assert!(locks(&bench).try_acquire(&key()).await.unwrap().is_none());
    lock.release().await.unwrap();
}

#[tokio::test]
async fn a_dropped_lock_is_free() {
    let bench = Bench::new();
    drop(locks(&bench).try_acquire(&key()).await.unwrap().unwrap());
    bench.wait_for("release");
    assert!(locks(&bench).try_acquire(&key()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_holder_that_hangs_is_told_and_its_release_frees_nothing_of_the_next_one() {
    let bench = Bench::new();
    let late = locks(&bench).try_acquire(&key()).await.unwrap().unwrap();
    bench.clock.advance(HELD_MAX);
    late.lost().await;
    let next = locks(&bench).try_acquire(&key()).await.unwrap().unwrap();
    assert!(next.fence().counter > late.fence().counter);
    assert_eq!(late.release().await.unwrap_err().kind(), ErrorKind::ClaimLost);
    assert!(locks(&bench).try_acquire(&key()).await.unwrap().is_none());
    next.release().await.unwrap();
}

#[tokio::test]
async fn whoever_waits_gets_the_lock_once_it_is_free() {
    let bench = Bench::new();
    let (key, locks) = (key(), locks(&bench));
    let held = locks.try_acquire(&key).await.unwrap().unwrap();
    let mut waiting = Box::pin(locks.acquire(&key, LEASE * 3));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("it is held"),
        () = tokio::task::yield_now() => {}
    }
    held.release().await.unwrap();
    let got = loop {
        tokio::select! {
            got = &mut waiting => break got.unwrap(),
            () = tokio::task::yield_now() => bench.clock.advance(Duration::from_millis(10)),
        }
    };
    assert!(!got.is_lost());
}

#[tokio::test]
async fn nobody_waits_longer_than_said() {
    let bench = Bench::new();
    let (key, locks) = (key(), locks(&bench));
    let _held = locks.try_acquire(&key).await.unwrap().unwrap();
    let at_once = locks.acquire(&key, Duration::ZERO).await.unwrap_err();
    assert_eq!(at_once.kind(), ErrorKind::InFlight);
    let mut waiting = Box::pin(locks.acquire(&key, Duration::from_secs(5)));
    let late = loop {
        tokio::select! {
            late = &mut waiting => break late.unwrap_err(),
            () = tokio::task::yield_now() => bench.clock.advance(Duration::from_millis(10)),
        }
    };
    assert!(late.is_retryable(), "{late}");
}

#[tokio::test]
async fn a_resource_that_compares_fences_refuses_a_holder_that_was_paused() {
    let bench = Bench::new();
    let bank = rusqlite::Connection::open_in_memory().unwrap();
    let create = "CREATE TABLE account (id INTEGER, balance INTEGER, fence INTEGER);
        INSERT INTO account VALUES (17, 100, 0)";
    bank.execute_batch(create).unwrap();
    // The statement of `docs/locks.md`.
    let page = include_str!("../../../../docs/locks.md");
    let statement = page.split("```sql\n").nth(1).unwrap().split("```").next().unwrap();
    let withdraw = |fence: u64| {
        let fence = i64::try_from(fence).unwrap();
        bank.execute(statement, rusqlite::named_params! { ":fence": fence }).unwrap() == 1
    };
    let paused = locks(&bench).try_acquire(&key()).await.unwrap().unwrap();
    let fence = paused.fence().counter;
    bench.clock.advance(HELD_MAX);
    paused.lost().await;
    let next = locks(&bench).try_acquire(&key()).await.unwrap().unwrap();
    assert!(withdraw(next.fence().counter) && withdraw(next.fence().counter));
    assert!(!withdraw(fence), "it still believes to hold the lock, and is refused");
    let balance = bank.query_row("SELECT balance FROM account", (), |row| row.get::<_, i64>(0));
    assert_eq!(balance.unwrap(), 80);
}

#[test]
fn a_lease_longer_than_a_lock_may_be_held_is_refused() {
    let bench = Bench::new();
    let over = |name, lease| {
        Locks::over(Guard::builder(bench.store.clone()), name, lease, HELD_MAX).unwrap_err().kind()
    };
    assert_eq!(over("account", HELD_MAX * 2), ErrorKind::Settings);
    assert_eq!(over("account", Duration::from_millis(1)), ErrorKind::Settings);
    assert_eq!(over("two words", LEASE), ErrorKind::Invalid);
}
