//! Effect and record in one transaction, with tokio-postgres and with sqlx.

use std::sync::Arc;
use std::time::Duration;

use semel::store::{Claimed, Completion};
use semel::{
    Effect, ErrorKind, Executed, FingerprintKey, Guard, Key, Outcome, Store, Tenant,
    TransactionalStore, Verdict,
};
use semel_stores::postgres::PostgresStore;
use semel_testkit::FaultProxy;

use super::support::{Place, acquire, answer, block_on, client, completion, request};

pub(crate) async fn shop() -> Option<Place> {
    let place = Place::new().await?;
    place.sql("CREATE TABLE semel.orders (item text NOT NULL)").await;
    Some(place)
}

impl Place {
    async fn orders(&self) -> i64 {
        self.number("SELECT count(*) FROM semel.orders").await
    }

    fn insert(&self) -> String {
        format!("INSERT INTO {}.orders VALUES ('book')", self.schema)
    }
}

#[test]
fn the_guard_commits_effect_and_record_together() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        let guard = Guard::builder(store.clone())
            .operation("order")
            .unwrap()
            .effect(Effect::Transactional)
            .build()
            .unwrap();
        let secret = FingerprintKey::from_secret(store.secret()).unwrap();
        let (tenant, key) = (Tenant::single(), Key::parse("order-17").unwrap());
        for attempt in 0..2 {
            let fingerprint = secret.fingerprint().finish();
            let executed = guard
                .execute(&tenant, &key, fingerprint, async |ctx| {
                    let transaction = store.begin().await.unwrap();
                    transaction.batch_execute(&place.insert()).await.unwrap();
                    let outcome = Outcome::json(Verdict::Succeeded, &"order 1").unwrap();
                    ctx.commit(&*store, transaction, outcome, ()).await
                })
                .await
                .unwrap();
            assert_eq!(matches!(executed, Executed::Fresh { .. }), attempt == 0);
        }
        assert_eq!(place.orders().await, 1);
    });
}

#[test]
fn a_callers_own_transaction_keeps_both_or_neither() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        let mut shop = client(&place.url).await;
        for (key, keeps) in [("kept", true), ("dropped", false)] {
            let fence = acquire(&*store, key).await;
            let transaction = shop.transaction().await.unwrap();
            transaction.batch_execute(&place.insert()).await.unwrap();
            store.complete_in(&transaction, &completion(key, fence, "done")).await.unwrap();
            // While it is undecided, duplicates hear at once that it is in flight.
            let seen = store.claim(&request(key)).await.unwrap();
            assert!(matches!(seen, Claimed::InFlight { .. }), "{seen:?}");
            if keeps {
                transaction.commit().await.unwrap();
                assert_eq!(answer(&*store, key).await, "done");
            } else {
                transaction.rollback().await.unwrap();
                let seen = store.claim(&request(key)).await.unwrap();
                assert!(matches!(seen, Claimed::InFlight { .. }), "{seen:?}");
            }
        }
        assert_eq!(place.orders().await, 1);
    });
}

#[test]
fn a_transaction_of_sqlx_keeps_both_or_neither() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        let pool = sqlx::PgPool::connect(&place.url).await.unwrap();
        for (key, keeps) in [("kept", true), ("dropped", false)] {
            let fence = acquire(&*store, key).await;
            let mut transaction = pool.begin().await.unwrap();
            let insert = sqlx::AssertSqlSafe(place.insert());
            sqlx::query(insert).execute(&mut *transaction).await.unwrap();
            let completion = completion(key, fence, "done");
            store.complete_in_sqlx(&mut transaction, &completion).await.unwrap();
            if keeps {
                transaction.commit().await.unwrap();
                assert_eq!(answer(&*store, key).await, "done");
            } else {
                transaction.rollback().await.unwrap();
            }
        }
        let late = completion("kept", acquire(&*store, "other").await, "late");
        let mut transaction = pool.begin().await.unwrap();
        let error = store.complete_in_sqlx(&mut transaction, &late).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClaimLost);
        assert_eq!(place.orders().await, 1);
    });
}

#[test]
fn a_zombies_transaction_is_refused_once_another_claim_took_over() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        let fence = acquire(&*store, "k").await;
        let transaction = store.begin().await.unwrap();
        transaction.batch_execute(&place.insert()).await.unwrap();
        place.sql("UPDATE semel.shift SET millis = millis + 60000").await;
        let winner = acquire(&*store, "k").await;
        let error = store.commit(transaction, &completion("k", fence, "zombie")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClaimLost);
        assert_eq!(place.orders().await, 0);
        store.complete(&completion("k", winner, "winner")).await.unwrap();
        assert_eq!(answer(&*store, "k").await, "winner");
    });
}

#[test]
fn a_takeover_does_not_wait_for_a_transaction_that_is_finishing_the_record() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        let fence = acquire(&*store, "k").await;
        let mut shop = client(&place.url).await;
        let transaction = shop.transaction().await.unwrap();
        store.complete_in(&transaction, &completion("k", fence, "done")).await.unwrap();
        place.sql("UPDATE semel.shift SET millis = millis + 60000").await;
        // The lease is over, but the row is being written: nobody may run it again.
        let seen = store.claim(&request("k")).await.unwrap();
        assert!(matches!(seen, Claimed::InFlight { .. }), "{seen:?}");
        transaction.commit().await.unwrap();
        assert_eq!(answer(&*store, "k").await, "done");
    });
}

#[test]
fn a_handler_that_ends_the_transaction_itself_completes_nothing() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        for end in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"] {
            let key = end.replace("; ", "-");
            let fence = acquire(&*store, &key).await;
            let transaction = store.begin().await.unwrap();
            transaction.batch_execute(end).await.unwrap();
            let error = store.commit(transaction, &completion(&key, fence, "x")).await.unwrap_err();
            assert!(error.to_string().contains("ended the transaction"), "{end}: {error}");
            let state = store.get(&super::support::id(&key)).await.unwrap().unwrap().state.name();
            assert_eq!(state, "in-progress", "{end}");
        }
    });
}

#[test]
fn a_failed_statement_or_a_constraint_at_the_end_takes_the_record_back() {
    block_on(async {
        let Some(place) = shop().await else { return };
        place
            .sql(
                "ALTER TABLE semel.orders ADD CONSTRAINT one UNIQUE (item) DEFERRABLE INITIALLY \
                 DEFERRED; INSERT INTO semel.orders VALUES ('book')",
            )
            .await;
        let store = place.postgres();
        for (key, statement) in [("at the end", place.insert()), ("at once", "SELECT 1/0".into())] {
            let key = key.replace(' ', "-");
            let fence = acquire(&*store, &key).await;
            let transaction = store.begin().await.unwrap();
            drop(transaction.batch_execute(&statement).await);
            let error = store.commit(transaction, &completion(&key, fence, "x")).await.unwrap_err();
            assert!(!error.outcome_unknown(), "{key}: {error}");
            let state = store.get(&super::support::id(&key)).await.unwrap().unwrap().state.name();
            assert_eq!(state, "in-progress", "{key}");
        }
    });
}

/// A store whose transactions go through a faulty network, and the network.
pub(crate) async fn behind_proxy(place: &Place) -> (PostgresStore, FaultProxy) {
    let port = place.url.rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
    let proxy = FaultProxy::start(format!("127.0.0.1:{port}")).unwrap();
    let options = place
        .options()
        .patience(Duration::from_secs(10))
        .response_timeout(Duration::from_millis(500));
    (options.connect(&proxy.url(&place.url)).await.unwrap(), proxy)
}

#[test]
fn a_commit_whose_reply_is_lost_is_decided_by_the_record() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let (store, proxy) = behind_proxy(&place).await;
        for round in 0..10 {
            let key = format!("k{round}");
            let fence = acquire(&store, &key).await;
            let transaction = store.begin().await.unwrap();
            transaction.batch_execute(&place.insert()).await.unwrap();
            let completion = completion(&key, fence, "done");
            // One answer passes, that of the completion inside; the commit's does not.
            proxy.lose_reply(1);
            let committed = store.commit(transaction, &completion).await;
            proxy.heal();
            committed.unwrap();
            assert_eq!(answer(&store, &key).await, "done");
            assert_eq!(place.orders().await, round + 1);
        }
    });
}

#[test]
fn a_commit_that_never_arrived_is_told_as_not_done() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let (store, proxy) = behind_proxy(&place).await;
        let store = Arc::new(store);
        let fence = acquire(&*store, "k").await;
        let transaction = store.begin().await.unwrap();
        transaction.batch_execute(&place.insert()).await.unwrap();
        let late = completion("k", fence, "done");
        store.complete_in(&*transaction, &late).await.unwrap();
        // The server hears that the connection is gone, and nothing else.
        proxy.reset();
        let error = transaction.batch_execute("COMMIT").await.unwrap_err();
        assert!(error.is_closed() || error.as_db_error().is_none(), "{error}");
        drop(transaction);
        let record = store.get(&super::support::id("k")).await.unwrap().unwrap();
        assert_eq!(record.state.name(), "in-progress");
        assert_eq!(place.orders().await, 0);
        store.complete(&Completion { ..late }).await.unwrap();
    });
}
