//! Answers that were replayed a moment ago, replayed again without asking the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use semel::store::{
    AuditEntry, ClaimRequest, Claimed, Completion, Counts, Filter, Release, Renewal, Summary,
};
use semel::{
    BoxFuture, Capabilities, Clock, Error, Fingerprint, Inspect, Outcome, Record, RecordId, Store,
    SystemClock, Timestamp,
};

/// What an entry takes beyond its bytes, roughly.
const OVERHEAD: usize = 256;

/// A store in front of another one that remembers answers which were replayed, for a short time.
///
/// # What it keeps and what it costs
///
/// 1. Only finished operations are remembered, and those never change: executing, renewing and
///    completing go to the store, so a claim is as unique as without it.
/// 2. A remembered answer is given to the same payload only; everything else is asked of the store.
/// 3. What an operator purges may be replayed for [`ReplayCache::new`]'s `age` more by every
///    process that remembers it, and so may a record whose retention ends meanwhile.
///
/// ```
/// use semel::{MemoryStore, Store};
/// use semel_stores::ReplayCache;
/// use std::{sync::Arc, time::Duration};
///
/// let store = ReplayCache::new(Arc::new(MemoryStore::new()), 16 << 20, Duration::from_secs(5));
/// assert!(!store.capabilities().durable);
/// ```
pub struct ReplayCache {
    store: Arc<dyn Inspect>,
    replays: Cache<RecordId, Arc<Replay>>,
    clock: Arc<dyn Clock>,
}

struct Replay {
    fingerprint: Fingerprint,
    outcome: Outcome,
    expires_at: Timestamp,
}

impl ReplayCache {
    /// Remembers up to `bytes_max` of answers, each for up to `age`.
    #[must_use]
    pub fn new(store: Arc<dyn Inspect>, bytes_max: u64, age: Duration) -> Self {
        let weight = |id: &RecordId, replay: &Arc<Replay>| {
            let names = id.key.as_str().len() + id.tenant.as_str().len();
            let bytes = names + id.operation.as_str().len() + replay.outcome.len() + OVERHEAD;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let replays = Cache::builder().weigher(weight).max_capacity(bytes_max).time_to_live(age);
        Self { store, replays: replays.build(), clock: Arc::new(SystemClock) }
    }

    fn remembered(&self, request: &ClaimRequest) -> Option<Claimed> {
        if request.takeover.is_some() {
            // Whoever decides about a record looks at the record itself.
            self.replays.invalidate(&request.id);
            return None;
        }
        let replay = self.replays.get(&request.id)?;
        let fits =
            replay.fingerprint == request.fingerprint && replay.expires_at > self.clock.now();
        fits.then(|| Claimed::Completed {
            outcome: replay.outcome.clone(),
            expires_at: replay.expires_at,
        })
    }

    async fn ask(&self, request: &ClaimRequest) -> Result<Claimed, Error> {
        let claimed = self.store.claim(request).await?;
        // The store has compared the payload before it gave the answer away.
        if let (Claimed::Completed { outcome, expires_at }, None) = (&claimed, &request.takeover) {
            let (fingerprint, expires_at) = (request.fingerprint, *expires_at);
            let replay = Replay { fingerprint, outcome: outcome.clone(), expires_at };
            self.replays.insert(request.id.clone(), Arc::new(replay));
        }
        Ok(claimed)
    }
}

impl fmt::Debug for ReplayCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayCache").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Store for ReplayCache {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        match self.remembered(request) {
            Some(claimed) => Box::pin(std::future::ready(Ok(claimed))),
            None => Box::pin(self.ask(request)),
        }
    }

    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        self.store.renew(request)
    }

    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        self.store.complete(request)
    }

    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        self.store.release(request)
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        self.store.get(id)
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        self.store.sweep(limit)
    }

    fn changed<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, ()> {
        self.store.changed(id)
    }
}

impl Inspect for ReplayCache {
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a RecordId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Summary>, Error>> {
        self.store.list(filter, after, limit)
    }

    fn count(&self) -> BoxFuture<'_, Result<Counts, Error>> {
        self.store.count()
    }

    fn audit<'a>(
        &'a self,
        id: &'a RecordId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEntry>, Error>> {
        self.store.audit(id, limit)
    }

    fn decisions<'a>(
        &'a self,
        key: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordId, AuditEntry)>, Error>> {
        self.store.decisions(key, limit)
    }
}
