//! Broken files, wrong files, full disks: a clear error, nothing lost, nothing guessed.

use semel::{ErrorKind, Store};
use semel_stores::sqlite::{SqliteOptions, SqliteStore};
use semel_stores::{Purpose, open};

use super::support::{File, acquire, answer, block_on, completion, finish, flip, id, request};

#[test]
fn a_missing_folder_names_the_path_and_the_way_out() {
    let error = SqliteStore::open("/no/such/folder/semel.db").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(
        text.contains("/no/such/folder/semel.db") && text.contains("folder must exist"),
        "{text}"
    );
}

#[test]
fn looking_into_a_store_does_not_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.db");
    let error = SqliteOptions::default().create(false).open(&path).unwrap_err();
    assert!(error.to_string().contains("there is no store"), "{error}");
    assert!(!path.exists());
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let error = SqliteOptions::default().create(false).open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("holds no records"), "{error}");
}

#[test]
fn the_applications_own_database_may_be_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let shop = rusqlite::Connection::open(&path).unwrap();
    shop.execute_batch("CREATE TABLE orders (x); PRAGMA user_version = 77").unwrap();
    let store = SqliteStore::open(&path).unwrap();
    finish(&store, "k", "done").unwrap();
    let version: i64 = shop.query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap();
    assert_eq!(version, 77, "the application's own version is left alone");
}

#[test]
fn what_is_no_database_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    let text = "these are my notes, not a database\n".repeat(200);
    std::fs::write(&path, &text).unwrap();
    let error = SqliteStore::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("no SQLite database"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_newer_schema_is_refused_with_advice() {
    let file = File::new();
    file.close();
    file.raw().execute("UPDATE semel_meta SET value = 2 WHERE name = 'schema'", ()).unwrap();
    let error = file.options().open(file.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(error.to_string().contains("upgrade this program"), "{error}");
}

#[test]
fn a_damaged_record_is_refused_alone_and_not_lost() {
    let file = File::new();
    let store = file.sqlite();
    finish(&*store, "good", "good").unwrap();
    let damages = [
        "outcome = substr(outcome, 1, length(outcome) - 1)",
        "outcome = 'text'",
        "outcome = NULL",
        "state = 'finished'",
        "effect = 'perhaps'",
        "fingerprint = x'00'",
        "nonce = NULL",
        "deadline = 'soon'",
    ];
    for (at, damage) in damages.iter().enumerate() {
        let key = format!("bad-{at}");
        finish(&*store, &key, "bad").unwrap();
        let raw = file.raw();
        // The table's own rules stop some damage; a broken disk does not ask them.
        raw.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
        let changed =
            raw.execute(&format!("UPDATE semel_record SET {damage} WHERE key = ?1"), [&key]);
        let Ok(1) = changed else { continue };
        let error = block_on(store.claim(&request(&key))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}: {error}");
        assert!(!error.to_string().contains(&key), "the key is not shown: {error}");
        assert_eq!(block_on(store.get(&id(&key))).unwrap_err().kind(), ErrorKind::Corrupt);
        let rows: i64 = raw
            .query_row("SELECT count(*) FROM semel_record WHERE key = ?1", [&key], |it| it.get(0))
            .unwrap();
        assert_eq!(rows, 1, "{damage}: the damaged record is kept for people to look at");
    }
    assert_eq!(answer(&*store, "good"), "good");
}

#[test]
fn a_record_of_a_newer_version_is_refused() {
    let file = File::new();
    let store = file.sqlite();
    finish(&*store, "new", "new").unwrap();
    let raw = file.raw();
    let mut outcome: Vec<u8> =
        raw.query_row("SELECT outcome FROM semel_record", (), |row| row.get(0)).unwrap();
    outcome[4] = 9;
    raw.execute("UPDATE semel_record SET outcome = ?1", [outcome]).unwrap();
    let error = block_on(store.claim(&request("new"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(error.to_string().contains("upgrade"), "{error}");
}

#[test]
fn a_damaged_file_is_told_as_damage() {
    let file = File::new();
    let store = file.sqlite();
    for it in 0..200 {
        finish(&*store, &format!("k{it}"), "done").unwrap();
    }
    drop(store);
    file.close();
    // Everything is in the main file now; break the pages behind the first.
    let size = std::fs::metadata(file.path()).unwrap().len();
    for at in (4096..size).step_by(64) {
        flip(&file.path(), at);
    }
    let error = match file.options().open(file.path()) {
        Err(error) => error,
        Ok(store) => block_on(store.claim(&request("k7"))).unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_full_disk_loses_nothing_and_heals_by_itself() {
    let file = File::new();
    let store = file.sqlite();
    finish(&*store, "before", "before").unwrap();
    let fence = acquire(&*store, "during");
    // Another connection cannot limit this one's pages, so the disk itself must be small: a file
    // system of a few megabytes, which only root may mount.
    let mount = file.folder.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&mount)
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED the part on a real full disk: mounting a small tmpfs needs root");
        return;
    }
    let _unmount = Unmount(mount.clone());
    let small = SqliteStore::open(mount.join("semel.db")).unwrap();
    finish(&small, "kept", "kept").unwrap();
    std::fs::write(mount.join("ballast"), vec![0; 1 << 20]).unwrap_err();
    let body = "x".repeat(300_000);
    let held = acquire_or_full(&small);
    let error = match held {
        Ok(fence) => block_on(small.complete(&completion("full", fence, &body))).unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(answer(&small, "kept"), "kept");
    std::fs::remove_file(mount.join("ballast")).unwrap();
    finish(&small, "after", "after").unwrap();
    assert_eq!(answer(&small, "after"), "after");
    drop(small);
    block_on(store.complete(&completion("during", fence, "during"))).unwrap();
}

fn acquire_or_full(store: &SqliteStore) -> Result<semel::Fence, semel::Error> {
    match block_on(store.claim(&request("full")))? {
        semel::store::Claimed::Acquired { fence, .. } => Ok(fence),
        other => panic!("expected Acquired, saw {other:?}"),
    }
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_locked_file_is_waited_for_and_then_told() {
    let file = File::new();
    file.close();
    let patience = std::time::Duration::from_millis(50);
    let store = file.options().patience(patience).open(file.path()).unwrap();
    let other = file.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = block_on(store.claim(&request("k"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("locked by another writer"), "{error}");
    assert!(!error.outcome_unknown(), "nothing was written");
    other.execute_batch("ROLLBACK").unwrap();
    finish(&store, "k", "done").unwrap();
}

#[test]
fn urls_say_what_this_build_knows_and_show_no_secret() {
    let said = |url: &str| open(url, Purpose::Serve).unwrap_err().to_string();
    assert!(said("semel.db").contains("no scheme"));
    assert!(said("sqlite:").contains("lacks its path"));
    let unknown = said("postgres://user:hunter2@db/x");
    assert!(unknown.contains("`postgres:`") && !unknown.contains("hunter2"), "{unknown}");
    let memory = open("memory:", Purpose::Operate).unwrap_err();
    assert!(memory.to_string().contains("nothing to look at"), "{memory}");
    assert!(open("memory:", Purpose::Serve).is_ok());
}
