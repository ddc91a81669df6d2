//! Records in Redis or Valkey, version 7 or later: the shared store that is quick.
//!
//! # What it guarantees
//!
//! 1. Every operation is one atomic step of [`semel::protocol`]: a script on the server, or a
//!    decision here and a compare-and-set on fence and revision there.
//! 2. A fresh claim, a replay, "in flight" and a completion are one call each. Under load many of
//!    them share a call.
//! 3. Leases and retention are measured by the server's clock. Expiry is checked when a record is
//!    read; Redis's own expiry only frees the memory.
//! 4. The fence's counter is never lower than the server's clock in microseconds, is kept apart
//!    from the records, and survives their release and expiry.
//! 5. An operation whose answer was lost is sent again, with the same nonce or fence, until
//!    [`RedisOptions::patience`] is over; then the caller gets [`ErrorKind::Unavailable`], with
//!    [`Error::outcome_unknown`] where it may have happened. The connection is made anew by itself
//!    after a crash, a restart or a failover.
//! 6. A full server refuses new claims and still takes what ends the running ones.
//!
//! # What it cannot guarantee
//!
//! Redis answers before a write is safe, unless it is told otherwise. What is lost in a crash or a
//! failover is a forgotten operation: its retry runs again. Only
//! [`Effect::Keyed`](semel::Effect::Keyed) and [`Effect::FencedQuery`](semel::Effect::FencedQuery)
//! keep the effect at one, because there the downstream remembers.
//!
//! | setting | what a crash loses: process | machine | failover |
//! |---|---|---|---|
//! | `appendonly no` | all since the last snapshot | the same | what was not replicated |
//! | `appendfsync everysec` | nothing; 2 s while the disk is slow | 1 to 2 s | the same |
//! | `appendfsync always` | nothing | nothing | the same |
//!
//! Only the last row makes [`Capabilities::durable`] true, and replication stays asynchronous
//! there as well. `min-replicas-to-write` narrows the window of a failover; it does not close it.
//!
//! Eviction would be the same loss without a crash, so a server whose `maxmemory-policy` is not
//! `noeviction` is refused.
//!
//! # URLs
//!
//! - `redis://[user:password@]host[:port][/database]`: one server
//! - `redis-cluster://[user:password@]host:port,host:port,…`: a cluster, by some of its nodes
//! - `redis-sentinel://[user:password@]host:port,…/name[/database]`: the server that these
//!   Sentinels call by this name; `?sentinel_user=…&sentinel_password=…` where they ask for it
//!
//! `rediss` instead of `redis` is TLS, verified against the system's authorities or those in
//! `?ca=PATH`; `?insecure=true` trusts whoever answers. `valkey` and `valkeys` mean the same.
//! Special characters of a user or a password are percent-encoded: `%40` for `@`, `%3F` for `?`,
//! `%2F` for `/`, `%3A` for `:`, `%25` for `%`.
//!
//! `?prefix=…`, `?patience=…` and `?response_timeout=…` (`500ms`, `5s`) and `?allow_eviction=true`
//! are those of [`RedisOptions`].
//!
//! A cluster is asked for each operation alone, because a call must stay within one slot; calls
//! to its nodes are pipelined. While a slot moves to another node, operations on its records wait
//! for the move.
//!
//! # Rights
//!
//! Where the server has access lists, this user can do all that is needed:
//!
//! ```text
//! ACL SETUSER semel on >PASSWORD resetkeys ~semel:* resetchannels &semel:* -@all +@connection
//!   +@scripting +get +set +getrange +setrange +del +time +zadd +zrem +zcount +zrange +zscore
//!   +rpush +ltrim +lrange +hsetnx +hget +scan +dbsize +publish +subscribe +info +config|get
//!   +cluster|slots +cluster|info +cluster|shards
//! ```
//!
//! Without `config|get` everything works and [`Capabilities::durable`] is false.
//!
//! # Runtime
//!
//! [`RedisStore::connect`] must be called inside a tokio runtime, whose timers and input are used
//! from then on. The store's futures themselves may be polled by any executor while that runtime
//! lives and runs.
//!
//! ```no_run
//! use semel::Store;
//! use semel_stores::redis::{RedisOptions, RedisStore};
//!
//! # async fn example() -> Result<(), semel::Error> {
//! let store = RedisStore::connect("redis://localhost", RedisOptions::default()).await?;
//! assert!(store.capabilities().shared);
//!
//! let cache = RedisStore::connect("redis://a-cache-that-evicts", RedisOptions::default()).await;
//! assert!(cache.unwrap_err().to_string().contains("maxmemory-policy"));
//! # Ok(())
//! # }
//! ```

mod address;
mod audit;
mod changed;
mod connect;
mod facts;
mod fault;
mod inspect;
mod lane;
mod link;
mod meta;
mod names;
mod options;
mod scan;
mod script;
mod shards;
mod transition;
mod wire;
mod within;

use std::fmt;
use std::sync::Arc;

use semel::store::{ClaimRequest, Claimed, Completion, Release, Renewal};
use semel::{BoxFuture, Capabilities, Error, ErrorKind, Record, RecordId, Store, Timestamp};
use tokio::runtime::Handle;

pub use facts::{RedisFacts, RedisNode, UnservedSlots};
pub use options::RedisOptions;

use self::address::Address;
use self::changed::Waiters;
use self::lane::Lane;
use self::link::Link;
use self::names::Names;
use self::within::within;

/// Says whether a URL is one of this store, without connecting.
///
/// # Errors
/// [`ErrorKind::Invalid`] names what is wrong with it, never its password.
pub(crate) fn check_url(url: &str) -> Result<(), Error> {
    Address::parse(url).map(drop)
}

/// The store on a Redis or Valkey server. See the [module's page](self).
pub struct RedisStore {
    runtime: Handle,
    options: RedisOptions,
    names: Names,
    link: Arc<Link>,
    claims: Lane,
    renewals: Lane,
    completions: Lane,
    releases: Lane,
    waiters: Waiters,
    capabilities: Capabilities,
}

impl RedisStore {
    /// Connects to the server, the cluster or what Sentinel looks after; see [the URLs](self#urls).
    /// Parameters of the URL go before these options.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a URL that cannot be read; [`ErrorKind::Settings`] for a server
    /// that is too old or may evict records, a bad prefix, or a call outside a tokio runtime;
    /// [`ErrorKind::TooNew`] when a newer version wrote there; [`ErrorKind::Unavailable`] when the
    /// server cannot be reached, refuses the login, is a replica, or has no records when none may
    /// be made.
    pub async fn connect(url: &str, options: RedisOptions) -> Result<Self, Error> {
        let runtime = runtime()?;
        let (options, names, link) = options.link(url)?;
        let facts = link.facts().await?;
        facts.warn_of_eviction(link.server());
        let mut capabilities = Capabilities::none().shared();
        if facts.is_durable() {
            capabilities = capabilities.durable();
        }
        let lane = |script, common| Lane::new(&link, &options, script, common);
        Ok(Self {
            claims: lane(&script::CLAIM, None),
            renewals: lane(&script::RENEW, None),
            completions: lane(&script::COMPLETE, Some(names.changed())),
            releases: lane(&script::RELEASE, Some(names.changed())),
            waiters: Waiters::new(names.changed()),
            runtime,
            names,
            capabilities,
            link,
            options,
        })
    }

    /// A random secret that was made with the first connection of all; every process on the same
    /// prefix shares it. For [`semel::FingerprintKey::from_secret`].
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        self.link.secret()
    }

    /// The server's URL without the login.
    #[must_use]
    pub fn server(&self) -> &str {
        self.link.server()
    }

    /// What the server says about itself now, for diagnosis.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it cannot be asked, [`ErrorKind::Settings`] when it has
    /// become one that records are not safe on.
    pub async fn facts(&self) -> Result<RedisFacts, Error> {
        within(&self.runtime, self.link.facts()).await
    }
}

fn runtime() -> Result<Handle, Error> {
    Handle::try_current().map_err(|_| {
        let message = "a Redis store is opened inside a tokio runtime; none is running here";
        Error::new(ErrorKind::Settings, message)
    })
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("server", &self.link.server())
            .field("prefix", &self.options.prefix)
            .finish_non_exhaustive()
    }
}

impl Store for RedisStore {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        within(&self.runtime, self.claim_now(request))
    }

    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        within(&self.runtime, self.renew_now(request))
    }

    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        within(&self.runtime, self.complete_now(request))
    }

    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        within(&self.runtime, self.release_now(request))
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        within(&self.runtime, self.get_now(id))
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        within(&self.runtime, self.sweep_now(limit))
    }

    fn changed<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, ()> {
        within(&self.runtime, async move {
            let record = self.names.of(id).record;
            self.waiters.wait(&self.link, &record).await;
        })
    }
}
