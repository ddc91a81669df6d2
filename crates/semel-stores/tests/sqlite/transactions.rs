//! Effect and record in one transaction: together or not at all.

use std::sync::Arc;

use rusqlite::Connection;
use semel::{Effect, Ending, ErrorKind, Executed, Guard, Key, Outcome, Tenant, Verdict};
use semel::{Fingerprint, Store, TransactionalStore};
use semel_stores::sqlite::SqliteStore;

use super::support::{File, acquire, answer, block_on, completion, request};

fn shop(file: &File) -> Connection {
    let shop = file.raw();
    shop.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    shop.execute_batch("CREATE TABLE IF NOT EXISTS orders (item TEXT)").unwrap();
    shop
}

fn orders(shop: &Connection) -> i64 {
    shop.query_row("SELECT count(*) FROM orders", (), |row| row.get(0)).unwrap()
}

fn guard(store: &Arc<SqliteStore>) -> Guard {
    let builder = Guard::builder(store.clone()).operation("test").unwrap();
    builder.effect(Effect::Transactional).build().unwrap()
}

fn outcome(answer: &str) -> Outcome {
    Outcome::json(Verdict::Succeeded, &answer).unwrap()
}

const INSERT: &str = "INSERT INTO orders VALUES ('book')";

#[test]
fn record_and_row_are_committed_together() {
    let file = File::new();
    let (store, shop) = (file.sqlite(), shop(&file));
    let fence = acquire(&*store, "k");
    block_on(async {
        let transaction = store.begin().await.unwrap();
        transaction.with(|it| it.execute(INSERT, ())).await.unwrap();
        assert_eq!(orders(&shop), 0, "nobody sees it before the commit");
        store.commit(transaction, &completion("k", fence, "order 1")).await.unwrap();
    });
    assert_eq!(orders(&shop), 1);
    assert_eq!(answer(&*store, "k"), "order 1");
}

#[test]
fn a_late_owners_row_is_rolled_back() {
    let file = File::new();
    let (store, shop) = (file.sqlite(), shop(&file));
    let late = acquire(&*store, "k");
    file.clock.advance(std::time::Duration::from_secs(31));
    let winner = acquire(&*store, "k");
    block_on(async {
        let transaction = store.begin().await.unwrap();
        transaction.with(|it| it.execute(INSERT, ())).await.unwrap();
        let lost = store.commit(transaction, &completion("k", late, "late")).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::ClaimLost);
        let transaction = store.begin().await.unwrap();
        transaction.with(|it| it.execute(INSERT, ())).await.unwrap();
        store.commit(transaction, &completion("k", winner, "winner")).await.unwrap();
    });
    assert_eq!(orders(&shop), 1);
    assert_eq!(answer(&*store, "k"), "winner");
}

#[test]
fn a_dropped_transaction_is_rolled_back_and_its_connection_used_again() {
    let file = File::new();
    let (store, shop) = (file.sqlite(), shop(&file));
    block_on(async {
        // More often than there are connections, so that a lost one would be missed.
        for _ in 0..40 {
            let transaction = store.begin().await.unwrap();
            transaction.with(|it| it.execute(INSERT, ())).await.unwrap();
        }
        let transaction = store.begin().await.unwrap();
        transaction.with(|it| it.execute(INSERT, ())).await.unwrap();
        store.rollback(transaction).await.unwrap();
    });
    assert_eq!(orders(&shop), 0);
    acquire(&*store, "free-to-write");
}

#[test]
fn more_transactions_than_connections_wait_for_each_other() {
    let file = File::new();
    shop(&file);
    file.close();
    let store = Arc::new(file.options().transactions_max(2).open(file.path()).unwrap());
    std::thread::scope(|scope| {
        for it in 0..12 {
            let store = Arc::clone(&store);
            scope.spawn(move || {
                let key = format!("k{it}");
                let fence = acquire(&*store, &key);
                block_on(async {
                    let transaction = store.begin().await.unwrap();
                    transaction.with(|it| it.execute(INSERT, ())).await.unwrap();
                    store.commit(transaction, &completion(&key, fence, "done")).await.unwrap();
                });
            });
        }
    });
    assert_eq!(orders(&shop(&file)), 12);
}

#[test]
fn a_statement_that_fails_is_told_with_its_own_words() {
    let file = File::new();
    let store = file.sqlite();
    let transaction = block_on(store.begin()).unwrap();
    let error = block_on(transaction.with(|it| it.execute("INSERT INTO nowhere VALUES (1)", ())));
    assert!(error.unwrap_err().to_string().contains("no such table: nowhere"));
}

#[test]
fn a_callers_own_transaction_keeps_or_loses_both() {
    let file = File::new();
    let (store, mut shop) = (file.sqlite(), shop(&file));
    let fence = acquire(&*store, "k");
    for keep in [false, true] {
        let transaction = shop.transaction().unwrap();
        transaction.execute(INSERT, ()).unwrap();
        store.complete_in(&transaction, &completion("k", fence, "order 1")).unwrap();
        if keep {
            transaction.commit().unwrap();
        } else {
            drop(transaction);
            let state = block_on(store.get(&super::support::id("k"))).unwrap().unwrap().state;
            assert_eq!(state.name(), "in-progress");
        }
    }
    assert_eq!(orders(&shop), 1);
    assert_eq!(answer(&*store, "k"), "order 1");
    let transaction = shop.transaction().unwrap();
    let foreign = semel::Fence { counter: fence.counter + 1, ..fence };
    let lost = store.complete_in(&transaction, &completion("k", foreign, "x")).unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::ClaimLost);
}

#[test]
fn a_claim_in_a_callers_transaction_is_undone_with_it() {
    let file = File::new();
    let (store, mut shop) = (file.sqlite(), shop(&file));
    let transaction =
        shop.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let first = store.claim_in(&transaction, &request("k")).unwrap();
    drop(transaction);
    assert!(block_on(store.get(&super::support::id("k"))).unwrap().is_none());
    let transaction =
        shop.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
    let second = store.claim_in(&transaction, &request("k")).unwrap();
    transaction.commit().unwrap();
    assert!(matches!(first, semel::store::Claimed::Acquired { .. }));
    assert!(matches!(second, semel::store::Claimed::Acquired { .. }));
    assert!(block_on(store.get(&super::support::id("k"))).unwrap().is_some());
}

#[test]
fn the_guard_runs_a_transactional_handler_once() {
    let file = File::new();
    let (store, shop) = (file.sqlite(), shop(&file));
    let guard = guard(&store);
    let (tenant, key) = (Tenant::single(), Key::parse("k").unwrap());
    let run = |answer: &'static str, succeed: bool| {
        let store = &store;
        let work = async move |ctx: semel::Context| {
            let transaction = store.begin().await.unwrap();
            transaction.with(|it| it.execute(INSERT, ())).await.unwrap();
            if succeed {
                ctx.commit(&**store, transaction, outcome(answer), answer).await
            } else {
                store.rollback(transaction).await.unwrap();
                Ending::NotApplied { live: answer }
            }
        };
        block_on(guard.execute(&tenant, &key, Fingerprint::from_bytes([1; 32]), work)).unwrap()
    };
    assert!(matches!(run("failed", false), Executed::NotApplied { .. }));
    assert!(matches!(run("first", true), Executed::Fresh { .. }));
    assert!(matches!(run("second", true), Executed::Replayed { .. }));
    assert_eq!(orders(&shop), 1);
    assert_eq!(answer_of(&*store), "first");
}

fn answer_of(store: &dyn Store) -> String {
    let record = block_on(store.get(&super::support::id("k"))).unwrap().unwrap();
    match record.state {
        semel::State::Completed { outcome, .. } => outcome.to_json().unwrap(),
        other => panic!("expected a finished record, saw {other:?}"),
    }
}
