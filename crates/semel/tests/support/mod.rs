//! A store that fails on command, a gate for handlers, and futures that are polled by hand.

use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use semel::store::{ClaimRequest, Claimed, Completion, Release, Renewal};
use semel::{
    BoxFuture, Capabilities, Clock, Effect, Error, ErrorKind, Event, Fingerprint, FingerprintKey,
    Guard, GuardBuilder, ManualClock, MemoryStore, OnUnknown, Operation, Record, RecordId, Store,
    Timestamp,
};

pub(crate) const HOLD: Effect = Effect::Foreign(OnUnknown::Hold);
pub(crate) const RETRY: Effect = Effect::Foreign(OnUnknown::Retry);

pub(crate) fn fingerprint(payload: &str) -> Fingerprint {
    let secret = FingerprintKey::from_secret(b"sixteen bytes or more").unwrap();
    secret.fingerprint().part(payload.as_bytes()).finish()
}

pub(crate) struct Bench {
    pub(crate) clock: ManualClock,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) gate: Gate,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new();
        let memory = MemoryStore::with_clock(Arc::new(clock.clone()));
        let (faults, calls) = (Mutex::default(), Mutex::default());
        let store = FaultyStore { inner: memory, clock: clock.clone(), faults, calls };
        Self { clock, store: Arc::new(store), gate: Gate::default(), events: Arc::default() }
    }

    pub(crate) fn builder(&self, effect: Effect) -> GuardBuilder<Operation, Effect> {
        let events = Arc::clone(&self.events);
        Guard::builder(self.store.clone())
            .operation("create_order")
            .unwrap()
            .effect(effect)
            .clock(Arc::new(self.clock.clone()))
            .observer(Arc::new(move |event: &Event| events.lock().unwrap().push(*event)))
    }

    pub(crate) fn guard(&self, effect: Effect) -> Guard {
        self.builder(effect).build().unwrap()
    }

    pub(crate) fn saw(&self, event: Event) -> bool {
        self.events.lock().unwrap().contains(&event)
    }
}

/// Handlers wait at it until the test opens it for their name.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<HashSet<&'static str>>>);

impl Gate {
    pub(crate) async fn pass(&self, name: &'static str) {
        poll_fn(|_| {
            if self.0.lock().unwrap().contains(name) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub(crate) fn open(&self, name: &'static str) {
        self.0.lock().unwrap().insert(name);
    }
}

/// A future that is polled by hand.
pub(crate) struct Task<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    output: Option<T>,
}

pub(crate) fn start<'a, T>(future: impl Future<Output = T> + 'a) -> Task<'a, T> {
    Task { future: Box::pin(future), output: None }
}

pub(crate) trait Pollable {
    fn poll(&mut self);
}

impl<T> Pollable for Task<'_, T> {
    fn poll(&mut self) {
        if self.output.is_none()
            && let Poll::Ready(output) =
                self.future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.output = Some(output);
        }
    }
}

impl<T> Task<'_, T> {
    /// Runs to the end, which must be possible without time.
    pub(crate) fn finish(mut self) -> T {
        settle(&mut [&mut self]);
        self.output.expect("the call waits for something")
    }

    /// Runs to the end while time passes.
    pub(crate) fn finish_at(mut self, bench: &Bench) -> T {
        for _ in 0..10_000 {
            settle(&mut [&mut self]);
            if let Some(output) = self.output {
                return output;
            }
            bench.clock.advance(Duration::from_millis(10));
        }
        panic!("the call did not end within 100 s")
    }
}

/// Polls until nothing moves any more (a hundred times is more than any path here needs).
pub(crate) fn settle(tasks: &mut [&mut dyn Pollable]) {
    for _ in 0..100 {
        tasks.iter_mut().for_each(|task| task.poll());
    }
}

/// How a call to the store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It happened, but nobody hears of it.
    AnswerLost,
    /// It did not happen.
    Down,
    /// It did not happen, and it took this long to find out.
    Slow(Duration),
}

/// A memory store that fails on command and counts its calls.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: MemoryStore,
    clock: ManualClock,
    faults: Mutex<HashMap<&'static str, (Fault, usize)>>,
    calls: Mutex<HashMap<&'static str, usize>>,
}

impl FaultyStore {
    /// Lets the next `times` calls of this method fail.
    pub(crate) fn fail(&self, method: &'static str, fault: Fault, times: usize) {
        self.faults.lock().unwrap().insert(method, (fault, times));
    }

    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }

    pub(crate) fn calls(&self, method: &str) -> usize {
        self.calls.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    async fn call<T>(
        &self,
        method: &'static str,
        call: BoxFuture<'_, Result<T, Error>>,
    ) -> Result<T, Error> {
        *self.calls.lock().unwrap().entry(method).or_default() += 1;
        let fault = match self.faults.lock().unwrap().get_mut(method) {
            Some((fault, left)) if *left > 0 => {
                *left -= 1;
                Some(*fault)
            }
            _ => None,
        };
        let error = Error::new(ErrorKind::Unavailable, "the store is down for a test");
        match fault {
            None => call.await,
            Some(Fault::Down) => Err(error),
            Some(Fault::Slow(took)) => {
                self.clock.sleep(took).await;
                Err(error)
            }
            Some(Fault::AnswerLost) => {
                drop(call.await);
                Err(error.with_outcome_unknown())
            }
        }
    }
}

impl Store for FaultyStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        Box::pin(self.call("claim", self.inner.claim(request)))
    }

    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(self.call("renew", self.inner.renew(request)))
    }

    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        Box::pin(self.call("complete", self.inner.complete(request)))
    }

    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.call("release", self.inner.release(request)))
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        Box::pin(self.call("get", self.inner.get(id)))
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(self.call("sweep", self.inner.sweep(limit)))
    }
}
