use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use semel::conformance::Harness;
use semel::store::{ClaimRequest, Claimed, Completion};
use semel::{
    BoxFuture, Effect, Fence, FingerprintKey, Inspect, Key, Nonce, OnUnknown, Operation, Outcome,
    Random, RecordId, Store, SystemRandom, Tenant, Verdict,
};
use semel_stores::redis::{RedisOptions, RedisStore};
use semel_testkit::servers::{Redis, RedisCluster, skips};

/// Runs a future on a runtime of its own.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// The server that the tests of this program share; `None` where there is none.
pub(crate) fn server() -> Option<MutexGuard<'static, Redis>> {
    static SERVER: OnceLock<Option<Mutex<Redis>>> = OnceLock::new();
    let start = || (!skips(Redis::missing())).then(|| Mutex::new(Redis::start().unwrap()));
    let server = SERVER.get_or_init(start).as_ref()?;
    Some(server.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The cluster that the tests of this program share.
pub(crate) fn cluster() -> Option<MutexGuard<'static, RedisCluster>> {
    static CLUSTER: OnceLock<Option<Mutex<RedisCluster>>> = OnceLock::new();
    let start =
        || (!skips(RedisCluster::missing())).then(|| Mutex::new(RedisCluster::start().unwrap()));
    let cluster = CLUSTER.get_or_init(start).as_ref()?;
    Some(cluster.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn url() -> Option<String> {
    server().map(|server| server.url())
}

/// A prefix that no other test of this run uses.
pub(crate) fn prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("t{}:", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A store under a prefix of its own, on a clock that the test moves.
pub(crate) struct Place {
    /// The store's URL, and those of the servers behind it.
    pub(crate) url: String,
    pub(crate) nodes: Vec<String>,
    pub(crate) prefix: String,
    options: RedisOptions,
    offset: Arc<AtomicI64>,
    store: Mutex<Arc<RedisStore>>,
}

impl Place {
    /// On the shared server; `None` where there is none.
    pub(crate) async fn new() -> Option<Self> {
        let url = url()?;
        Some(Self::at(&url, &[&url], RedisOptions::default()).await)
    }

    /// On the shared cluster.
    pub(crate) async fn in_cluster() -> Option<Self> {
        let (url, nodes) = cluster().map(|cluster| (cluster.url(), cluster.urls()))?;
        let nodes: Vec<_> = nodes.iter().map(String::as_str).collect();
        Some(Self::at(&url, &nodes, RedisOptions::default()).await)
    }

    pub(crate) async fn at(url: &str, nodes: &[&str], options: RedisOptions) -> Self {
        let (prefix, offset) = (prefix(), Arc::<AtomicI64>::default());
        let options = options.prefix(&prefix).clock_offset(Arc::clone(&offset));
        let store = Mutex::new(Arc::new(options.clone().connect(url).await.unwrap()));
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Self { url: url.to_owned(), nodes, prefix, options, offset, store }
    }

    pub(crate) async fn open(&self) -> RedisStore {
        self.options.clone().connect(&self.url).await.unwrap()
    }

    pub(crate) fn redis(&self) -> Arc<RedisStore> {
        Arc::clone(&self.store.lock().unwrap())
    }

    /// A connection as any other program has it.
    pub(crate) async fn raw(&self) -> redis::aio::MultiplexedConnection {
        raw(&self.nodes[0]).await
    }

    /// The names of this place's keys with these beginnings.
    pub(crate) async fn keys(&self, beginning: &str) -> Vec<String> {
        let mut keys = Vec::new();
        for node in &self.nodes {
            let mut command = redis::cmd("KEYS");
            command.arg(format!("{}{beginning}*", self.prefix));
            keys.extend::<Vec<String>>(command.query_async(&mut raw(node).await).await.unwrap());
        }
        keys
    }

    /// How many connections listen for this place's records.
    pub(crate) async fn raw_subscribers(&self) -> i64 {
        let mut command = redis::cmd("PUBSUB");
        command.arg("NUMSUB").arg(format!("{}changed", self.prefix));
        let (_, many): (String, i64) = command.query_async(&mut self.raw().await).await.unwrap();
        many
    }

    /// Waits until somebody waits for one of the records.
    pub(crate) async fn marked_anywhere(&self) {
        loop {
            for node in &self.nodes {
                let mut connection = raw(node).await;
                let mut command = redis::cmd("KEYS");
                command.arg(format!("{}{{s???}}:r:*", self.prefix));
                let keys: Vec<String> = command.query_async(&mut connection).await.unwrap();
                for key in keys {
                    let mut command = redis::cmd("GETRANGE");
                    command.arg(key).arg(6).arg(6);
                    let mark: Vec<u8> = command.query_async(&mut connection).await.unwrap();
                    if mark == [1] {
                        return;
                    }
                }
            }
        }
    }

    /// The only record's name.
    pub(crate) async fn record(&self) -> String {
        let mut keys = self.keys("{s???}:r:").await;
        assert_eq!(keys.len(), 1, "{keys:?}");
        keys.remove(0)
    }
}

pub(crate) async fn raw(url: &str) -> redis::aio::MultiplexedConnection {
    // On a busy machine the default of half a second is too short.
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let client = redis::Client::open(url).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

impl Harness for Place {
    fn store(&self) -> Arc<dyn Store> {
        self.redis()
    }

    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        Some(self.redis())
    }

    fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.offset.fetch_add(i64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
        Box::pin(async {})
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
            for node in &self.nodes {
                let mut connection = raw(node).await;
                let mut command = redis::cmd("KEYS");
                command.arg(format!("{}*", self.prefix));
                let keys: Vec<String> = command.query_async(&mut connection).await.unwrap();
                for key in keys {
                    let mut command = redis::cmd("DEL");
                    let _: i64 = command.arg(key).query_async(&mut connection).await.unwrap();
                }
            }
            self.restart().await
        })
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
    fence_of(store.claim(&request(key)).await.unwrap())
}

pub(crate) fn fence_of(claimed: Claimed) -> Fence {
    match claimed {
        Claimed::Acquired { fence, .. } => fence,
        other => panic!("expected Acquired, saw {other:?}"),
    }
}

pub(crate) async fn finish(store: &dyn Store, key: &str, body: &str) {
    let fence = acquire(store, key).await;
    store.complete(&completion(key, fence, body)).await.unwrap();
}

/// The stored answer of a key.
pub(crate) async fn answer(store: &dyn Store, key: &str) -> String {
    match store.claim(&request(key)).await.unwrap() {
        Claimed::Completed { outcome, .. } => outcome.to_json().unwrap(),
        other => panic!("expected Completed, saw {other:?}"),
    }
}
