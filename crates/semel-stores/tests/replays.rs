//! The replay cache keeps every rule of a store.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use semel::conformance::{self, Harness};
use semel::store::{
    AuditEntry, ClaimRequest, Claimed, Completion, Counts, Filter, Release, Renewal, Summary,
};
use semel::{
    BoxFuture, Capabilities, Effect, Error, Fingerprint, Inspect, Key, ManualClock, MemoryStore,
    Nonce, Operation, Outcome, Record, RecordId, Store, Tenant, Timestamp, Verdict,
};
use semel_stores::ReplayCache;

const AGE: Duration = Duration::from_secs(3600);

/// A memory store that counts its claims.
#[derive(Debug)]
struct Counted(MemoryStore, AtomicUsize);

impl Store for Counted {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.claim(request)
    }
    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        self.0.renew(request)
    }
    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        self.0.complete(request)
    }
    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        self.0.release(request)
    }
    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        self.0.get(id)
    }
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        self.0.sweep(limit)
    }
}

impl Inspect for Counted {
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        after: Option<&'a RecordId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Summary>, Error>> {
        self.0.list(filter, after, limit)
    }
    fn count(&self) -> BoxFuture<'_, Result<Counts, Error>> {
        self.0.count()
    }
    fn audit<'a>(
        &'a self,
        id: &'a RecordId,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEntry>, Error>> {
        self.0.audit(id, limit)
    }
    fn decisions<'a>(
        &'a self,
        key: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<(RecordId, AuditEntry)>, Error>> {
        self.0.decisions(key, limit)
    }
}

fn request(payload: u8, nonce: u8) -> ClaimRequest {
    ClaimRequest {
        id: RecordId {
            tenant: Tenant::single(),
            operation: Operation::new("o").unwrap(),
            key: Key::parse("k").unwrap(),
        },
        fingerprint: Fingerprint::from_bytes([payload; 32]),
        effect: Effect::Keyed,
        nonce: Nonce::from_bytes([nonce; 16]),
        lease: Duration::from_secs(30),
        lost_leases_max: 3,
        key_age_max: None,
        takeover: None,
    }
}

#[tokio::test]
async fn only_the_first_replay_asks_the_store_and_only_the_same_payload_is_answered() {
    let inner = Arc::new(Counted(MemoryStore::new(), AtomicUsize::new(0)));
    let store = ReplayCache::new(inner.clone(), 1 << 20, AGE);
    let Claimed::Acquired { fence, .. } = store.claim(&request(1, 1)).await.unwrap() else {
        panic!("the key is new");
    };
    let outcome = Outcome::json(Verdict::Succeeded, &"done").unwrap();
    let completion = Completion { id: request(1, 1).id, fence, outcome, retention: AGE };
    store.complete(&completion).await.unwrap();
    for replay in 2..10 {
        let claimed = store.claim(&request(1, replay)).await.unwrap();
        assert!(matches!(claimed, Claimed::Completed { .. }), "{claimed:?}");
    }
    assert_eq!(inner.1.load(Ordering::Relaxed), 2, "the claim and the first replay");
    let other = store.claim(&request(2, 20)).await.unwrap();
    assert_eq!(other, Claimed::Mismatch);
}

struct Place(ManualClock, Arc<ReplayCache>);

impl Harness for Place {
    fn store(&self) -> Arc<dyn Store> {
        self.1.clone()
    }
    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        Some(self.1.clone())
    }
    fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.0.advance(duration);
        Box::pin(async {})
    }
}

#[tokio::test]
async fn a_cache_that_forgets_at_once_passes_the_suite() {
    let clock = ManualClock::new();
    let inner = Arc::new(MemoryStore::with_clock(Arc::new(clock.clone())));
    let store = Arc::new(ReplayCache::new(inner, 1 << 20, Duration::ZERO));
    let report = conformance::run(&Place(clock, store)).await;
    assert!(report.failed.is_empty(), "{report}");
}
