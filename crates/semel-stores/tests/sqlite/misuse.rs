//! What handlers do wrong inside a transaction: still both or nothing, and nobody else suffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rusqlite::Connection;
use semel::store::Claimed;
use semel::{ErrorKind, Store, TransactionalStore};

use super::support::{File, acquire, block_on, completion, finish, request};

/// A shop whose table holds one order with the number 1; no number comes twice.
fn shop(file: &File) -> Connection {
    let shop = file.raw();
    let table = "CREATE TABLE orders (number INTEGER UNIQUE); INSERT INTO orders VALUES (1)";
    shop.execute_batch(table).unwrap();
    shop
}

fn orders(shop: &Connection) -> i64 {
    shop.query_row("SELECT count(*) FROM orders", (), |row| row.get(0)).unwrap()
}

#[test]
fn what_follows_an_early_end_is_not_committed_without_what_came_before() {
    for end in ["ROLLBACK", "COMMIT", "INSERT OR ROLLBACK INTO orders VALUES (1)"] {
        let file = File::new();
        let (store, shop) = (file.sqlite(), shop(&file));
        let fence = acquire(&*store, "k");
        let error = block_on(async {
            let transaction = store.begin().await.unwrap();
            transaction.with(|it| it.execute("INSERT INTO orders VALUES (2)", ())).await.unwrap();
            transaction.with(move |it| it.execute_batch(end)).await.unwrap_err();
            // A handler that takes the error for harmless.
            let more = transaction.with(|it| it.execute("INSERT INTO orders VALUES (3)", ())).await;
            assert!(more.unwrap_err().to_string().contains("ended from inside"), "{end}");
            store.commit(transaction, &completion("k", fence, "half an order")).await.unwrap_err()
        });
        assert!(error.to_string().contains("ended from inside"), "{end}: {error}");
        assert!(!error.outcome_unknown(), "{end}: nothing has happened");
        assert_eq!(orders(&shop), 1, "{end}");
        let record = block_on(store.get(&super::support::id("k"))).unwrap().unwrap();
        assert_eq!(record.state.name(), "in-progress", "{end}");
        // The connection serves the next one.
        block_on(async {
            let transaction = store.begin().await.unwrap();
            transaction.with(|it| it.execute("INSERT INTO orders VALUES (2)", ())).await.unwrap();
            store.commit(transaction, &completion("k", fence, "order 2")).await.unwrap();
        });
        assert_eq!(orders(&shop), 2, "{end}");
    }
}

#[test]
fn a_statement_that_breaks_a_rule_leaves_the_transaction_open() {
    let file = File::new();
    let (store, shop) = (file.sqlite(), shop(&file));
    let fence = acquire(&*store, "k");
    block_on(async {
        let transaction = store.begin().await.unwrap();
        let taken = transaction.with(|it| it.execute("INSERT INTO orders VALUES (1)", ())).await;
        let taken = taken.unwrap_err();
        let cause = std::error::Error::source(&taken).unwrap();
        let cause = cause.downcast_ref::<rusqlite::Error>().expect("SQLite's own error");
        assert_eq!(
            cause.sqlite_error_code(),
            Some(rusqlite::ErrorCode::ConstraintViolation),
            "a handler can tell it from a failure"
        );
        transaction.with(|it| it.execute("INSERT INTO orders VALUES (2)", ())).await.unwrap();
        store.commit(transaction, &completion("k", fence, "order 2")).await.unwrap();
    });
    assert_eq!(orders(&shop), 2);
}

#[test]
fn a_rule_that_is_checked_at_the_commit_keeps_neither() {
    let file = File::new();
    let (store, shop) = (file.sqlite(), shop(&file));
    let deferred = "CREATE TABLE lines (number INTEGER REFERENCES orders (number) \
                    DEFERRABLE INITIALLY DEFERRED)";
    shop.execute_batch(deferred).unwrap();
    let fence = acquire(&*store, "k");
    let error = block_on(async {
        let transaction = store.begin().await.unwrap();
        transaction.with(|it| it.execute("INSERT INTO lines VALUES (77)", ())).await.unwrap();
        store.commit(transaction, &completion("k", fence, "line 77")).await.unwrap_err()
    });
    assert!(!error.outcome_unknown(), "{error}");
    let lines: i64 = shop.query_row("SELECT count(*) FROM lines", (), |row| row.get(0)).unwrap();
    assert_eq!(lines, 0);
    let record = block_on(store.get(&super::support::id("k"))).unwrap().unwrap();
    assert_eq!(record.state.name(), "in-progress");
    acquire(&*store, "the-lock-is-free");
}

#[test]
fn a_panic_in_a_transaction_reaches_its_caller_and_keeps_nothing() {
    let file = File::new();
    let (store, shop) = (file.sqlite(), shop(&file));
    let transaction = block_on(store.begin()).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        block_on(transaction.with(|it| -> rusqlite::Result<()> {
            it.execute("INSERT INTO orders VALUES (2)", ())?;
            panic!("as the order wants it")
        }))
    }));
    let panic = panicked.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as the order wants it"));
    drop(transaction);
    acquire(&*store, "the-lock-is-free");
    assert_eq!(orders(&shop), 1);
}

#[test]
fn a_callers_transaction_on_another_file_is_refused() {
    let (file, another) = (File::new(), File::new());
    let store = file.sqlite();
    let fence = acquire(&*store, "k");
    for mut elsewhere in [another.raw(), Connection::open_in_memory().unwrap()] {
        let transaction = elsewhere.transaction().unwrap();
        let claimed = store.claim_in(&transaction, &request("new")).unwrap_err();
        let completed =
            store.complete_in(&transaction, &completion("k", fence, "done")).unwrap_err();
        for error in [claimed, completed] {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("on another file"), "{error}");
        }
    }
}

#[test]
fn duplicates_are_answered_at_once_while_a_transaction_is_open() {
    let file = File::new();
    file.close();
    // Whoever waited for the lock would wait for an hour.
    let store = file.options().patience(Duration::from_secs(3600)).open(file.path()).unwrap();
    finish(&store, "finished", "answer").unwrap();
    acquire(&store, "running");
    let reused = semel::store::ClaimRequest {
        fingerprint: semel::Fingerprint::from_bytes([9; 32]),
        ..request("finished")
    };
    block_on(async {
        let transaction = store.begin().await.unwrap();
        transaction.with(|it| it.execute_batch("SELECT 1")).await.unwrap();
        let running = store.claim(&request("running")).await.unwrap();
        assert!(matches!(running, Claimed::InFlight { .. }), "{running:?}");
        let finished = store.claim(&request("finished")).await.unwrap();
        assert!(matches!(finished, Claimed::Completed { .. }), "{finished:?}");
        assert_eq!(store.claim(&reused).await.unwrap(), Claimed::Mismatch);
        store.rollback(transaction).await.unwrap();
        let new = store.claim(&request("new")).await.unwrap();
        assert!(matches!(new, Claimed::Acquired { .. }), "{new:?}");
    });
}

#[test]
fn the_last_handle_to_the_store_may_be_dropped_on_its_own_thread() {
    let file = File::new();
    let store = file.sqlite();
    file.close();
    let transaction = block_on(store.begin()).unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let last = Arc::clone(&store);
    {
        let mut abandoned = std::pin::pin!(transaction.with(move |_| {
            wait.recv().unwrap();
            drop(last);
            tell.send(()).unwrap();
            Ok(())
        }));
        let mut context = Context::from_waker(Waker::noop());
        assert!(abandoned.as_mut().poll(&mut context).is_pending());
    }
    drop(transaction);
    drop(store);
    go.send(()).unwrap();
    told.recv().expect("the store's thread lives on to its task's end");
}

#[test]
fn everybody_who_waits_for_a_transaction_is_woken_when_there_is_one() {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let file = File::new();
    file.close();
    let store = file.options().transactions_max(2).open(file.path()).unwrap();
    let open = [block_on(store.begin()).unwrap(), block_on(store.begin()).unwrap()];
    let woken = [(); 2].map(|()| Arc::new(Woken(AtomicBool::new(false))));
    let mut waiting = [store.begin(), store.begin()];
    for (begin, woken) in waiting.iter_mut().zip(&woken) {
        let waker = Waker::from(Arc::clone(woken));
        assert!(begin.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    // Both come back before anybody has looked.
    drop(open);
    assert!(woken.iter().all(|it| it.0.load(Ordering::SeqCst)));
    let begun = waiting.map(|mut begin| {
        begin.as_mut().poll(&mut Context::from_waker(Waker::noop())).map(Result::unwrap)
    });
    assert!(begun.iter().all(Poll::is_ready));
}

#[test]
fn whoever_waits_too_long_for_a_transaction_hears_why() {
    let file = File::new();
    file.close();
    let options = file.options().transactions_max(1).patience(Duration::from_secs(5));
    let store = options.open(file.path()).unwrap();
    let open = block_on(store.begin()).unwrap();
    let mut waiting = store.begin();
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    file.clock.advance(Duration::from_secs(5));
    let Poll::Ready(Err(error)) = waiting.as_mut().poll(&mut context) else {
        panic!("it still waits")
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("`transactions_max` is 1"), "{error}");
    drop(open);
    block_on(store.begin()).unwrap();
}
