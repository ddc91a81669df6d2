//! Records in a SQLite file: the embedded store.
//!
//! # What it guarantees
//!
//! 1. An answered completion is on the disk: WAL with `synchronous=FULL`, and callers are answered
//!    after the commit.
//! 2. Every operation is one atomic step of [`semel::protocol`] inside a transaction.
//! 3. Several processes on one machine may share the file; the counter, the records and the
//!    secret are theirs together.
//! 4. A failed commit fails every operation of its group and changes nothing. The store goes on
//!    by itself when the cause is gone.
//! 5. Completion can join a transaction of the caller's on the same file
//!    ([`SqliteStore::complete_in`], [`SqliteTransaction`]): record and business rows exist
//!    together or not at all.
//!
//! # How it is fast
//!
//! A disk can sync a few thousand times a second, whoever asks. One thread writes: it takes
//! everything that is waiting (up to [`SqliteOptions::group_max`]), runs it in one transaction and
//! answers everybody after the one commit. Groups form by themselves while the disk is busy;
//! nobody waits for a group to fill. A group that changes nothing (replays, refusals) is not
//! synced at all.
//!
//! Connections of one store take turns to write, in the order in which they ask; between
//! processes SQLite's lock decides. Claims that change nothing are answered without the lock when
//! a caller's transaction holds it.
//!
//! # What it is not for
//!
//! The file must be on a local disk: SQLite's locks do not work on network file systems. All
//! tables start with `semel_`, so the file may be the application's own database.
//!
//! ```
//! use semel::Store;
//! use semel_stores::sqlite::SqliteStore;
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("semel.db");
//! let store = SqliteStore::open(&path)?;
//! assert!(store.capabilities().durable);
//!
//! let error = SqliteStore::open("/no/such/folder/semel.db").unwrap_err();
//! assert!(error.to_string().contains("folder must exist"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod connection;
mod fault;
mod inspect;
mod lock;
mod operation;
mod row;
mod seat;
mod transaction;
mod worker;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use rusqlite::Connection;
use semel::protocol::{self, Change};
use semel::store::{
    AuditEntry, ClaimRequest, Claimed, Completion, Counts, Filter, Release, Renewal, Summary,
};
use semel::{
    BoxFuture, Capabilities, Clock, Error, ErrorKind, Inspect, Record, RecordId, Store,
    SystemClock, Timestamp,
};

pub use transaction::{SqliteTransaction, SqliteTransactionError};

use self::fault::Fault;
use self::lock::Lock;
use self::operation::{Answer, Request};
use self::seat::Place;
use self::transaction::Pool;
use self::worker::Worker;
use self::writer::{Job, Writer, WriterSettings};

/// How a [`SqliteStore`] is opened. Every number is a bound.
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteOptions {
    create: bool,
    patience: Duration,
    group_max: usize,
    queue_max: usize,
    transactions_max: usize,
    clock: Arc<dyn Clock>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            create: true,
            patience: Duration::from_secs(5),
            group_max: 512,
            queue_max: 4096,
            transactions_max: 16,
            clock: Arc::new(SystemClock),
        }
    }
}

impl SqliteOptions {
    /// Whether a missing file or missing tables are made. Default: yes. Looking into a store
    /// should not make one.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How long to wait for another writer of the file, for a place in the queue, or for a free
    /// transaction. Default 5 s; at most an hour, because whoever waits longer has hung.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(Duration::from_secs(3600));
        self
    }

    /// The most operations in one commit. Default 512: far beyond it the latency of a group grows
    /// while its share of the sync hardly shrinks. 1 commits every operation by itself.
    pub fn group_max(mut self, group_max: usize) -> Self {
        self.group_max = group_max.max(1);
        self
    }

    /// The most operations that wait for the writer. Default 4096. Callers beyond it wait up to
    /// `patience` and then get [`ErrorKind::Unavailable`].
    pub fn queue_max(mut self, queue_max: usize) -> Self {
        self.queue_max = queue_max.max(1);
        self
    }

    /// The most transactions of callers that are open at once; each has a thread and a connection.
    /// Default 16: SQLite has one writer, so more of them only wait for each other.
    pub fn transactions_max(mut self, transactions_max: usize) -> Self {
        self.transactions_max = transactions_max.max(1);
        self
    }

    /// Decides about leases and retention with this clock instead of the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the file cannot be opened, made or written,
    /// [`ErrorKind::Corrupt`] when it is no database or damaged, [`ErrorKind::TooNew`] when a
    /// newer version wrote it, [`ErrorKind::Invalid`] when it holds no records and none may be
    /// made.
    pub fn open(self, path: impl AsRef<Path>) -> Result<SqliteStore, Error> {
        SqliteStore::open_with(path.as_ref(), self)
    }
}

/// The embedded store. See the [module's page](self).
///
/// Dropping it finishes what is queued and ends its threads.
pub struct SqliteStore {
    path: PathBuf,
    secret: [u8; 32],
    options: SqliteOptions,
    lock: Arc<Lock>,
    reader: Worker<Connection>,
    transactions: Pool,
    writer: Writer,
}

impl SqliteStore {
    /// Opens or makes the store with the default options.
    ///
    /// # Errors
    /// As [`SqliteOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        SqliteOptions::default().open(path)
    }

    fn open_with(path: &Path, options: SqliteOptions) -> Result<Self, Error> {
        let path = connection::resolve(path)?;
        let (writing, secret) = connection::open(&path, options.create, options.patience)?;
        let reading = connection::reopen(&path, &secret, options.patience)?;
        let lock = Arc::<Lock>::default();
        let (patience, file) = (options.patience, seat::file_at(&path));
        let place = Place { path, secret, patience, lock: Arc::clone(&lock), file };
        let settings = WriterSettings {
            place: place.clone(),
            clock: Arc::clone(&options.clock),
            group_max: options.group_max,
            queue_max: options.queue_max,
        };
        let clock = Arc::clone(&options.clock);
        Ok(Self {
            path: place.path.clone(),
            secret,
            lock,
            reader: Worker::start("semel-sqlite-read", reading, options.queue_max)?,
            transactions: Pool::new(place, clock, options.transactions_max),
            writer: Writer::start(writing, settings)?,
            options,
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A random secret that was made with the file; all processes on it share it. For
    /// [`semel::FingerprintKey::from_secret`].
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The version of the tables in the file.
    #[must_use]
    pub fn schema_version(&self) -> i64 {
        connection::SCHEMA_VERSION
    }

    /// What the file says about a setting of SQLite (`journal_mode`, `synchronous`, …), for
    /// diagnosis.
    ///
    /// # Errors
    /// Those of the store; [`ErrorKind::Invalid`] for a name that is not made of letters and `_`.
    pub async fn pragma(&self, name: &str) -> Result<String, Error> {
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            let message = "a pragma's name is made of lower-case letters and `_`";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let name = name.to_owned();
        self.read(move |connection, _| {
            let value = connection.pragma_query_value(None, &name, |row| {
                row.get_ref(0).map(|value| match value {
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    other => other.as_str().unwrap_or_default().to_owned(),
                })
            })?;
            Ok(value)
        })
        .await
    }

    async fn ask(&self, request: Request) -> Result<Answer, Error> {
        let gone = || Error::new(ErrorKind::Unavailable, "the store's writer is gone");
        let (reply, answer) = oneshot::channel();
        let queue = self.writer.queue().ok_or_else(gone)?;
        if let Err(full) = queue.try_send(Job { request, reply }) {
            self.wait_for_place(full.into_inner()).await?;
        }
        // Lost only when the writer died while it worked on it.
        answer.await.map_err(|_| gone().with_outcome_unknown())?
    }

    /// The queue is full: wait, but not for ever.
    async fn wait_for_place(&self, job: Job) -> Result<(), Error> {
        let Some(queue) = self.writer.queue() else {
            return Err(Error::new(ErrorKind::Unavailable, "the store's writer is gone"));
        };
        let (mut send, mut late) =
            (std::pin::pin!(queue.send(job)), self.options.clock.sleep(self.options.patience));
        std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(sent) = send.as_mut().poll(context) {
                let gone = "the store's writer is gone";
                return std::task::Poll::Ready(
                    sent.map_err(|_| Error::new(ErrorKind::Unavailable, gone)),
                );
            }
            late.as_mut().poll(context).map(|()| {
                let message = format!(
                    "the store {} is overloaded: `queue_max` ({}) operations wait for its disk",
                    self.path.display(),
                    self.options.queue_max
                );
                Err(Error::new(ErrorKind::Unavailable, message))
            })
        })
        .await
    }

    /// The answer to a claim that changes nothing: a replay, a refusal, "in flight". It needs no
    /// write lock, so it must not wait for a handler whose transaction holds it.
    async fn look(&self, request: &ClaimRequest) -> Result<Option<Claimed>, Error> {
        let request = request.clone();
        self.read(move |connection, now| {
            let record = row::read(connection, &request.id)?;
            // The counter goes nowhere: a claim that takes one changes the record.
            let (claimed, change) = protocol::claim(record, &request, now, || 0);
            Ok((change == Change::Keep).then_some(claimed))
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, Timestamp) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let now = self.options.clock.now();
        let answer = self.reader.run(move |connection| work(connection, now)).await?;
        answer.map_err(|fault| fault.into_error(&self.path))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The writer answers each kind of request with its own kind of answer.
fn mixed_up() -> Error {
    Error::new(ErrorKind::Corrupt, "the store's writer gave an answer of another kind")
}

impl Store for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::none().durable().shared().transactional()
    }

    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        Box::pin(async move {
            if self.lock.is_slow()
                && let Some(claimed) = self.look(request).await?
            {
                return Ok(claimed);
            }
            match self.ask(Request::Claim(request.clone())).await? {
                Answer::Claimed(claimed) => Ok(claimed),
                _ => Err(mixed_up()),
            }
        })
    }

    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(async move {
            match self.ask(Request::Renew(request.clone())).await? {
                Answer::Until(until) => Ok(until),
                _ => Err(mixed_up()),
            }
        })
    }

    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(async move {
            match self.ask(Request::Complete(request.clone())).await? {
                Answer::Until(until) => Ok(until),
                _ => Err(mixed_up()),
            }
        })
    }

    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            match self.ask(Request::Release(request.clone())).await? {
                Answer::Done => Ok(()),
                _ => Err(mixed_up()),
            }
        })
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        let id = id.clone();
        Box::pin(self.read(move |connection, now| {
            let record = row::read(connection, &id)?;
            Ok(record.filter(|record| !protocol::is_expired(record, now)))
        }))
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async move {
            match self.ask(Request::Sweep(limit)).await? {
                Answer::Swept(swept) => Ok(swept),
                _ => Err(mixed_up()),
            }
        })
    }
}

impl Inspect for SqliteStore {
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a RecordId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Summary>, Error>> {
        let (filter, after) = (filter.clone(), after.cloned());
        Box::pin(self.read(move |connection, now| {
            inspect::list(connection, &filter, after.as_ref(), limit, now)
        }))
    }

    fn count(&self) -> BoxFuture<'_, Result<Counts, Error>> {
        Box::pin(self.read(inspect::count))
    }

    fn audit<'a>(
        &'a self,
        id: &'a RecordId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEntry>, Error>> {
        let id = id.clone();
        Box::pin(self.read(move |connection, _| inspect::audit(connection, &id, limit)))
    }

    fn decisions<'a>(
        &'a self,
        key: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordId, AuditEntry)>, Error>> {
        let key = key.to_owned();
        Box::pin(self.read(move |connection, _| inspect::decisions(connection, &key, limit)))
    }
}
