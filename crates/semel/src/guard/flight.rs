//! Callers of this process that wait for one key: one of them looks at the store, all are woken
//! by the end of an execution in this process.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_listener::{Event, EventListener};

use super::futures::first;
use crate::clock::Clock;
use crate::scope::RecordId;

/// All keys that callers of this process wait for.
#[derive(Default)]
pub(super) struct Flights {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    flights: HashMap<RecordId, Arc<Flight>>,
    waiters: usize,
}

#[derive(Default)]
struct Flight {
    ended: Event,
    led: AtomicBool,
    /// Looks at the store so far, by whoever led; the pauses grow with it.
    looks: AtomicU32,
}

impl Flights {
    /// Takes a seat among the waiting callers of a key, if there is one left.
    pub(super) fn join(&self, id: &RecordId, waiters_max: usize) -> Option<Seat<'_>> {
        let mut waiting = self.waiting();
        if waiting.waiters >= waiters_max {
            return None;
        }
        waiting.waiters += 1;
        let flight = Arc::clone(waiting.flights.entry(id.clone()).or_default());
        Some(Seat { flights: self, id: id.clone(), flight })
    }

    /// Wakes every caller that waits for this key.
    pub(super) fn ring(&self, id: &RecordId) {
        // Under the lock: a clone outside of it would keep `Seat::drop` from seeing the last one.
        if let Some(flight) = self.waiting().flights.get(id) {
            flight.ended.notify(usize::MAX);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("waiters", &self.waiting().waiters).finish()
    }
}

/// A waiting caller. Leaving it frees the place.
pub(super) struct Seat<'a> {
    flights: &'a Flights,
    id: RecordId,
    flight: Arc<Flight>,
}

impl Seat<'_> {
    /// Starts to listen for the end of an execution.
    pub(super) fn listen(&self) -> EventListener {
        self.flight.ended.listen()
    }

    /// Wakes every caller that waits for this key.
    pub(super) fn ring(&self) {
        self.flights.ring(&self.id);
    }

    /// Waits until it makes sense to claim again: the execution ended in this process, the store
    /// says that something changed, this caller is the one that looks and its pause is over, or
    /// there is no time left.
    pub(super) async fn wait(
        &self,
        ended: EventListener,
        changed: impl Future<Output = ()>,
        clock: &dyn Clock,
        pause: impl FnOnce(u32) -> Duration,
        left: Duration,
    ) {
        let Some(lead) = Lead::take(&self.flight) else {
            return first(ended, clock.sleep(left)).await;
        };
        let pause = pause(lead.0.looks.fetch_add(1, Ordering::Relaxed));
        first(first(ended, changed), clock.sleep(pause.min(left))).await;
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        // A waker meant for the next leader may have been spent on this caller.
        if !self.flight.led.load(Ordering::Acquire) {
            self.flight.ended.notify(1);
        }
        let mut waiting = self.flights.waiting();
        waiting.waiters -= 1;
        // The map's reference and this one: nobody else waits any more.
        if Arc::strong_count(&self.flight) == 2 {
            waiting.flights.remove(&self.id);
        }
    }
}

/// The right to look at the store for all callers of one key. A leader that leaves wakes one
/// other caller, which looks next.
struct Lead<'a>(&'a Flight);

impl<'a> Lead<'a> {
    fn take(flight: &'a Flight) -> Option<Self> {
        // Made only when it is won: dropping a `Lead` gives the lead back.
        (!flight.led.swap(true, Ordering::AcqRel)).then(|| Self(flight))
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.led.store(false, Ordering::Release);
        self.0.ended.notify(1);
    }
}
