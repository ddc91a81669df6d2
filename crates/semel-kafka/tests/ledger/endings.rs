//! How transactions end.

use semel::ErrorKind;
use semel_kafka::ledger::{Ledger, Owned};
use semel_kafka::{PostgresLedger, Window};

use super::support::{
    Bench, OnPostgres, OnSqlite, block_on, name, on_both, patient, pool, see, sighting, take, to,
};

on_both!(
    a_commit_keeps_everything_and_any_other_end_nothing,
    a_handler_that_ends_the_transaction_is_found_out,
    a_handlers_failed_statement_cannot_be_committed_around,
);

/// Ids, an effect and a position.
async fn work<B: Bench>(ledger: &B::Ledger, group: &str, owned: &Owned) -> B::Transaction {
    let mut transaction = ledger.begin().await.unwrap();
    ledger.advance(&mut transaction, group, &[to(owned, 1)]).await.unwrap();
    let (seen, window) = ([sighting("a", 0, None)], Window::endless());
    let found = ledger.remember(&mut transaction, group, &window, &seen).await.unwrap();
    assert_eq!(found, [true]);
    let insert = format!("INSERT INTO effect VALUES ('{group}')");
    B::sql(&mut transaction, &insert).await.unwrap();
    transaction
}

async fn a_commit_keeps_everything_and_any_other_end_nothing<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    for end in ["drop", "rollback", "commit"] {
        let owned = take(&*ledger, &group, &[0]).await.remove(0);
        assert_eq!(owned.next, None, "before {end}");
        let transaction = work::<B>(&ledger, &group, &owned).await;
        match end {
            "drop" => drop(transaction),
            "rollback" => ledger.rollback(transaction).await,
            _ => ledger.commit(transaction).await.unwrap(),
        }
        let is_kept = end == "commit";
        assert_eq!(bench.effects(&group).await, i64::from(is_kept), "after {end}");
    }
    assert_eq!(take(&*ledger, &group, &[0]).await[0].next, Some(1));
    assert_eq!(see(&*ledger, &group, &Window::endless(), &["a"]).await, [false]);
}

async fn a_handler_that_ends_the_transaction_is_found_out<B: Bench>(bench: &B) {
    let ledger = bench.ledger();
    for ending in ["ROLLBACK", "ROLLBACK; BEGIN", "COMMIT", "COMMIT; BEGIN"] {
        let group = name("group");
        let owned = take(&*ledger, &group, &[0]).await.remove(0);
        let mut transaction = work::<B>(&ledger, &group, &owned).await;
        // SQLite refuses a COMMIT that is not ours at once.
        drop(B::sql(&mut transaction, ending).await);
        let late = format!("INSERT INTO effect VALUES ('late {group}')");
        drop(B::sql(&mut transaction, &late).await);
        let error = ledger.commit(transaction).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{ending}: {error}");
        assert!(!error.outcome_unknown());
        if ending.contains("BEGIN") {
            assert_eq!(bench.effects(&format!("late {group}")).await, 0, "{ending}");
        }
        if ending.contains("ROLLBACK") {
            assert_eq!(bench.effects(&group).await, 0, "{ending}");
            assert_eq!(take(&*ledger, &group, &[0]).await[0].next, None, "{ending}");
        }
    }
}

async fn a_handlers_failed_statement_cannot_be_committed_around<B: Bench>(bench: &B) {
    let (ledger, group) = (bench.ledger(), name("group"));
    let owned = take(&*ledger, &group, &[0]).await.remove(0);
    let mut transaction = work::<B>(&ledger, &group, &owned).await;
    // PostgreSQL has undone everything by now; SQLite only the statement.
    B::sql(&mut transaction, "INSERT INTO effect VALUES (NULL)").await.unwrap_err();
    let committed = ledger.commit(transaction).await;
    let is_moved = take(&*ledger, &group, &[0]).await[0].next == Some(1);
    assert_eq!(is_moved, committed.is_ok());
    assert_eq!(bench.effects(&group).await, i64::from(committed.is_ok()));
}

#[test]
fn a_stray_commit_in_sqlite_keeps_nothing() {
    block_on(async {
        let bench = OnSqlite::new();
        let (ledger, group) = (bench.ledger(), name("group"));
        let owned = take(&*ledger, &group, &[0]).await.remove(0);
        let mut transaction = work::<OnSqlite>(&ledger, &group, &owned).await;
        OnSqlite::sql(&mut transaction, "COMMIT").await.unwrap_err();
        ledger.commit(transaction).await.unwrap_err();
        assert_eq!(bench.effects(&group).await, 0);
        assert_eq!(take(&*ledger, &group, &[0]).await[0].next, None);
    });
}

#[test]
fn a_dropped_work_in_sqlite_takes_its_transaction_along() {
    block_on(async {
        let bench = OnSqlite::new();
        let (ledger, group) = (bench.ledger(), name("group"));
        let owned = take(&*ledger, &group, &[0]).await.remove(0);
        let mut transaction = work::<OnSqlite>(&ledger, &group, &owned).await;
        let (go, gate) = std::sync::mpsc::channel::<()>();
        {
            let waiting = transaction.with(move |_| {
                gate.recv().ok();
                Ok(())
            });
            let mut waiting = std::pin::pin!(waiting);
            let once = std::future::poll_fn(|context| {
                std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending())
            });
            assert!(once.await);
        }
        drop(go);
        let error = ledger.commit(transaction).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(take(&*ledger, &group, &[0]).await[0].next, None);
        assert_eq!(bench.effects(&group).await, 0);
    });
}

#[test]
fn a_panic_in_sqlite_takes_its_transaction_along() {
    block_on(async {
        let bench = OnSqlite::new();
        let (ledger, group) = (bench.ledger(), name("group"));
        let owned = take(&*ledger, &group, &[0]).await.remove(0);
        let mut transaction = work::<OnSqlite>(&ledger, &group, &owned).await;
        let panicking =
            tokio::spawn(
                async move { transaction.with::<()>(|_| panic!("as a test wants it")).await },
            );
        assert!(panicking.await.unwrap_err().is_panic());
        assert_eq!(bench.effects(&group).await, 0);
        assert_eq!(take(&*ledger, &group, &[0]).await[0].next, None);
    });
}

#[test]
fn a_pool_never_gets_an_open_transaction_back() {
    block_on(async {
        let Some(bench) = OnPostgres::new().await else { return };
        let only = pool(&bench.url, 1);
        let (ledger, group): (PostgresLedger, _) = (patient(only.clone()), name("group"));
        let owned = take(&ledger, &group, &[0]).await.remove(0);
        drop(work::<OnPostgres>(&ledger, &group, &owned).await);
        let client = only.get().await.unwrap();
        let open = "SELECT count(*) FROM effect";
        client.batch_execute("BEGIN READ ONLY").await.expect("nothing is open");
        client.query(open, &[]).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        drop(client);
        assert_eq!(bench.effects(&group).await, 0);
    });
}
