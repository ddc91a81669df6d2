use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use semel::conformance::Harness;
use semel::store::{ClaimRequest, Claimed, Completion};
use semel::{
    BoxFuture, Effect, Error, Fence, FingerprintKey, Inspect, Key, Nonce, OnUnknown, Operation,
    Outcome, Random, RecordId, Store, SystemRandom, Tenant, Timestamp, Verdict,
};
use semel_stores::postgres::{PostgresOptions, PostgresStore, migrate};
use semel_testkit::servers::{Postgres, skips};

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// The server that the tests of this program share; `None` where there is none.
pub(crate) fn server() -> Option<&'static Mutex<Postgres>> {
    static SERVER: OnceLock<Option<Mutex<Postgres>>> = OnceLock::new();
    let start = || (!skips(Postgres::missing())).then(|| Mutex::new(Postgres::start().unwrap()));
    SERVER.get_or_init(start).as_ref()
}

pub(crate) fn url() -> Option<String> {
    server().map(|server| server.lock().unwrap().url())
}

/// A name that no other test of this run uses.
pub(crate) fn schema_name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("t{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Time enough for a machine that is busy with other work.
pub(crate) fn patient() -> PostgresOptions {
    let time = Duration::from_secs(30);
    PostgresOptions::default().patience(time * 2).response_timeout(time).connect_timeout(time)
}

/// A store in a schema of its own, on a clock that the test moves.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) schema: String,
    store: Mutex<Arc<PostgresStore>>,
}

impl Place {
    /// `None` where there is no server.
    pub(crate) async fn new() -> Option<Self> {
        Some(Self::at(&url()?, patient()).await)
    }

    pub(crate) async fn at(url: &str, options: PostgresOptions) -> Self {
        let schema = schema_name();
        let options = options.schema(&schema);
        migrate::up(url, options.clone()).await.unwrap();
        let clock = format!(
            "CREATE TABLE {schema}.shift (millis bigint NOT NULL);
             INSERT INTO {schema}.shift VALUES (0);
             CREATE OR REPLACE FUNCTION {schema}.clock() RETURNS bigint LANGUAGE sql VOLATILE AS $$
                 SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint
                     + (SELECT millis FROM {schema}.shift)
             $$"
        );
        sql(url, &clock).await;
        let store = options.connect(url).await.unwrap();
        Self { url: url.to_owned(), schema, store: Mutex::new(Arc::new(store)) }
    }

    pub(crate) fn options(&self) -> PostgresOptions {
        patient().schema(&self.schema)
    }

    pub(crate) async fn open(&self) -> PostgresStore {
        self.options().connect(&self.url).await.unwrap()
    }

    pub(crate) fn postgres(&self) -> Arc<PostgresStore> {
        Arc::clone(&self.store.lock().unwrap())
    }

    pub(crate) async fn sql(&self, statements: &str) {
        sql(&self.url, &statements.replace("semel.", &format!("{}.", self.schema))).await;
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        let client = client(&self.url).await;
        let query = query.replace("semel.", &format!("{}.", self.schema));
        client.query_one(&query, &[]).await.unwrap().get(0)
    }
}

pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    drop(tokio::spawn(connection));
    client
}

pub(crate) async fn sql(url: &str, statements: &str) {
    client(url).await.batch_execute(statements).await.unwrap();
}

impl Harness for Place {
    fn store(&self) -> Arc<dyn Store> {
        self.postgres()
    }

    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        Some(self.postgres())
    }

    fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()> {
        let millis = duration.as_millis();
        Box::pin(async move {
            self.sql(&format!("UPDATE semel.shift SET millis = millis + {millis}")).await;
        })
    }

    fn restart(&self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            let again = Arc::new(self.open().await);
            *self.store.lock().unwrap() = again;
            true
        })
    }

    fn wipe(&self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            let empty = "TRUNCATE semel.open, semel.done, semel.audit";
            self.sql(&format!("{empty}; ALTER SEQUENCE semel.fence RESTART")).await;
            true
        })
    }

    fn unit(&self) -> Duration {
        // Long against a call, although the clock goes on by itself between two moves.
        Duration::from_secs(3600)
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

pub(crate) async fn acquire(store: &dyn Store, key: &str) -> Fence {
    match store.claim(&request(key)).await.unwrap() {
        Claimed::Acquired { fence, .. } => fence,
        other => panic!("expected Acquired, saw {other:?}"),
    }
}

pub(crate) async fn finish(store: &dyn Store, key: &str, body: &str) -> Result<Timestamp, Error> {
    let fence = acquire(store, key).await;
    store.complete(&completion(key, fence, body)).await
}

/// The stored answer of a key.
pub(crate) async fn answer(store: &dyn Store, key: &str) -> String {
    match store.claim(&request(key)).await.unwrap() {
        Claimed::Completed { outcome, .. } => outcome.to_json().unwrap(),
        other => panic!("expected Completed, saw {other:?}"),
    }
}
