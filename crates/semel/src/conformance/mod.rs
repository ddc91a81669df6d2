//! The public conformance suite: what every store must do, as named cases.
//!
//! A store of your own passes when [`run`] reports no failure:
//!
//! ```
//! # use std::{future::Future, pin::pin, task::{Context, Poll, Waker}};
//! # fn block_on<F: Future>(future: F) -> F::Output {
//! #     let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
//! #     loop { if let Poll::Ready(out) = future.as_mut().poll(&mut context) { return out } }
//! # }
//! use semel::conformance::{self, Harness};
//! use semel::{BoxFuture, Inspect, ManualClock, MemoryStore, Store};
//! use std::{sync::Arc, time::Duration};
//!
//! struct Memory(ManualClock, Arc<MemoryStore>);
//!
//! impl Harness for Memory {
//!     fn store(&self) -> Arc<dyn Store> {
//!         self.1.clone()
//!     }
//!     fn inspect(&self) -> Option<Arc<dyn Inspect>> {
//!         Some(self.1.clone())
//!     }
//!     fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()> {
//!         self.0.advance(duration);
//!         Box::pin(async {})
//!     }
//! }
//!
//! let clock = ManualClock::new();
//! let store = Arc::new(MemoryStore::with_clock(Arc::new(clock.clone())));
//! let report = block_on(conformance::run(&Memory(clock, store)));
//! assert!(report.failed.is_empty(), "{report}");
//! ```
//!
//! A store with transactions runs [`run_transactional`] as well.
//!
//! [`model`] holds the second half of the suite: a small reference machine that a property test
//! drives beside the store.

mod claims;
mod counterexamples;
mod endings;
mod kit;
pub mod model;
mod operators;
mod sinks;
mod time;
mod transactions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::BoxFuture;
use crate::store::{Capabilities, Inspect, Store};
use kit::Kit;

pub use transactions::{TransactionalHarness, run_transactional};

/// Gives the suite a store and power over its time. The store may hold records already; the
/// suite uses a tenant of its own.
pub trait Harness: Send + Sync {
    /// The store under test.
    fn store(&self) -> Arc<dyn Store>;

    /// The same store as [`Inspect`], if it can be looked into.
    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        None
    }

    /// Lets this much time pass on the store's clock: moves a manual clock, or really waits.
    fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()>;

    /// Closes and opens the store again, as a restart would; [`Harness::store`] gives the new one
    /// afterwards. `false` when the harness cannot.
    fn restart(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    /// Puts an empty store in the place of this one, as a lost volume or a restored backup does:
    /// records and counter are gone. [`Harness::store`] gives the new one afterwards. `false` when
    /// the harness cannot.
    fn wipe(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { false })
    }

    /// One unit of the suite's time: a lease lasts ten of it. The default suits a manual clock;
    /// on a real clock it must be long compared with a call to the store.
    fn unit(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// One thing that must hold, named by the sentence.
#[derive(Clone, Copy)]
pub struct Case {
    /// The sentence.
    pub name: &'static str,
    needs: Needs,
    run: for<'a> fn(&'a Kit<'a>) -> BoxFuture<'a, Result<(), String>>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a case needs from a store or its harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Every store must pass.
    Nothing,
    /// [`Capabilities::durable`] and a harness that can restart.
    Durability,
    /// [`Harness::inspect`].
    Inspection,
    /// [`Harness::wipe`].
    Wiping,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases that hold.
    pub passed: Vec<&'static str>,
    /// Cases that do not apply, with the reason.
    pub skipped: Vec<(&'static str, &'static str)>,
    /// Cases that are broken, with what was seen.
    pub failed: Vec<(&'static str, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed, skipped) = (self.passed.len(), self.failed.len(), self.skipped.len());
        writeln!(f, "{passed} passed, {failed} failed, {skipped} skipped")?;
        for (name, why) in &self.skipped {
            writeln!(f, "skipped {name}: {why}")?;
        }
        for (name, what) in &self.failed {
            writeln!(f, "FAILED {name}: {what}")?;
        }
        Ok(())
    }
}

/// All cases.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    [claims::CASES, endings::CASES, time::CASES, operators::CASES, counterexamples::CASES]
        .into_iter()
        .flatten()
}

/// Runs every case that applies to the store, one after the other.
pub async fn run(harness: &dyn Harness) -> Report {
    let mut report = Report::default();
    let capabilities = harness.store().capabilities();
    let (mut can_restart, mut can_wipe) = (None, None);
    for case in cases() {
        if case.needs == Needs::Durability && capabilities.durable && can_restart.is_none() {
            can_restart = Some(harness.restart().await);
        }
        if case.needs == Needs::Wiping && can_wipe.is_none() {
            can_wipe = Some(harness.wipe().await);
        }
        let can = Can {
            restart: can_restart.unwrap_or(false),
            wipe: can_wipe.unwrap_or(false),
            inspect: harness.inspect().is_some(),
        };
        let why = missing(case.needs, capabilities, can);
        if let Some(why) = why {
            report.skipped.push((case.name, why));
            continue;
        }
        match (case.run)(&Kit::new(harness, case.name)).await {
            Ok(()) => report.passed.push(case.name),
            Err(what) => report.failed.push((case.name, what)),
        }
    }
    report
}

/// What a harness was able to do.
#[derive(Clone, Copy)]
struct Can {
    restart: bool,
    wipe: bool,
    inspect: bool,
}

fn missing(needs: Needs, capabilities: Capabilities, can: Can) -> Option<&'static str> {
    match needs {
        Needs::Nothing => None,
        Needs::Durability if !capabilities.durable => Some("the store is not durable"),
        Needs::Durability if !can.restart => Some("the harness cannot restart the store"),
        Needs::Inspection if !can.inspect => Some("the store has no Inspect"),
        Needs::Wiping if !can.wipe => Some("the harness cannot wipe the store"),
        Needs::Durability | Needs::Inspection | Needs::Wiping => None,
    }
}

/// Declares the cases of a file: each is an async function over the [`Kit`], named by its
/// sentence.
macro_rules! declare {
    ($($needs:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        pub(super) const CASES: &[super::Case] = &[$($(
            super::Case {
                name: stringify!($name),
                needs: super::Needs::$needs,
                run: |kit| Box::pin($name(kit)),
            },
        )+)+];
    };
}
use declare;
