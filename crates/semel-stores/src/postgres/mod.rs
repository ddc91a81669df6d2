//! Records in PostgreSQL (14 or newer).
//!
//! # What it guarantees
//!
//! 1. An answered completion is as durable as a commit of the server: with `fsync` and
//!    `synchronous_commit` on, as PostgreSQL is delivered, it survives a crash of the machine.
//! 2. Every operation is one atomic step of [`semel::protocol`]. A claim is unique because of a
//!    primary key, every later write is a compare-and-set on the fence. READ COMMITTED is enough;
//!    nothing rests on SERIALIZABLE.
//! 3. A claim, renewal or completion whose answer was lost is sent again and means the same.
//! 4. Completion can join a transaction of the caller's, made with tokio-postgres
//!    ([`PostgresStore::complete_in`], [`PostgresTransaction`]) or sqlx (feature `sqlx`): record
//!    and business rows exist together or not at all. A commit whose reply is lost is decided by
//!    locking the record's row: the server releases that lock only once the transaction has ended.
//! 5. Nothing waits for ever: an operation ends within twice [`PostgresOptions::patience`], a
//!    commit whose reply is lost within four times.
//!
//! # How it is fast
//!
//! A claim and a completion are one round trip each, and a replay is one. While a connection is
//! free they go out at once; what arrives while all are busy goes together, in one transaction
//! with one commit.
//!
//! # How it forgets
//!
//! Finished records are in partitions by the end of their retention. [`Store::sweep`] drops those
//! in which everything has expired: no DELETE, no vacuum. A partition spans 6 hours for retentions
//! up to a day, 8 days up to 32 days, 92 days beyond; expired records count as absent at once, and
//! their space comes back with their partition.
//!
//! # What it needs
//!
//! Tables and functions in a schema of their own (`semel`), made by [`migrate`]. A pgbouncer may
//! stand in between; one that pools transactions must be named (`pooler=transaction`), because
//! prepared statements, settings and notifications need a session.
//!
//! # URL
//!
//! `postgres://USER:PASSWORD@HOST:PORT[,HOST:PORT…]/DATABASE?…` with the parameters of
//! [`tokio_postgres::Config`] (`target_session_attrs=read-write` finds the primary among several
//! hosts) and
//!
//! | parameter | meaning | default |
//! |---|---|---|
//! | `schema` | where the tables are | `semel` |
//! | `pool` | connections for the store's own calls, 2 to 1000 | 8 |
//! | `pooler` | `transaction` behind a pooler of transactions | `none` |
//! | `patience`, `response_timeout` | as the options, `500ms` or `5s` | 5s, 2s |
//! | `batch_max`, `queue_max`, `transactions_max` | as the options | 512, 4096, 16 |
//! | `sslmode` | `disable`, `prefer`, `require`, `verify-full` | `prefer` |
//! | `sslrootcert` | PEM file of the authorities to trust; verifies in every mode | the system's |

mod address;
mod batch;
mod fault;
mod foreign;
mod inspect;
mod link;
mod listen;
pub mod migrate;
mod partitions;
mod row;
mod schema;
mod single;
#[cfg(feature = "sqlx")]
mod sqlx;
mod step;
mod tls;
mod transaction;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use semel::store::{
    AuditEntry, ClaimRequest, Claimed, Completion, Counts, Filter, Release, Renewal, Summary,
};
use semel::{
    BoxFuture, Capabilities, Clock, Error, ErrorKind, Fence, Inspect, Record, RecordId, Store,
    SystemClock, Timestamp,
};

pub use foreign::CompletionStatement;
pub use inspect::Facts;
pub use transaction::PostgresTransaction;

use self::address::Address;
use self::batch::{Batches, Finished, Looked};
use self::link::{Link, within};
use self::listen::Listener;
use self::schema::Schema;
use crate::coalesce::Bounds;

/// After so many rounds in which somebody else was writing the row, a claim is told "in flight".
const ROUNDS_MAX: u32 = 4;

/// Settings of our sessions. The plans are the same for every batch, and always go by an index:
/// a table that was small when a plan was made may have grown.
const SESSION: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off \
                       -c lock_timeout=1s -c default_transaction_isolation=read\\ committed";

/// What a claim hears about the lease of a record that is being written.
const MOMENT: Duration = Duration::from_millis(50);

/// How a [`PostgresStore`] is opened. Every number is a bound.
#[derive(Clone, Debug)]
#[must_use]
pub struct PostgresOptions {
    batch_max: usize,
    connect_timeout: Duration,
    patience: Duration,
    pool: usize,
    queue_max: usize,
    response_timeout: Duration,
    schema: String,
    pooler: bool,
    transactions_max: usize,
    clock: Arc<dyn Clock>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            batch_max: 512,
            connect_timeout: Duration::from_secs(2),
            patience: Duration::from_secs(5),
            pool: 8,
            queue_max: 4096,
            response_timeout: Duration::from_secs(2),
            schema: "semel".to_owned(),
            pooler: false,
            transactions_max: 16,
            clock: Arc::new(SystemClock),
        }
    }
}

impl PostgresOptions {
    /// The most operations in one call. Default 512; 1 sends every operation by itself.
    pub fn batch_max(mut self, batch_max: usize) -> Self {
        self.batch_max = batch_max.clamp(1, 10_000);
        self
    }

    /// How long one attempt to connect may take. Default 2 s.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// How long an operation may take with all its attempts. Default 5 s, at most an hour.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(Duration::from_secs(3600));
        self
    }

    /// Connections for the store's own calls, 2 to 1000. Default 8. More than the server has cores
    /// and disks hardly helps: what does not fit goes into batches.
    pub fn pool(mut self, pool: usize) -> Self {
        self.pool = pool.clamp(2, 1000);
        self
    }

    /// The most operations that wait for a connection. Default 4096; more are refused with
    /// [`ErrorKind::Unavailable`].
    pub fn queue_max(mut self, queue_max: usize) -> Self {
        self.queue_max = queue_max.max(1);
        self
    }

    /// How long one call may stay unanswered before its connection is given up and it is sent
    /// again. Default 2 s.
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.response_timeout = response_timeout;
        self
    }

    /// The schema of the tables, 1 to 40 of `a-z`, `0-9` and `_`. Default `semel`.
    pub fn schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.schema);
        self
    }

    /// Whether a pooler stands in between that hands out another connection for every transaction
    /// (pgbouncer with `pool_mode=transaction`). Default: no. Behind one, statements are planned
    /// anew each time, and waiters look again and again, because notifications need a session.
    pub fn transaction_pooler(mut self, transaction_pooler: bool) -> Self {
        self.pooler = transaction_pooler;
        self
    }

    /// The most transactions of [`semel::TransactionalStore::begin`] that are open at once; each
    /// has a connection beyond `pool`. Default 16.
    pub fn transactions_max(mut self, transactions_max: usize) -> Self {
        self.transactions_max = transactions_max.max(1);
        self
    }

    /// Paces retries and time-outs with this clock instead of the machine's. Leases and retention
    /// are decided by the server's clock in any case.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Connects. Parameters of the URL go before these options.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a wrong URL, [`ErrorKind::TooNew`] for tables of a newer version,
    /// [`ErrorKind::Unavailable`] when the server cannot be reached, refuses us, or lacks the
    /// tables, [`ErrorKind::Settings`] outside a tokio runtime.
    pub async fn connect(self, url: &str) -> Result<PostgresStore, Error> {
        PostgresStore::connect_with(url, self).await
    }

    pub(self) fn link(mut self, url: &str) -> Result<(Self, Address, Arc<Link>), Error> {
        let address = Address::parse(url)?;
        let own = &address.own;
        self.schema = own.schema.clone().unwrap_or(self.schema);
        self.pooler = own.pooler.unwrap_or(self.pooler);
        self.pool = own.pool.unwrap_or(self.pool);
        self.batch_max = own.batch_max.unwrap_or(self.batch_max);
        self.queue_max = own.queue_max.unwrap_or(self.queue_max);
        self.transactions_max = own.transactions_max.unwrap_or(self.transactions_max);
        self.patience = own.patience.unwrap_or(self.patience);
        self.response_timeout = own.response_timeout.unwrap_or(self.response_timeout);
        let link = self.link_to(&address, self.pool)?;
        Ok((self, address, link))
    }

    fn link_to(&self, address: &Address, size: usize) -> Result<Arc<Link>, Error> {
        let mut config = address.config.clone();
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(self.connect_timeout);
        }
        if !self.pooler {
            let given = config.get_options().unwrap_or_default();
            config.options(format!("{given} {SESSION}"));
        }
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config, tls::connector(&address.trust)?, recycling);
        // Before `patience` is over, so that the error can say what was waited for.
        let wait = Some(self.response_timeout.min(self.patience / 2));
        let make = Some(self.connect_timeout);
        let timeouts = Timeouts { wait, create: make, recycle: make };
        let pool = Pool::builder(manager)
            .max_size(size)
            // The server keeps plans for each connection: the one used last is the quickest.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .timeouts(timeouts)
            .build()
            .map_err(|error| Error::new(ErrorKind::Settings, error.to_string()))?;
        Ok(Arc::new(Link {
            pool,
            clock: Arc::clone(&self.clock),
            schema: Schema::new(&self.schema)?,
            partitions: partitions::Partitions::default(),
            place: address.place.clone(),
            is_direct: !self.pooler,
            response_timeout: self.response_timeout,
            patience: self.patience,
        }))
    }
}

/// Says whether a URL is one of this store, without connecting.
///
/// # Errors
/// [`ErrorKind::Invalid`] names what is wrong with it, never its password.
pub(crate) fn check_url(url: &str) -> Result<(), Error> {
    PostgresOptions::default().link(url).map(drop)
}

/// Records in PostgreSQL. See the [module's page](self).
///
/// All methods must be called inside a tokio runtime.
pub struct PostgresStore {
    link: Arc<Link>,
    batches: Batches,
    transactions: Arc<Link>,
    listener: Option<Listener>,
    secret: [u8; 32],
}

impl PostgresStore {
    /// Connects with the default options.
    ///
    /// # Errors
    /// As [`PostgresOptions::connect`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        PostgresOptions::default().connect(url).await
    }

    async fn connect_with(url: &str, options: PostgresOptions) -> Result<Self, Error> {
        let (options, address, link) = options.link(url)?;
        in_runtime()?;
        migrate::check(&link).await?;
        let secret = inspect::secret(&link).await?;
        // Claims and completions each have a part of the pool, so that neither starves the other;
        // the rest is for what is done alone.
        // One lane each of eight connections: larger batches cost the server less than more
        // connections gain, measured up to 256 callers.
        let lanes = (options.pool / 8).max(1);
        let (batch_max, queue_max) = (options.batch_max, options.queue_max);
        let batches = Batches::new(&link, Bounds { lanes, batch_max, queue_max, gathers: false });
        let transactions = options.link_to(&address, options.transactions_max)?;
        let listener = (!options.pooler).then(|| Listener::new(address, Arc::clone(&link)));
        Ok(Self { link, batches, transactions, listener, secret })
    }

    /// A random secret that was made with the tables; all programs on them share it. For
    /// [`semel::FingerprintKey::from_secret`].
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// `host:port/database` of the store, without secrets.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.link.place
    }

    /// An operation with an end: also the wait in a queue counts.
    async fn bounded<T>(
        &self,
        is_effect: bool,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        // The attempts inside have `patience`, and end with a better word than this one.
        let bound = self.link.patience.saturating_mul(2);
        within(&*self.link.clock, bound, operation).await.unwrap_or_else(|| {
            let error = fault::Fault::Silent.into_error(&self.link.place);
            Err(if is_effect { error.with_outcome_unknown() } else { error })
        })
    }

    async fn claim_now(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let mut round = 0;
        loop {
            let found = match self.batches.claims.submit(request.clone()).await? {
                Looked::There(found) => *found,
                Looked::Fresh { counter, now } => {
                    let fence = Fence { counter, nonce: request.nonce };
                    let lease_until = now.after(request.lease);
                    let (steps, attempts) = (Vec::new(), 1);
                    return Ok(Claimed::Acquired { fence, lease_until, steps, attempts });
                }
            };
            let is_taken = found.record.is_some();
            match self.link.decide(request, found).await {
                Ok(Some(claimed)) => return Ok(claimed),
                // Somebody is writing the record at this moment.
                Ok(None) if round >= ROUNDS_MAX && is_taken => {
                    return Ok(Claimed::InFlight { lease_left: MOMENT });
                }
                Ok(None) => {}
                Err(fault) if fault.is_passing() => {}
                Err(fault) => return Err(fault.into_error(&self.link.place)),
            }
            round += 1;
            self.link.pause(round).await;
        }
    }
}

/// Connections live on tokio's timers and input.
fn in_runtime() -> Result<(), Error> {
    tokio::runtime::Handle::try_current().map(drop).map_err(|_| {
        let message = "a PostgreSQL store is opened inside a tokio runtime; none is running here";
        Error::new(ErrorKind::Settings, message)
    })
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.link.place).finish_non_exhaustive()
    }
}

impl Store for PostgresStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::none().durable().shared().transactional().native_expiry()
    }

    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        Box::pin(self.bounded(false, self.claim_now(request)))
    }

    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        let link = &*self.link;
        Box::pin(self.bounded(true, async move {
            if request.step.is_none()
                && let Some(until) = self.batches.renewals.submit(request.clone()).await?
            {
                return Ok(until);
            }
            link.patiently(true, || link.renew_alone(request)).await
        }))
    }

    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        let link = &*self.link;
        Box::pin(self.bounded(true, async move {
            let finished = Finished::from(request);
            match self.batches.completions.submit(finished).await? {
                Some(expires_at) => Ok(expires_at),
                None => link.patiently(true, || link.complete_alone(request)).await,
            }
        }))
    }

    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        let link = &*self.link;
        Box::pin(self.bounded(true, async move {
            let has_tried = AtomicBool::new(false);
            link.patiently(true, || link.release_alone(request, &has_tried)).await
        }))
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        Box::pin(async move {
            self.link.patiently(false, async || Ok(self.link.look(id).await?.record)).await
        })
    }

    /// Drops partitions in which everything has expired, whatever `limit` says, and returns about
    /// how many records they held. Records in other partitions are left for later.
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        let _ = limit;
        Box::pin(self.bounded(false, inspect::forget(&self.link)))
    }

    fn changed<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, ()> {
        match &self.listener {
            None => Box::pin(std::future::pending()),
            Some(listener) => Box::pin(listener.changed(id)),
        }
    }
}

impl Inspect for PostgresStore {
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a RecordId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Summary>, Error>> {
        let link = &*self.link;
        Box::pin(async move {
            link.patiently(false, || inspect::list(link, filter, after, limit)).await
        })
    }

    fn count(&self) -> BoxFuture<'_, Result<Counts, Error>> {
        let link = &*self.link;
        Box::pin(async move { link.patiently(false, || inspect::count(link)).await })
    }

    fn audit<'a>(
        &'a self,
        id: &'a RecordId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEntry>, Error>> {
        let link = &*self.link;
        Box::pin(async move { link.patiently(false, || inspect::audit(link, id, limit)).await })
    }

    fn decisions<'a>(
        &'a self,
        key: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordId, AuditEntry)>, Error>> {
        let link = &*self.link;
        Box::pin(
            async move { link.patiently(false, || inspect::decisions(link, key, limit)).await },
        )
    }
}
