//! Steps whose effect is in the store's database: each exactly once, whatever is killed or lost.

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use semel::conformance::{TransactionalHarness, run_transactional};
use semel::store::Renewal;
use semel::{
    BoxFuture, Context, Effect, ErrorKind, Failure, Fence, FingerprintKey, Guard, Key, Settings,
    Step, StepFailure, Store, Tenant, TransactionalStore,
};
use semel_stores::postgres::{PostgresStore, PostgresTransaction};

use super::processes::{SCHEMA, WORK, child, work, worker_store};
use super::support::{Place, acquire, block_on, client, id};
use super::transactions::{behind_proxy, shop};

impl TransactionalHarness for Place {
    type Store = PostgresStore;

    fn transactional(&self) -> Arc<PostgresStore> {
        self.postgres()
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut PostgresTransaction,
        effect: &'a str,
    ) -> BoxFuture<'a, Result<(), String>> {
        let insert = format!("INSERT INTO {}.orders VALUES ('{effect}')", self.schema);
        Box::pin(async move {
            transaction.batch_execute(&insert).await.map_err(|error| error.to_string())
        })
    }

    fn applied<'a>(&'a self, effect: &'a str) -> BoxFuture<'a, Result<usize, String>> {
        Box::pin(async move {
            let count = format!("SELECT count(*) FROM semel.orders WHERE item = '{effect}'");
            usize::try_from(self.number(&count).await).map_err(|error| error.to_string())
        })
    }
}

#[test]
fn the_postgres_store_passes_the_suite_for_transactions() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let report = run_transactional(&place).await;
        assert!(report.failed.is_empty(), "{report}");
    });
}

fn renewal(key: &str, fence: Fence) -> Renewal {
    let step = Some(Step { name: "order".to_owned(), result: "1".into() });
    Renewal { id: id(key), fence, lease: Duration::from_secs(30), step }
}

#[test]
fn transactions_of_tokio_postgres_and_sqlx_keep_or_lose_step_and_effect() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        let insert = format!("INSERT INTO {}.orders VALUES ('book')", place.schema);
        let (mut shop, pool) =
            (client(&place.url).await, sqlx::PgPool::connect(&place.url).await.unwrap());
        let (one, other) = (acquire(&*store, "one").await, acquire(&*store, "other").await);
        for keep in [false, true] {
            let transaction = shop.transaction().await.unwrap();
            transaction.batch_execute(&insert).await.unwrap();
            store.step_in(&transaction, &renewal("one", one)).await.unwrap();
            let mut sqlx = pool.begin().await.unwrap();
            let text = sqlx::AssertSqlSafe(insert.clone());
            sqlx::query(text).execute(&mut *sqlx).await.unwrap();
            store.step_in_sqlx(&mut sqlx, &renewal("other", other)).await.unwrap();
            if keep {
                transaction.commit().await.unwrap();
                sqlx.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
                sqlx.rollback().await.unwrap();
            }
        }
        assert_eq!(place.number("SELECT count(*) FROM semel.orders").await, 2);
        for key in ["one", "other"] {
            assert_eq!(store.get(&id(key)).await.unwrap().unwrap().steps.len(), 1, "{key}");
        }
        let mut sqlx = pool.begin().await.unwrap();
        let again = store.step_in_sqlx(&mut sqlx, &renewal("other", other)).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Invalid);
        let late = Fence { counter: one.counter - 1, ..one };
        let late = store.step_in_sqlx(&mut sqlx, &renewal("one", late)).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::ClaimLost);
    });
}

#[test]
fn a_heartbeat_between_reading_and_writing_does_not_lose_the_step() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        let fence = acquire(&*store, "k").await;
        let beats = Renewal { step: None, ..renewal("k", fence) };
        let stop = tokio::sync::Notify::new();
        let beating = async {
            loop {
                tokio::select! {
                    () = stop.notified() => return,
                    beat = store.renew(&beats) => drop(beat.unwrap()),
                }
            }
        };
        let stepping = async {
            for it in 0..20 {
                let step = Step { name: format!("step-{it}"), result: "1".into() };
                let renewal = Renewal { step: Some(step), ..renewal("k", fence) };
                let transaction = store.begin().await.unwrap();
                store.commit_step(transaction, &renewal).await.unwrap();
            }
            stop.notify_one();
        };
        futures_util::future::join(beating, stepping).await;
        assert_eq!(store.get(&id("k")).await.unwrap().unwrap().steps.len(), 20);
    });
}

#[test]
fn a_handler_that_ends_the_transaction_itself_stores_no_step() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let store = place.postgres();
        for end in ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ROLLBACK; BEGIN"] {
            let key = end.replace("; ", "-");
            let fence = acquire(&*store, &key).await;
            let transaction = store.begin().await.unwrap();
            transaction.batch_execute(end).await.unwrap();
            let error = store.commit_step(transaction, &renewal(&key, fence)).await.unwrap_err();
            assert!(error.to_string().contains("ended the transaction"), "{end}: {error}");
            assert!(store.get(&id(&key)).await.unwrap().unwrap().steps.is_empty(), "{end}");
        }
    });
}

#[test]
fn whatever_reply_is_lost_step_and_effect_are_one_and_the_answer_is_true() {
    block_on(async {
        let Some(place) = shop().await else { return };
        let (store, proxy) = behind_proxy(&place).await;
        // Twice, because the first round prepares statements, which costs replies.
        for (round, passing) in (0..2).flat_map(|round| (0..6).map(move |it| (round, it))) {
            let key = format!("k{round}-{passing}");
            let fence = acquire(&store, &key).await;
            let transaction = store.begin().await.unwrap();
            let insert = format!("INSERT INTO {}.orders VALUES ('{key}')", place.schema);
            transaction.batch_execute(&insert).await.unwrap();
            proxy.lose_reply(passing);
            let committed = store.commit_step(transaction, &renewal(&key, fence)).await;
            proxy.heal();
            let count = format!("SELECT count(*) FROM semel.orders WHERE item = '{key}'");
            let happened = place.number(&count).await == 1;
            let steps = store.get(&id(&key)).await.unwrap().unwrap().steps;
            assert_eq!(happened, steps.len() == 1, "{key}: {committed:?}");
            match committed {
                Ok(_) => assert!(happened, "{key}"),
                Err(error) => assert!(!happened && !error.outcome_unknown(), "{key}: {error}"),
            }
        }
    });
}

/// Three steps in the shop's own database.
async fn order(store: &Arc<PostgresStore>, schema: &str) -> Result<Vec<String>, semel::Error> {
    let mut settings = Settings::default();
    settings.lease = Settings::LEASE_MIN * 5;
    settings.store_patience = Settings::LEASE_MIN;
    let guard = Guard::builder(store.clone()).operation("order").unwrap();
    let guard = guard.effect(Effect::Transactional).settings(settings).build().unwrap();
    let body = async |ctx: Context| {
        let mut done = Vec::new();
        for name in ["reserve", "charge", "ship"] {
            let insert = format!("INSERT INTO {schema}.orders VALUES ('{name}')");
            let step =
                ctx.step_in(&**store, name, async |transaction: &mut PostgresTransaction, _| {
                    transaction
                        .batch_execute(&insert)
                        .await
                        .map(|()| name.to_owned())
                        .map_err(failed)
                });
            done.push(step.await?);
        }
        Ok::<_, Failure>(done)
    };
    let fingerprint = FingerprintKey::from_secret(store.secret()).unwrap().fingerprint().finish();
    let (tenant, key) = (Tenant::single(), Key::parse("order-17").unwrap());
    guard.run(&tenant, &key, fingerprint, body).await.map(|answer| answer.value)
}

fn failed(error: tokio_postgres::Error) -> StepFailure {
    StepFailure::Unknown(error.into())
}

/// Runs the order as soon as the lease of whoever died with it is over.
async fn order_at_last(store: &Arc<PostgresStore>, schema: &str) -> Vec<String> {
    loop {
        match order(store, schema).await {
            Ok(done) => return done,
            Err(error) => assert_eq!(error.kind(), ErrorKind::InFlight, "{error}"),
        }
    }
}

/// Halts this process when it passes the point of its work for the time that the work says.
fn halt_at(point: &str) {
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let work = std::env::var(WORK).unwrap();
    let Some((name, time)) = work.split_once(' ') else { return };
    if name == point && PASSED.fetch_add(1, Ordering::SeqCst).to_string() == time {
        println!("\nhalted");
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn a_process_killed_around_the_commit_of_any_step_leaves_each_effect_once() {
    const CASE: &str =
        "steps::a_process_killed_around_the_commit_of_any_step_leaves_each_effect_once";
    if work().is_some() {
        semel::failpoint::install(halt_at);
        return block_on(async {
            let schema = std::env::var(SCHEMA).unwrap();
            order_at_last(&Arc::new(worker_store().await), &schema).await;
        });
    }
    block_on(async {
        let points = [("in_tx_before_commit", 0), ("after_commit", 1)];
        for (time, (point, more)) in (0..3).flat_map(|time| points.map(|point| (time, point))) {
            let Some(place) = shop().await else { return };
            let mut doomed = child(CASE, &place, &format!("{point} {time}"));
            let mut lines = BufReader::new(doomed.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.is_ok_and(|line| line == "halted")), "{point} {time}");
            doomed.kill().unwrap();
            doomed.wait().unwrap();
            let all = "SELECT count(*) FROM semel.orders";
            let seen = place.number(all).await;
            assert_eq!(seen, time + more, "{point} {time}");
            let done = order_at_last(&place.postgres(), &place.schema).await;
            assert_eq!(done, ["reserve", "charge", "ship"], "{point} {time}");
            assert_eq!(place.number(all).await, 3, "{point} {time}");
            let kinds = "SELECT count(DISTINCT item) FROM semel.orders";
            assert_eq!(place.number(kinds).await, 3, "{point} {time}");
        }
    });
}
