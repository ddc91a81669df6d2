use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use semel::{Error, ManualClock, Timestamp};
use semel_kafka::ledger::{Ledger, Move, OutboxTable, Owned, Sighting};
use semel_kafka::log::{Outgoing, TopicPartition};
use semel_kafka::{PostgresLedger, PostgresTransaction, SqliteLedger, SqliteTransaction, Window};
use semel_testkit::servers::{Postgres, skips};
use tokio_postgres::NoTls;

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// A name that nobody else in this run uses.
pub(crate) fn name(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A database with a ledger, and a table `effect` of the handler's.
pub(crate) trait Bench: Send + Sync + Sized + 'static {
    type Ledger: Ledger<Transaction = Self::Transaction> + OutboxTable;
    type Transaction: Send + 'static;

    fn ledger(&self) -> Arc<Self::Ledger>;

    /// The ledger of another process.
    fn other(&self) -> Arc<Self::Ledger>;

    /// Some time passes for the ids of this group.
    fn elapse(&self, group: &str, duration: Duration) -> impl Future<Output = ()> + Send;

    /// Runs a statement as a handler would.
    fn sql(
        transaction: &mut Self::Transaction,
        sql: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    fn enqueue(
        transaction: &mut Self::Transaction,
        outbox: &str,
        record: &Outgoing,
    ) -> impl Future<Output = String> + Send;

    fn number(&self, query: &str) -> impl Future<Output = i64> + Send;

    /// Completes when somebody waits for a lock, where that can be seen.
    fn somebody_waits(&self) -> impl Future<Output = ()> + Send;

    async fn effects(&self, name: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM effect WHERE name = '{name}'")).await
    }
}

pub(crate) struct OnSqlite {
    folder: tempfile::TempDir,
    clock: ManualClock,
    ledger: Arc<SqliteLedger>,
}

impl OnSqlite {
    pub(crate) fn new() -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
        let path = folder.path().join("ledger.db");
        let patience = Duration::from_secs(60);
        let ledger = SqliteLedger::open_with(&path, patience, Arc::new(clock.clone())).unwrap();
        let shop = rusqlite::Connection::open(&path).unwrap();
        shop.execute_batch("CREATE TABLE effect (name TEXT NOT NULL)").unwrap();
        Self { folder, clock, ledger: Arc::new(ledger) }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("ledger.db")
    }
}

impl Bench for OnSqlite {
    type Ledger = SqliteLedger;
    type Transaction = SqliteTransaction;

    fn ledger(&self) -> Arc<SqliteLedger> {
        Arc::clone(&self.ledger)
    }

    fn other(&self) -> Arc<SqliteLedger> {
        let clock = Arc::new(self.clock.clone());
        Arc::new(SqliteLedger::open_with(self.path(), Duration::from_secs(60), clock).unwrap())
    }

    async fn elapse(&self, _: &str, duration: Duration) {
        self.clock.advance(duration);
    }

    async fn sql(transaction: &mut SqliteTransaction, sql: &str) -> Result<(), Error> {
        let sql = sql.to_owned();
        transaction.with(move |connection| connection.execute_batch(&sql)).await
    }

    async fn enqueue(
        transaction: &mut SqliteTransaction,
        outbox: &str,
        record: &Outgoing,
    ) -> String {
        let (outbox, record) = (outbox.to_owned(), record.clone());
        let put = move |connection: &rusqlite::Connection| {
            Ok(SqliteLedger::enqueue(connection, &outbox, &record).unwrap())
        };
        transaction.with(put).await.unwrap()
    }

    async fn number(&self, query: &str) -> i64 {
        let query = query.replace("semel_kafka.", "semel_kafka_");
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        connection.query_row(&query, (), |row| row.get(0)).unwrap()
    }

    async fn somebody_waits(&self) {}
}

pub(crate) struct OnPostgres {
    pub(crate) ledger: Arc<PostgresLedger>,
    pub(crate) pool: Pool,
    pub(crate) url: String,
}

/// The server that the tests of this program share; `None` where there is none.
pub(crate) fn server() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    let start = || {
        if skips(Postgres::missing()) {
            return None;
        }
        let server = Postgres::start().unwrap();
        server.sql("CREATE TABLE effect (name text NOT NULL)").unwrap();
        Some(server)
    };
    SERVER.get_or_init(start).as_ref()
}

pub(crate) fn pool(url: &str, size: usize) -> Pool {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(url.parse().unwrap(), NoTls, recycling);
    Pool::builder(manager).max_size(size).build().unwrap()
}

/// Patient enough for a machine that is busy with other work.
pub(crate) fn patient(pool: Pool) -> PostgresLedger {
    PostgresLedger::new(pool).response_timeout(Duration::from_secs(60))
}

impl OnPostgres {
    /// `None` where there is no server.
    pub(crate) async fn new() -> Option<Self> {
        let url = server()?.url();
        let pool = pool(&url, 12);
        let ledger = Arc::new(patient(pool.clone()));
        ledger.migrate().await.unwrap();
        Some(Self { ledger, pool, url })
    }
}

impl OnPostgres {
    /// A ledger whose sessions are known to the server under this name.
    pub(crate) fn named(&self, name: &str) -> PostgresLedger {
        patient(pool(&format!("{}?application_name={name}", self.url), 2))
    }

    /// Completes when a session of this name waits for a lock.
    pub(crate) async fn waits(&self, name: &str) {
        let waits = format!(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE application_name = '{name}' AND wait_event_type = 'Lock'"
        );
        while self.number(&waits).await == 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Bench for OnPostgres {
    type Ledger = PostgresLedger;
    type Transaction = PostgresTransaction;

    fn ledger(&self) -> Arc<PostgresLedger> {
        Arc::clone(&self.ledger)
    }

    fn other(&self) -> Arc<PostgresLedger> {
        Arc::new(patient(pool(&self.url, 12)))
    }

    /// The server's clock goes on by itself, so the past is moved instead.
    async fn elapse(&self, group: &str, duration: Duration) {
        let client = self.pool.get().await.unwrap();
        let millis = duration.as_millis();
        let update =
            format!("UPDATE semel_kafka.seen SET at = at - {millis} WHERE grp = '{group}'");
        client.batch_execute(&update).await.unwrap();
    }

    async fn sql(transaction: &mut PostgresTransaction, sql: &str) -> Result<(), Error> {
        let done = transaction.batch_execute(sql).await;
        done.map_err(|error| Error::new(semel::ErrorKind::Unavailable, error.to_string()))
    }

    async fn enqueue(
        transaction: &mut PostgresTransaction,
        outbox: &str,
        record: &Outgoing,
    ) -> String {
        PostgresLedger::enqueue(&**transaction, outbox, record).await.unwrap()
    }

    async fn number(&self, query: &str) -> i64 {
        let client = self.pool.get().await.unwrap();
        client.query_one(query, &[]).await.unwrap().get(0)
    }

    async fn somebody_waits(&self) {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while self.number(waits).await == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Makes a test on each database out of each function that is generic over it.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[test]
            fn $test() {
                use crate::support::{OnSqlite, block_on};
                block_on(async { super::$test(&OnSqlite::new()).await });
            })*
        }

        mod on_postgres {
            $(#[test]
            fn $test() {
                use crate::support::{OnPostgres, block_on};
                block_on(async {
                    let Some(bench) = OnPostgres::new().await else { return };
                    super::$test(&bench).await;
                });
            })*
        }
    };
}
pub(crate) use on_both;

pub(crate) fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("orders", number)
}

pub(crate) fn sighting(id: &str, number: i32, millis: Option<u64>) -> Sighting {
    let timestamp = millis.map(Timestamp::from_millis);
    Sighting { id: id.to_owned(), partition: partition(number), timestamp }
}

pub(crate) async fn take(ledger: &impl Ledger, group: &str, numbers: &[i32]) -> Vec<Owned> {
    let partitions: Vec<_> = numbers.iter().map(|number| partition(*number)).collect();
    ledger.take(group, &partitions).await.unwrap()
}

pub(crate) fn to(owned: &Owned, next: i64) -> Move {
    Move { owned: owned.clone(), next }
}

/// Remembers ids in a transaction of their own.
pub(crate) async fn remember<L: Ledger>(
    ledger: &L,
    group: &str,
    window: &Window,
    sightings: &[Sighting],
) -> Vec<bool> {
    let mut transaction = ledger.begin().await.unwrap();
    let is_new = ledger.remember(&mut transaction, group, window, sightings).await.unwrap();
    ledger.commit(transaction).await.unwrap();
    is_new
}

/// The same for some ids of the first partition, without times.
pub(crate) async fn see<L: Ledger>(
    ledger: &L,
    group: &str,
    window: &Window,
    ids: &[&str],
) -> Vec<bool> {
    let sightings: Vec<_> = ids.iter().map(|id| sighting(id, 0, None)).collect();
    remember(ledger, group, window, &sightings).await
}
