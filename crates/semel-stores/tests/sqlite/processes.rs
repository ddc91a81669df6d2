//! Real processes on one file: started by this test from its own binary, killed with SIGKILL.
//!
//! A child is this test program again, told by an environment variable to run one case of this
//! file as its work instead of its check.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use semel::store::Claimed;
use semel::{Store, TransactionalStore};
use semel_stores::sqlite::SqliteStore;

use super::support::{acquire, answer, block_on, completion, finish, now, request};

pub(crate) const WORK: &str = "SEMEL_TEST_WORK";
const PATH: &str = "SEMEL_TEST_PATH";
/// How often a process is killed, where that is to be another number than [`CYCLES`].
const KILL_CYCLES: &str = "SEMEL_TEST_KILL_CYCLES";
const CYCLES: usize = 25;

/// Starts this test program as a worker of the named case.
pub(crate) fn child(case: &str, path: &Path, work: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", case, "--nocapture", "--test-threads=1"])
        .env(WORK, work)
        .env(PATH, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What this process is to do, if it is a worker.
pub(crate) fn work() -> Option<(String, SqliteStore)> {
    let work = std::env::var(WORK).ok()?;
    let store = SqliteStore::open(std::env::var_os(PATH).unwrap()).unwrap();
    Some((work, store))
}

#[test]
fn no_acknowledged_completion_is_lost_to_kill_9() {
    if let Some((name, store)) = work() {
        // Tells each completion only after the store has acknowledged it.
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (name, store) = (&name, &store);
                scope.spawn(move || {
                    for it in 0.. {
                        let key = format!("{name}-{thread}-{it}");
                        finish(store, &key, &key).unwrap();
                        println!("done {key}");
                    }
                });
            }
        });
        return;
    }
    let cycles = std::env::var(KILL_CYCLES).map_or(CYCLES, |it| it.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let mut acknowledged = Vec::new();
    for cycle in 0..cycles {
        let mut child = child(
            "processes::no_acknowledged_completion_is_lost_to_kill_9",
            &path,
            &cycle.to_string(),
        );
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        // Killed in the middle of its work, after a different number of completions each time.
        while seen < 5 + cycle % CYCLES * 3 {
            let line = lines.next().expect("the child works until it is killed").unwrap();
            if let Some(key) = line.strip_prefix("done ") {
                acknowledged.push(key.to_owned());
                seen += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Whatever it still managed to say was acknowledged as well.
        for line in lines.map_while(Result::ok) {
            acknowledged.extend(line.strip_prefix("done ").map(str::to_owned));
        }
    }
    let store = SqliteStore::open(&path).unwrap();
    let done = acknowledged.len();
    println!("{cycles} kills, {done} acknowledged completions");
    assert!(done > cycles * 10, "{done} completions: too little work");
    for key in &acknowledged {
        assert_eq!(&answer(&store, key), key);
    }
    let check: String = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn two_processes_never_hold_one_claim_and_never_share_a_counter() {
    const KEYS: usize = 200;
    if let Some((name, store)) = work() {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (name, store) = (&name, &store);
                scope.spawn(move || {
                    for it in 0..KEYS {
                        let key = format!("key-{it}");
                        let claimed = block_on(store.claim(&request(&key))).unwrap();
                        if let Claimed::Acquired { fence, .. } = claimed {
                            println!("\nwon {key} {}", fence.counter);
                            let who = format!("{name}-{thread}");
                            block_on(store.complete(&completion(&key, fence, &who))).unwrap();
                        }
                    }
                });
            }
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    drop(SqliteStore::open(&path).unwrap());
    let case = "processes::two_processes_never_hold_one_claim_and_never_share_a_counter";
    let children = ["a", "b"].map(|name| child(case, &path, name));
    let mut won: BTreeMap<String, usize> = BTreeMap::new();
    let mut counters = Vec::new();
    for mut child in children {
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((key, counter)) =
                line.strip_prefix("won ").and_then(|rest| rest.split_once(' '))
            {
                *won.entry(key.to_owned()).or_default() += 1;
                counters.push(counter.parse::<u64>().unwrap());
            }
        }
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(won.len(), KEYS, "every key was executed");
    assert!(won.values().all(|&times| times == 1), "some key was executed twice: {won:?}");
    counters.sort_unstable();
    counters.dedup();
    assert_eq!(counters.len(), KEYS, "a counter was given twice");
    assert!(now().as_millis() > 0);
}

/// Claims the key and commits one order together with its record.
fn order(store: &SqliteStore, key: &str, lease: std::time::Duration) {
    let mut claim = request(key);
    claim.lease = lease;
    let claimed = block_on(store.claim(&claim)).unwrap();
    let Claimed::Acquired { fence, .. } = claimed else { panic!("not acquired: {claimed:?}") };
    block_on(async {
        let transaction = store.begin().await.unwrap();
        let insert = "INSERT INTO orders VALUES ('book')";
        transaction.with(|it| it.execute(insert, ())).await.unwrap();
        store.commit(transaction, &completion(key, fence, "ordered")).await.unwrap();
    });
}

/// Halts this process at the point that its work names.
fn halt(point: &str) {
    if std::env::var(WORK).is_ok_and(|work| work == point) {
        println!("\nhalted");
        loop {
            std::thread::park();
        }
    }
}

#[test]
fn a_transaction_killed_around_its_commit_leaves_both_or_nothing_and_ends_in_one_row() {
    let case = "processes::a_transaction_killed_around_its_commit_leaves_both_or_nothing_and_ends\
                _in_one_row";
    if let Some((_, store)) = work() {
        semel::failpoint::install(halt);
        order(&store, "k", std::time::Duration::from_millis(1));
        return;
    }
    for round in 0..20 {
        for (point, is_committed) in [("in_tx_before_commit", false), ("after_commit", true)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("shop.db");
            let shop = rusqlite::Connection::open(&path).unwrap();
            shop.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE orders (item TEXT)")
                .unwrap();
            let orders = || -> i64 {
                shop.query_row("SELECT count(*) FROM orders", (), |row| row.get(0)).unwrap()
            };
            let mut doomed = child(case, &path, point);
            let mut lines = BufReader::new(doomed.stdout.take().unwrap()).lines();
            let halted = lines.any(|line| line.is_ok_and(|line| line == "halted"));
            assert!(halted, "{point} was never passed");
            doomed.kill().unwrap();
            doomed.wait().unwrap();
            let store = SqliteStore::open(&path).unwrap();
            let record = block_on(store.get(&super::support::id("k"))).unwrap().unwrap();
            let is_recorded = record.state.name() == "completed";
            assert_eq!((orders(), is_recorded), (i64::from(is_committed), is_committed), "{point}");
            if !is_committed {
                // What did not commit provably did nothing, so it is run again.
                order(&store, "k", std::time::Duration::from_secs(30));
            }
            assert_eq!((orders(), answer(&store, "k").as_str()), (1, "ordered"), "{round} {point}");
            acquire(&store, "another");
        }
    }
}
