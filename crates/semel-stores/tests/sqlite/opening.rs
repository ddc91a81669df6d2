//! Opening the file: by many at once, by its owner alone, and without changing what is not ours.

use std::time::Duration;

use semel::{ErrorKind, TransactionalStore};
use semel_stores::sqlite::{SqliteOptions, SqliteStore};

use super::support::{File, acquire, block_on, finish};

#[test]
fn many_may_make_the_same_new_file_at_once() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("semel.db");
        let secrets = std::thread::scope(|scope| {
            let open = || {
                let store = SqliteStore::open(&path).unwrap();
                acquire(&store, &format!("{:?}", std::thread::current().id()));
                *store.secret()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(secrets.iter().all(|it| *it == secrets[0]), "one file, one secret");
    }
}

#[test]
fn looking_into_anothers_database_does_not_change_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let before = std::fs::read(&path).unwrap();
    SqliteOptions::default().create(false).open(&path).unwrap_err();
    assert!(std::fs::read(&path).unwrap() == before, "not even its journal mode");
}

#[cfg(unix)]
#[test]
fn a_new_file_belongs_to_its_user_alone_and_an_old_one_keeps_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    let file = File::new();
    finish(&*file.sqlite(), "k", "private").unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("{}{suffix}", file.path().display());
        assert_eq!(mode(path.as_ref()) & 0o777, 0o600, "{path}");
    }
    file.close();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o660)).unwrap();
    drop(file.open());
    assert_eq!(mode(&file.path()) & 0o777, 0o660);
}

#[test]
fn names_that_sqlite_would_not_take_for_files_are_refused_or_are_files() {
    for name in ["", ":memory:"] {
        let error = SqliteStore::open(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("use the store `memory:`"), "{error}");
    }
    let error = SqliteStore::open("file:no/such/folder.db?mode=memory").unwrap_err();
    assert!(error.to_string().contains("folder must exist"), "{error}");
}

#[test]
fn endless_patience_is_no_reason_to_panic() {
    let file = File::new();
    file.close();
    let store = file.options().patience(Duration::MAX).open(file.path()).unwrap();
    finish(&store, "k", "done").unwrap();
}

#[test]
fn another_file_in_the_place_of_the_store_is_noticed() {
    let file = File::new();
    let store = file.sqlite();
    acquire(&*store, "k");
    // As when somebody restores a copy under a running process.
    std::fs::rename(file.path(), file.folder.path().join("away.db")).unwrap();
    drop(file.open());
    let transaction = block_on(store.begin()).unwrap();
    let error = block_on(transaction.with(|it| it.execute_batch("SELECT 1"))).unwrap_err();
    assert!(error.to_string().contains("another file is at"), "{error}");
}

#[test]
fn every_durability_setting_is_on() {
    let file = File::new();
    let store = file.sqlite();
    let pragma = |name| block_on(store.pragma(name)).unwrap();
    assert_eq!(pragma("journal_mode"), "wal");
    assert_eq!(pragma("synchronous"), "2", "FULL");
    assert_eq!(pragma("fullfsync"), "1");
    assert_eq!(pragma("checkpoint_fullfsync"), "1");
}
