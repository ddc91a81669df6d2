//! The memory store keeps every rule of the public suite, and agrees with the reference machine
//! whatever moves are made.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use semel::conformance::model::{Move, agree};
use semel::conformance::{self, Harness};
use semel::{BoxFuture, Inspect, ManualClock, MemoryStore, Store};

struct Memory {
    clock: ManualClock,
    store: Mutex<Arc<MemoryStore>>,
}

impl Memory {
    fn new() -> Self {
        let clock = ManualClock::new();
        let store = Mutex::new(empty(&clock));
        Self { clock, store }
    }

    fn memory(&self) -> Arc<MemoryStore> {
        self.store.lock().unwrap().clone()
    }
}

fn empty(clock: &ManualClock) -> Arc<MemoryStore> {
    Arc::new(MemoryStore::with_clock(Arc::new(clock.clone())))
}

impl Harness for Memory {
    fn store(&self) -> Arc<dyn Store> {
        self.memory()
    }

    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        Some(self.memory())
    }

    fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.clock.advance(duration);
        Box::pin(async {})
    }

    fn wipe(&self) -> BoxFuture<'_, bool> {
        *self.store.lock().unwrap() = empty(&self.clock);
        Box::pin(async { true })
    }
}

/// The memory store never waits, so polling once is running to the end.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the memory store waited"),
    }
}

#[test]
fn the_memory_store_passes_the_suite() {
    let report = now(conformance::run(&Memory::new()));
    assert!(report.failed.is_empty(), "{report}");
    // What is skipped is what memory cannot promise, and nothing else.
    assert_eq!(report.skipped.len(), 2, "{report}");
    assert_eq!(report.passed.len() + 2, conformance::cases().count());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_store_agrees_with_the_reference_machine(bytes in vec(any::<[u8; 3]>(), 0..80)) {
        let moves: Vec<_> = bytes.into_iter().map(Move::decode).collect();
        let agreed = now(agree(&Memory::new(), &moves));
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}
