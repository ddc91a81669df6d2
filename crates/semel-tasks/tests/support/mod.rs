//! A store in memory that tells which calls it has answered, so that tests wait for calls instead
//! of for time.

#![allow(dead_code, reason = "every suite uses a part of it")]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use semel::store::{ClaimRequest, Claimed, Completion, Release, Renewal};
use semel::{
    BoxFuture, Capabilities, Clock, Effect, Error, Fingerprint, FingerprintKey, Guard,
    GuardBuilder, Key, ManualClock, MemoryStore, OnUnknown, Operation, Record, RecordId, Store,
    Tenant, Timestamp,
};

pub(crate) const HOLD: Effect = Effect::Foreign(OnUnknown::Hold);
pub(crate) const RETRY: Effect = Effect::Foreign(OnUnknown::Retry);
pub(crate) const LEASE: Duration = Duration::from_secs(30);

pub(crate) fn key() -> Key {
    Key::parse("order-17").unwrap()
}

pub(crate) fn tenant() -> Tenant {
    Tenant::single()
}

pub(crate) fn secret() -> FingerprintKey {
    FingerprintKey::from_secret(b"sixteen bytes or more").unwrap()
}

pub(crate) fn fingerprint(payload: &str) -> Fingerprint {
    secret().fingerprint().part(payload.as_bytes()).finish()
}

/// A manual clock, a store on it, and the calls that the store has answered.
pub(crate) struct Bench {
    pub(crate) clock: ManualClock,
    pub(crate) store: Arc<Watched>,
    calls: Receiver<&'static str>,
    told: Told,
}

type Told = Arc<Mutex<Sender<&'static str>>>;

impl Bench {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        let inner = MemoryStore::with_clock(Arc::new(clock.clone()));
        let (answered, calls) = channel();
        let told = Arc::new(Mutex::new(answered));
        let store = Arc::new(Watched { inner, told: Arc::clone(&told) });
        Self { clock, store, calls, told }
    }

    pub(crate) fn builder(&self, effect: Effect) -> GuardBuilder<Operation, Effect> {
        Guard::builder(self.store.clone())
            .operation("create_order")
            .unwrap()
            .effect(effect)
            .lease(LEASE)
            .clock(self.watched_clock())
    }

    /// The manual clock, which tells when somebody starts to wait for it.
    pub(crate) fn watched_clock(&self) -> Arc<dyn Clock> {
        Arc::new(WatchedClock { inner: self.clock.clone(), told: Arc::clone(&self.told) })
    }

    pub(crate) fn guard(&self, effect: Effect) -> Guard {
        self.builder(effect).build().unwrap()
    }

    /// Waits until the store has answered such a call.
    pub(crate) fn wait_for(&self, call: &str) {
        while self.calls.recv().unwrap() != call {}
    }

    /// Moves the clock by a third of a lease, again and again, and waits each time for the
    /// heartbeat to reach the store and to wait for the next.
    pub(crate) fn beat(&self, leases: u32) {
        for _ in 0..leases * 3 {
            self.clock.advance(LEASE / 3);
            self.wait_for("renew");
            self.wait_for("sleep");
        }
    }
}

#[derive(Debug)]
pub(crate) struct Watched {
    inner: MemoryStore,
    told: Told,
}

/// Tells when somebody starts to wait for it.
#[derive(Debug)]
struct WatchedClock {
    inner: ManualClock,
    told: Told,
}

impl Clock for WatchedClock {
    fn now(&self) -> Timestamp {
        self.inner.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let sleep = self.inner.sleep(duration);
        tell(&self.told, "sleep");
        sleep
    }
}

fn tell(told: &Told, what: &'static str) {
    // A test that has seen enough does not listen any more.
    told.lock().unwrap().send(what).unwrap_or_default();
}

impl Watched {
    async fn tell<T>(&self, call: &'static str, answer: impl Future<Output = T> + Send) -> T {
        let answer = answer.await;
        tell(&self.told, call);
        answer
    }
}

impl Store for Watched {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        Box::pin(self.tell("claim", self.inner.claim(request)))
    }

    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(self.tell("renew", self.inner.renew(request)))
    }

    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(self.tell("complete", self.inner.complete(request)))
    }

    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.tell("release", self.inner.release(request)))
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        self.inner.get(id)
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        self.inner.sweep(limit)
    }

    fn changed<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, ()> {
        self.inner.changed(id)
    }
}
