//! A file that version 1 wrote: every later version must read it, and keep its form or migrate it.

use bytes::Bytes;
use semel::store::{Action, AuditEntry, Claimed, Counts, StateFilter, Takeover};
use semel::{
    Clock, Effect, Fence, Fingerprint, Hold, HoldCause, Inspect, ManualClock, Nonce, OnUnknown,
    Outcome, Record, State, Step, Store, Timestamp, Verdict,
};
use semel_stores::sqlite::SqliteOptions;
use std::sync::Arc;

use super::support::{File, block_on, id, request};

const GOLDEN: &str = include_str!("golden-1.sql");

/// The records of the golden file; it was written at the start of the manual clock.
fn records() -> [(&'static str, Record); 4] {
    let at = |millis| Timestamp::from_millis(ManualClock::new().now().as_millis() + millis);
    let record = |number: u8, effect, state| Record {
        fingerprint: Fingerprint::from_bytes([number; 32]),
        effect,
        fence: Fence { counter: u64::from(number), nonce: Nonce::from_bytes([number; 16]) },
        state,
        steps: Vec::new(),
        attempts: 2,
        lost_leases: 1,
        created_at: at(0),
        updated_at: at(1000),
    };
    let outcome = Outcome {
        verdict: Verdict::Succeeded,
        format: "http/1".to_owned(),
        head: Bytes::from_static(b"201"),
        body: Bytes::from_static(b"{\"order\":17}\xff"),
    };
    let completed =
        State::Completed { outcome, completed_at: at(1000), expires_at: at(86_401_000) };
    let held = State::Held(Hold {
        cause: HoldCause::LeaseLost,
        detail: "claim 2 ended in silence".to_owned(),
        since: at(1000),
    });
    let mut in_progress =
        record(3, Effect::Transactional, State::InProgress { lease_until: at(31_000) });
    in_progress.steps = vec![
        Step { name: "charge".to_owned(), result: Bytes::from_static(b"ch_1") },
        Step { name: "ship".to_owned(), result: Bytes::new() },
    ];
    let interrupted = State::Interrupted { since: at(1000) };
    [
        ("completed", record(1, Effect::Keyed, completed)),
        ("held", record(2, Effect::Foreign(OnUnknown::Hold), held)),
        ("in-progress", in_progress),
        ("interrupted", record(4, Effect::Foreign(OnUnknown::Retry), interrupted)),
    ]
}

#[test]
fn a_file_of_version_1_is_read_in_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("golden.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(GOLDEN).unwrap();
    let clock = Arc::new(ManualClock::new());
    let store = SqliteOptions::default().create(false).clock(clock).open(&path).unwrap();
    assert_eq!(store.secret(), &[7; 32]);
    for (key, record) in records() {
        assert_eq!(block_on(store.get(&id(key))).unwrap(), Some(record), "{key}");
    }
    let listed = block_on(store.list(&Default::default(), None, 10)).unwrap();
    let keys: Vec<_> = listed.iter().map(|it| it.id.key.as_str().to_owned()).collect();
    assert_eq!(keys, ["completed", "held", "in-progress", "interrupted"]);
    let counts = block_on(store.count()).unwrap();
    let expected = Counts { completed: 1, held: 1, in_progress: 1, interrupted: 1, ..counts };
    assert_eq!(counts, Counts { expired: 0, silent: 0, ..expected });
    let entry = AuditEntry {
        at: ManualClock::new().now(),
        fence: Fence { counter: 2, nonce: Nonce::from_bytes([2; 16]) },
        takeover: Takeover::new(Action::Release, "ada", "no order with this key").unwrap(),
    };
    assert_eq!(block_on(store.audit(&id("held"), 10)).unwrap(), [entry]);
    // The counter goes on above everything in the file.
    let Claimed::Acquired { fence, .. } = block_on(store.claim(&request("next"))).unwrap() else {
        panic!("a new key is free")
    };
    assert_eq!(fence.counter, 5);
    let held = semel::store::Filter { state: Some(StateFilter::Held), ..Default::default() };
    assert_eq!(block_on(store.list(&held, None, 10)).unwrap().len(), 1);
}

#[test]
fn a_new_file_has_the_form_of_the_golden_one() {
    let form = |file: &rusqlite::Connection| -> Vec<(String, Option<String>)> {
        let tables = "SELECT name, sql FROM sqlite_schema ORDER BY name";
        let mut tables = file.prepare(tables).unwrap();
        let rows = tables.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let golden = rusqlite::Connection::open_in_memory().unwrap();
    golden.execute_batch(GOLDEN).unwrap();
    let advice = "a change of the tables needs a new SCHEMA_VERSION, a migration and a golden file";
    assert_eq!(form(&File::new().raw()), form(&golden), "{advice}");
}
