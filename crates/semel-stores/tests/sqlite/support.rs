use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use semel::conformance::Harness;
use semel::store::{ClaimRequest, Claimed, Completion};
use semel::{
    BoxFuture, Clock, Effect, Error, Fence, FingerprintKey, Inspect, Key, ManualClock, Nonce,
    OnUnknown, Operation, Outcome, Random, RecordId, Store, SystemRandom, Tenant, Timestamp,
    Verdict,
};
use semel_stores::sqlite::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

/// Runs a future on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A store on a file of its own, on a manual clock.
pub(crate) struct File {
    pub(crate) folder: TempDir,
    pub(crate) clock: ManualClock,
    store: Mutex<Option<Arc<SqliteStore>>>,
}

impl File {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = Self { folder, clock: ManualClock::new(), store: Mutex::new(None) };
        *file.store.lock().unwrap() = Some(Arc::new(file.open()));
        file
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("semel.db")
    }

    pub(crate) fn options(&self) -> SqliteOptions {
        SqliteOptions::default().clock(Arc::new(self.clock.clone()))
    }

    pub(crate) fn open(&self) -> SqliteStore {
        self.options().open(self.path()).unwrap()
    }

    pub(crate) fn sqlite(&self) -> Arc<SqliteStore> {
        self.store.lock().unwrap().clone().expect("the store is open")
    }

    pub(crate) fn close(&self) {
        drop(self.store.lock().unwrap().take());
    }

    /// The file as any other program sees it.
    pub(crate) fn raw(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }
}

impl Harness for File {
    fn store(&self) -> Arc<dyn Store> {
        self.sqlite()
    }

    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        Some(self.sqlite())
    }

    fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(duration);
        Box::pin(async {})
    }

    fn restart(&self) -> BoxFuture<'_, bool> {
        self.close();
        *self.store.lock().unwrap() = Some(Arc::new(self.open()));
        Box::pin(async { true })
    }

    fn wipe(&self) -> BoxFuture<'_, bool> {
        self.close();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        *self.store.lock().unwrap() = Some(Arc::new(self.open()));
        Box::pin(async { true })
    }
}

pub(crate) fn id(key: &str) -> RecordId {
    RecordId {
        tenant: Tenant::single(),
        operation: Operation::new("test").unwrap(),
        key: Key::parse(key).unwrap(),
    }
}

pub(crate) fn request(key: &str) -> ClaimRequest {
    let mut nonce = [0; 16];
    SystemRandom.fill(&mut nonce).unwrap();
    let secret = FingerprintKey::from_secret(b"sixteen bytes or more").unwrap();
    ClaimRequest {
        id: id(key),
        fingerprint: secret.fingerprint().finish(),
        effect: Effect::Foreign(OnUnknown::Retry),
        nonce: Nonce::from_bytes(nonce),
        lease: Duration::from_secs(30),
        lost_leases_max: 3,
        key_age_max: None,
        takeover: None,
    }
}

pub(crate) fn completion(key: &str, fence: Fence, body: &str) -> Completion {
    let outcome = Outcome::json(Verdict::Succeeded, &body).unwrap();
    Completion { id: id(key), fence, outcome, retention: Duration::from_secs(3600) }
}

pub(crate) fn acquire(store: &dyn Store, key: &str) -> Fence {
    match block_on(store.claim(&request(key))).unwrap() {
        Claimed::Acquired { fence, .. } => fence,
        other => panic!("expected Acquired, saw {other:?}"),
    }
}

pub(crate) fn finish(store: &dyn Store, key: &str, body: &str) -> Result<Timestamp, Error> {
    let fence = acquire(store, key);
    block_on(store.complete(&completion(key, fence, body)))
}

/// The stored answer of a key.
pub(crate) fn answer(store: &dyn Store, key: &str) -> String {
    match block_on(store.claim(&request(key))).unwrap() {
        Claimed::Completed { outcome, .. } => outcome.to_json().unwrap(),
        other => panic!("expected Completed, saw {other:?}"),
    }
}

pub(crate) fn now() -> Timestamp {
    semel::SystemClock.now()
}

pub(crate) fn flip(path: &Path, at: u64) {
    use std::io::{Read, Seek, SeekFrom, Write};
    let mut file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0xff]).unwrap();
}

/// Answers of operations that the writer finds together: it cannot begin while they are sent.
pub(crate) fn in_one_group<T>(file: &File, operations: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    in_one_group_of(&file.path(), operations)
}

/// The same for a store at that path.
pub(crate) fn in_one_group_of<T>(path: &Path, mut operations: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let other = rusqlite::Connection::open(path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for operation in &mut operations {
        let sent = operation.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(sent.is_pending(), "nothing is answered without the lock");
    }
    other.execute_batch("ROLLBACK").unwrap();
    operations.into_iter().map(block_on).collect()
}
