//! Steps whose effect is in the store's database: each exactly once, whatever is killed.

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use semel::conformance::{TransactionalHarness, run_transactional};
use semel::store::Renewal;
use semel::{
    BoxFuture, Context, Effect, ErrorKind, Executed, Failure, FingerprintKey, Guard, Key, Settings,
    Step, StepFailure, Tenant,
};
use semel_stores::sqlite::{SqliteStore, SqliteTransaction};

use super::processes::{child, work};
use super::support::{File, acquire, block_on, id};

impl TransactionalHarness for File {
    type Store = SqliteStore;

    fn transactional(&self) -> Arc<SqliteStore> {
        self.sqlite()
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a mut SqliteTransaction,
        effect: &'a str,
    ) -> BoxFuture<'a, Result<(), String>> {
        let effect = effect.to_owned();
        let insert = move |shop: &rusqlite::Connection| {
            shop.execute("CREATE TABLE IF NOT EXISTS effects (name TEXT)", ())?;
            shop.execute("INSERT INTO effects VALUES (?1)", [effect])
        };
        Box::pin(async move {
            transaction.with(insert).await.map(drop).map_err(|error| error.to_string())
        })
    }

    fn applied<'a>(&'a self, effect: &'a str) -> BoxFuture<'a, Result<usize, String>> {
        let shop = self.raw();
        shop.execute("CREATE TABLE IF NOT EXISTS effects (name TEXT)", ()).unwrap();
        let count = "SELECT count(*) FROM effects WHERE name = ?1";
        let count = shop.query_row(count, [effect], |row| row.get::<_, i64>(0));
        Box::pin(async move { Ok(usize::try_from(count.unwrap()).unwrap()) })
    }
}

#[test]
fn the_sqlite_store_passes_the_suite_for_transactions() {
    let report = block_on(run_transactional(&File::new()));
    assert!(report.failed.is_empty(), "{report}");
}

#[test]
fn a_callers_own_transaction_keeps_or_loses_step_and_effect() {
    let file = File::new();
    let store = file.sqlite();
    let mut shop = file.raw();
    shop.execute_batch("CREATE TABLE orders (item TEXT)").unwrap();
    let fence = acquire(&*store, "k");
    let step = Some(Step { name: "order".to_owned(), result: "1".into() });
    let renewal = Renewal { id: id("k"), fence, lease: Duration::from_secs(30), step };
    for keep in [false, true] {
        let transaction = shop.transaction().unwrap();
        transaction.execute("INSERT INTO orders VALUES ('book')", ()).unwrap();
        store.step_in(&transaction, &renewal).unwrap();
        if keep {
            transaction.commit().unwrap();
        }
    }
    let transaction = shop.transaction().unwrap();
    let again = store.step_in(&transaction, &renewal).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid);
    drop(transaction);
    let orders = shop.query_row("SELECT count(*) FROM orders", (), |row| row.get::<_, i64>(0));
    assert_eq!(orders.unwrap(), 1);
}

/// Three steps in the shop's own database; the lease is over as soon as the process is gone.
fn order(store: &Arc<SqliteStore>) -> Result<Vec<i64>, semel::Error> {
    let mut settings = Settings::default();
    settings.lease = Settings::LEASE_MIN;
    settings.store_patience = Settings::LEASE_MIN / 2;
    let guard = Guard::builder(store.clone())
        .operation("order")
        .unwrap()
        .effect(Effect::Transactional)
        .settings(settings)
        .build()
        .unwrap();
    let body = async |ctx: Context| {
        let mut rows = Vec::new();
        for name in ["reserve", "charge", "ship"] {
            let row =
                ctx.step_in(&**store, name, async |transaction: &mut SqliteTransaction, _| {
                    let insert = move |shop: &rusqlite::Connection| {
                        shop.execute("INSERT INTO effects VALUES (?1)", [name])?;
                        Ok(shop.last_insert_rowid())
                    };
                    let inserted = transaction.with(insert).await;
                    inserted.map_err(|error| StepFailure::Unknown(error.into()))
                });
            rows.push(row.await?);
        }
        Ok::<_, Failure>(rows)
    };
    let fingerprint = FingerprintKey::from_secret(store.secret()).unwrap().fingerprint().finish();
    let (tenant, key) = (Tenant::single(), Key::parse("order-17").unwrap());
    block_on(guard.run(&tenant, &key, fingerprint, body)).map(|answer| answer.value)
}

/// Runs the order as soon as the lease of whoever died with it is over.
fn order_at_last(store: &Arc<SqliteStore>) -> Vec<i64> {
    loop {
        match order(store) {
            Ok(rows) => return rows,
            Err(error) => assert_eq!(error.kind(), ErrorKind::InFlight, "{error}"),
        }
    }
}

/// Halts this process when it passes the point of its work for the time that the work says.
fn halt_at(point: &str) {
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let work = std::env::var(super::processes::WORK).unwrap();
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
    let case = "steps::a_process_killed_around_the_commit_of_any_step_leaves_each_effect_once";
    if let Some((_, store)) = work() {
        semel::failpoint::install(halt_at);
        order_at_last(&Arc::new(store));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let points = [("in_tx_before_commit", 0), ("after_commit", 1)];
    for (time, (point, more)) in (0..3).flat_map(|time| points.map(|point| (time, point))) {
        let path = folder.path().join(format!("{point}-{time}.db"));
        let shop = rusqlite::Connection::open(&path).unwrap();
        shop.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE effects (name TEXT)").unwrap();
        let names = || {
            let names = "SELECT group_concat(name) FROM (SELECT name FROM effects ORDER BY rowid)";
            shop.query_row(names, (), |row| row.get::<_, Option<String>>(0)).unwrap()
        };
        let mut doomed = child(case, &path, &format!("{point} {time}"));
        let mut lines = BufReader::new(doomed.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line == "halted")), "{point} {time}");
        doomed.kill().unwrap();
        doomed.wait().unwrap();
        let done = ["reserve", "charge", "ship"][..time + more].join(",");
        assert_eq!(names().unwrap_or_default(), done, "{point} {time}");
        let rows = order_at_last(&Arc::new(SqliteStore::open(&path).unwrap()));
        assert_eq!(rows, [1, 2, 3], "{point} {time}");
        assert_eq!(names().as_deref(), Some("reserve,charge,ship"), "{point} {time}");
    }
}

#[test]
fn a_failed_step_is_rolled_back_and_never_forgets_the_steps_before_it() {
    let file = File::new();
    let store = file.sqlite();
    file.raw().execute_batch("CREATE TABLE effects (name TEXT)").unwrap();
    let guard = Guard::builder(store.clone()).operation("test").unwrap();
    let guard = guard.effect(Effect::Transactional).build().unwrap();
    let run = |fails: bool| {
        let body = async |ctx: Context| {
            for name in ["one", "two"] {
                let step = async |transaction: &mut SqliteTransaction, _| {
                    let insert = move |shop: &rusqlite::Connection| {
                        shop.execute("INSERT INTO effects VALUES (?1)", [name])
                    };
                    transaction.with(insert).await.unwrap();
                    if fails && name == "two" {
                        return Err(StepFailure::NotApplied("declined".into()));
                    }
                    Ok(ctx.attempts())
                };
                let attempt = match ctx.step_in(&*store, name, step).await {
                    Ok(attempt) => attempt,
                    Err(failure) => {
                        let detail = failure.to_string();
                        return semel::Ending::Unknown { detail, live: 0 };
                    }
                };
                assert!(name != "one" || attempt == 1, "the first step ran once");
            }
            let outcome = semel::Outcome::json(semel::Verdict::Succeeded, &"done").unwrap();
            semel::Ending::Completed { outcome, live: ctx.attempts() }
        };
        let fingerprint = semel::Fingerprint::from_bytes([1; 32]);
        let (tenant, key) = (Tenant::single(), Key::parse("k").unwrap());
        block_on(guard.execute(&tenant, &key, fingerprint, body)).unwrap()
    };
    assert!(matches!(run(true), Executed::Unknown { .. }));
    let effects = || -> i64 {
        file.raw().query_row("SELECT count(*) FROM effects", (), |row| row.get(0)).unwrap()
    };
    assert_eq!(effects(), 1);
    assert!(matches!(run(false), Executed::Fresh { live: 2, .. }));
    assert_eq!(effects(), 2);
}
