//! Broken files, wrong files, full disks: a clear error, nothing lost, nothing guessed.

use semel::{ErrorKind, Store};
use semel_stores::sqlite::{SqliteOptions, SqliteStore};
use semel_stores::{Purpose, open};

use super::support::{
    File, acquire, answer, block_on, completion, finish, flip, id, in_one_group, in_one_group_of,
    request,
};

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
        "deadline = -1",
        "since = -1",
        "counter = -1",
        "attempts = -1",
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
fn a_damaged_page_under_one_key_does_not_fail_the_others_of_its_group() {
    let file = File::new();
    let store = file.sqlite();
    finish(&*store, "bad", &"x".repeat(50_000)).unwrap();
    let fences: Vec<_> = (0..8).map(|it| acquire(&*store, &format!("k{it}"))).collect();
    drop(store);
    file.close();
    let raw = file.raw();
    let overflow = "SELECT min(pageno) FROM dbstat \
                    WHERE name = 'semel_record' AND pagetype = 'overflow'";
    let page: i64 = raw.query_row(overflow, (), |row| row.get(0)).unwrap();
    drop(raw);
    // An overflow page starts with the number of the next one; this leads far behind the file.
    flip(&file.path(), (page.unsigned_abs() - 1) * 4096);
    let store = file.open();
    let bad = completion("bad", fences[0], "late");
    let good: Vec<_> = fences
        .iter()
        .enumerate()
        .map(|(it, fence)| completion(&format!("k{it}"), *fence, "good"))
        .collect();
    let mut together: Vec<_> = good.iter().map(|it| store.complete(it)).collect();
    together.insert(4, store.complete(&bad));
    let mut answers = in_one_group(&file, together);
    let error = answers.remove(4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[test]
fn a_counter_that_is_no_number_stops_claims_and_is_not_guessed() {
    for damage in ["-1", "'many'", "9223372036854775807", "NULL"] {
        let file = File::new();
        let store = file.sqlite();
        finish(&*store, "before", "before").unwrap();
        let raw = file.raw();
        raw.pragma_update(None, "ignore_check_constraints", true).unwrap();
        let update = format!("UPDATE semel_meta SET value = {damage} WHERE name = 'counter'");
        if raw.execute(&update, ()).is_err() {
            raw.execute("DELETE FROM semel_meta WHERE name = 'counter'", ()).unwrap();
        }
        let error = block_on(store.claim(&request("new"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}: {error}");
        assert!(block_on(store.get(&id("new"))).unwrap().is_none(), "{damage}");
        assert!(block_on(store.get(&id("before"))).unwrap().is_some(), "{damage}");
    }
}

#[test]
fn an_answer_that_no_store_could_read_back_is_refused_alone() {
    let file = File::new();
    let store = file.sqlite();
    let (big, small) = (acquire(&*store, "big"), acquire(&*store, "small"));
    let mut huge = completion("big", big, "");
    huge.outcome.body = vec![b'x'; semel::envelope::ENVELOPE_BYTES_MAX].into();
    let small = completion("small", small, "small");
    let mut answers = in_one_group(&file, vec![store.complete(&huge), store.complete(&small)]);
    assert!(answers.pop().unwrap().is_ok());
    assert_eq!(answers.pop().unwrap().unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(block_on(store.get(&id("big"))).unwrap().unwrap().state.name(), "in-progress");
}

/// A small disk of its own: a file system of a megabyte, which only root may mount.
fn small_disk(file: &File) -> Option<Mount> {
    let path = file.folder.path().join("small");
    std::fs::create_dir(&path).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&path)
        .output();
    if mounted.is_ok_and(|output| output.status.success()) {
        return Some(Mount(path));
    }
    let name = std::thread::current().name()?.to_owned();
    let skipped = format!("SKIPPED {name}: mounting a small tmpfs needs root\n");
    assert!(std::env::var_os("SEMEL_TEST_REQUIRE_ALL").is_none(), "{skipped}");
    // Past the capture of the test harness, which hides what a passing test prints.
    std::io::Write::write_all(&mut std::io::stderr(), skipped.as_bytes()).unwrap();
    None
}

struct Mount(std::path::PathBuf);

impl Mount {
    /// Leaves room for that many bytes.
    fn fill(&self, left: usize) {
        let ballast = self.0.join("ballast");
        std::fs::write(&ballast, vec![0; 1 << 20]).unwrap_err();
        let file = std::fs::File::options().write(true).open(&ballast).unwrap();
        file.set_len(file.metadata().unwrap().len() - left as u64).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_loses_nothing_and_heals_by_itself() {
    let file = File::new();
    let Some(disk) = small_disk(&file) else { return };
    let store = SqliteStore::open(disk.0.join("semel.db")).unwrap();
    finish(&store, "kept", "kept").unwrap();
    let fence = acquire(&store, "full");
    disk.fill(0);
    let full = completion("full", fence, &"x".repeat(300_000));
    let error = block_on(store.complete(&full)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("full"), "{error}");
    assert!(!error.outcome_unknown(), "a commit without room has not happened: {error}");
    assert_eq!(answer(&store, "kept"), "kept", "replays need no room");
    disk.free();
    block_on(store.complete(&full)).unwrap();
    finish(&store, "after", "after").unwrap();
    drop(store);
    let store = SqliteStore::open(disk.0.join("semel.db")).unwrap();
    assert_eq!(answer(&store, "full").len(), 300_000);
}

#[test]
fn an_answer_without_room_on_the_disk_does_not_fail_the_others_of_its_group() {
    let file = File::new();
    let Some(disk) = small_disk(&file) else { return };
    let path = disk.0.join("semel.db");
    let store = SqliteStore::open(&path).unwrap();
    let keys = ["one", "two", "big", "three"];
    let completions = keys.map(|key| {
        let body = "x".repeat(if key == "big" { 300_000 } else { 10 });
        completion(key, acquire(&store, key), &body)
    });
    disk.fill(100_000);
    let together = completions.iter().map(|it| store.complete(it)).collect();
    let answers = in_one_group_of(&path, together);
    let fine: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, true, false, true], "{answers:?}");
    disk.free();
    block_on(store.complete(&completions[2])).unwrap();
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
    let said = |url: &str| block_on(open(url, Purpose::Serve)).unwrap_err().to_string();
    assert!(said("semel.db").contains("no scheme"));
    assert!(said("sqlite:").contains("lacks its path"));
    let unknown = said("mysql://user:hunter2@db/x");
    assert!(unknown.contains("`mysql:`") && !unknown.contains("hunter2"), "{unknown}");
    let memory = block_on(open("memory:", Purpose::Operate)).unwrap_err();
    assert!(memory.to_string().contains("nothing to look at"), "{memory}");
    assert!(block_on(open("memory:", Purpose::Serve)).is_ok());
}

#[test]
fn a_file_that_is_moved_away_or_replaced_in_use_is_not_written_any_more() {
    let file = File::new();
    let store = file.sqlite();
    finish(&*store, "before", "before").unwrap();
    let elsewhere = file.folder.path().join("elsewhere.db");
    std::fs::rename(file.path(), &elsewhere).unwrap();
    let gone = block_on(store.claim(&request("k"))).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Unavailable);
    assert!(gone.to_string().contains("another file is at"), "{gone}");
    // Another process starts and makes a new file: two worlds for one path.
    let other = SqliteStore::open(file.path()).unwrap();
    acquire(&other, "k");
    let replaced = block_on(store.claim(&request("k"))).unwrap_err();
    assert_eq!(replaced.kind(), ErrorKind::Unavailable);
}

#[test]
fn one_damaged_record_does_not_hide_the_others_from_a_list() {
    use semel::Inspect;

    let file = File::new();
    let store = file.sqlite();
    for key in ["a", "b", "c"] {
        finish(&*store, key, key).unwrap();
    }
    file.raw().execute("UPDATE semel_record SET state = 'weird' WHERE key = 'b'", ()).unwrap();
    let listed = block_on(store.list(&semel::store::Filter::default(), None, 10)).unwrap();
    let states: Vec<_> = listed.iter().map(|it| (it.id.key.as_str(), it.state)).collect();
    assert_eq!(states, [("a", "completed"), ("b", "damaged"), ("c", "completed")]);
}
