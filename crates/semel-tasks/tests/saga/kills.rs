//! A process is killed at every point that a saga passes, and another one takes it to its end.
//!
//! The child is this test program again, told by its environment to be the worker.

use std::future::ready;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::Connection;
use semel::{BoxFuture, Effect, Error, ErrorKind, Failure, FingerprintKey, Guard, Settings};
use semel_stores::sqlite::{SqliteStore, SqliteTransaction};
use semel_tasks::{Compensated, Part, Saga, TaskGuard};

use super::support::key;

const CASE: &str = "kills::killed_at_any_point_each_effect_and_each_compensation_happens_once";
const PATH: &str = "SEMEL_TEST_PATH";
const TIME: &str = "SEMEL_TEST_TIME";

/// A service elsewhere that deduplicates on the key it is given.
fn keyed(path: &Path, part: &Part<String>, name: &str) -> Result<(), Failure> {
    let service = Connection::open(path)?;
    service.busy_timeout(std::time::Duration::from_secs(30))?;
    let insert = "INSERT OR IGNORE INTO effects (name, key) VALUES (?1, ?2)";
    service.execute(insert, [name, part.step_key().as_str()])?;
    Ok(())
}

/// A row of the shop's own.
fn row<'t>(
    transaction: &'t mut SqliteTransaction,
    name: &'static str,
) -> BoxFuture<'t, Result<(), Failure>> {
    Box::pin(async move {
        let insert =
            move |shop: &Connection| shop.execute("INSERT INTO effects (name) VALUES (?1)", [name]);
        transaction.with(insert).await?;
        Ok(())
    })
}

fn order(path: &Path, store: &Arc<SqliteStore>) -> Saga<String> {
    let path: Arc<Path> = path.into();
    let undo_path = Arc::clone(&path);
    Saga::builder()
        .step("reserve", move |part| ready(keyed(&path, &part, "reserve")))
        .undo(move |part, ()| ready(keyed(&undo_path, &part, "undo reserve")))
        .step_in(Arc::clone(store), "charge", |_, transaction| row(transaction, "charge"))
        .undo_in(Arc::clone(store), |_, transaction| row(transaction, "undo charge"))
        .step("ship", |_| async { Err::<(), _>(Failure::final_answer(&"no such street")) })
        .build()
        .unwrap()
}

/// Runs the order until it is over; waits for the lease of whoever died with it.
fn run(path: &Path) -> Error {
    let store = Arc::new(SqliteStore::open(path).unwrap());
    let mut settings = Settings::default();
    settings.lease = Settings::LEASE_MIN;
    settings.store_patience = Settings::LEASE_MIN / 2;
    let guard = Guard::builder(store.clone()).operation("order").unwrap();
    let guard = guard.effect(Effect::Keyed).settings(settings).build().unwrap();
    let tasks = TaskGuard::new(guard, FingerprintKey::from_secret(store.secret()).unwrap());
    let saga = order(path, &store);
    loop {
        let answer = async |_| Ok::<(), Error>(());
        let ran = pollster::block_on(tasks.run_saga(&key(), "book".to_owned(), &saga, answer));
        match ran.unwrap_err() {
            busy if busy.kind() == ErrorKind::InFlight => {}
            error => return error,
        }
    }
}

/// Halts this process when it has passed so many points.
fn halt(point: &str) {
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let counts = point.starts_with("tasks:")
        || ["in_tx_before_commit", "after_commit", "before_complete", "after_complete"]
            .contains(&point);
    let time = std::env::var(TIME).unwrap();
    if counts && PASSED.fetch_add(1, Ordering::SeqCst).to_string() == time {
        println!("\nhalted {point}");
        loop {
            std::thread::park();
        }
    }
}

/// Kills a worker at the point that it passes as its `time`th, and says which it was.
fn kill_at(time: usize, path: &Path) -> Option<String> {
    let mut doomed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CASE, "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .env(TIME, time.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(doomed.stdout.take().unwrap()).lines();
    let halted = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("halted ").map(str::to_owned));
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    halted
}

fn shop(path: &Path) -> Connection {
    let shop = Connection::open(path).unwrap();
    let create = "PRAGMA journal_mode = WAL;
        CREATE TABLE effects (place INTEGER PRIMARY KEY, name TEXT, key TEXT UNIQUE)";
    shop.execute_batch(create).unwrap();
    shop
}

#[test]
fn killed_at_any_point_each_effect_and_each_compensation_happens_once() {
    if let Some(path) = std::env::var_os(PATH) {
        semel::failpoint::install(halt);
        run(&PathBuf::from(path));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut points = Vec::new();
    for time in 0.. {
        let path = folder.path().join(format!("{time}.db"));
        let shop = shop(&path);
        let Some(point) = kill_at(time, &path) else { break };
        let error = run(&path);
        let how = Compensated::of(&error).unwrap_or_else(|_| panic!("{point}: {error}"));
        assert_eq!(
            (&*how.refused, how.undone),
            ("ship", ["charge", "reserve"].map(str::to_owned).to_vec())
        );
        let names = "SELECT group_concat(name) FROM (SELECT name FROM effects ORDER BY place)";
        let names = shop.query_row(names, (), |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(names, "reserve,charge,undo charge,undo reserve", "killed at {point}");
        points.push(point);
    }
    println!("killed at {points:?}");
    for point in semel_tasks::failpoint::POINTS {
        assert!(points.iter().any(|it| it == point), "{point} was never passed");
    }
    assert!(points.len() >= 20, "{points:?}");
}
