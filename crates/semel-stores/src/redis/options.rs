//! How a store is opened.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use semel::{Clock, Error, SystemClock};

use super::address::Address;
use super::link::Link;
use super::meta::Meta;
use super::names::Names;
use super::{RedisFacts, RedisStore};

/// How a [`RedisStore`] is opened. Every number is a bound.
#[derive(Clone, Debug)]
#[must_use]
pub struct RedisOptions {
    pub(super) prefix: String,
    pub(super) create: bool,
    pub(super) allow_eviction: bool,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) patience: Duration,
    pub(super) batch_max: usize,
    pub(super) batches_in_flight: usize,
    pub(super) queue_max: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) clock_offset: Arc<AtomicI64>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: "semel:".to_owned(),
            create: true,
            allow_eviction: false,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(2),
            patience: Duration::from_secs(5),
            batch_max: 128,
            batches_in_flight: 2,
            queue_max: 4096,
            clock: Arc::new(SystemClock),
            clock_offset: Arc::default(),
        }
    }
}

impl RedisOptions {
    /// What the names of all keys start with. Default `semel:`. Two applications on one server
    /// that must not share records take two prefixes. 1 to 64 of letters, digits and `: . _ / -`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Whether a server without records is made ready for them. Default: yes. Looking into a
    /// store should not make one.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Accepts a server that may evict records when its memory is full. Default: no. An evicted
    /// record is a forgotten operation, and its retry runs again.
    pub fn allow_eviction(mut self, allow_eviction: bool) -> Self {
        self.allow_eviction = allow_eviction;
        self
    }

    /// How long one attempt to connect may take, TLS and login included. Default 1 s.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// How long the server may take to answer. Default 2 s. A call that takes longer is sent
    /// again on a new connection.
    pub fn response_timeout(mut self, response_timeout: Duration) -> Self {
        self.response_timeout = response_timeout;
        self
    }

    /// How long an operation is tried again when the server is gone, starting or failing over.
    /// Default 5 s, at most an hour; zero tries once. No attempt begins after it, so an operation
    /// ends at the latest two times `connect_timeout` and `response_timeout` later.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(Duration::from_secs(3600));
        self
    }

    /// The most operations in one call to the server. Default 128: the server runs a call to its
    /// end, so other callers wait that long, well under a millisecond. Batches form only of what
    /// queues up behind [`Self::batches_in_flight`]; a cluster is asked for each operation alone.
    pub fn batch_max(mut self, batch_max: usize) -> Self {
        self.batch_max = batch_max.max(1);
        self
    }

    /// The most calls that are on their way at once, for each kind of operation. Default 2: one
    /// that the server works on and one that is ready for it.
    pub fn batches_in_flight(mut self, batches_in_flight: usize) -> Self {
        self.batches_in_flight = batches_in_flight.max(1);
        self
    }

    /// The most operations of each kind that wait for their turn. Default 4096. More get
    /// [`semel::ErrorKind::Unavailable`] at once.
    pub fn queue_max(mut self, queue_max: usize) -> Self {
        self.queue_max = queue_max.max(1);
        self
    }

    /// Measures patience with this clock instead of the machine's. Leases and retention are
    /// measured by the server's clock, always.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Milliseconds that the server's clock is taken to be ahead. For tests, which cannot wait
    /// for a lease to run out.
    #[doc(hidden)]
    pub fn clock_offset(mut self, clock_offset: Arc<AtomicI64>) -> Self {
        self.clock_offset = clock_offset;
        self
    }

    /// The way to the server of a URL, and these options with what the URL says.
    pub(super) fn link(mut self, url: &str) -> Result<(Self, Names, Arc<Link>), Error> {
        let address = Address::parse(url)?;
        let wishes = address.wishes.clone();
        self.allow_eviction |= wishes.allow_eviction;
        self.patience = wishes.patience.unwrap_or(self.patience);
        self.prefix = wishes.prefix.unwrap_or(self.prefix);
        self.response_timeout = wishes.response_timeout.unwrap_or(self.response_timeout);
        let names = Names::new(&self.prefix)?;
        let meta = Meta::new(&names, self.create)?;
        let link = Arc::new(Link::new(address, meta, &self)?);
        Ok((self, names, link))
    }

    /// Asks a server about itself once, whether it has records or not, and changes nothing. For
    /// diagnosis where [`Self::connect`] fails.
    ///
    /// # Errors
    /// As [`RedisStore::connect`], but for what is wrong with the records.
    pub async fn look(self, url: &str) -> Result<RedisFacts, Error> {
        super::runtime()?;
        let (_, _, link) = self.link(url)?;
        link.facts_without_records().await
    }

    /// Connects to the server, the cluster or what Sentinel looks after.
    ///
    /// # Errors
    /// As [`RedisStore::connect`].
    pub async fn connect(self, url: &str) -> Result<RedisStore, Error> {
        RedisStore::connect(url, self).await
    }
}
