//! The conformance program for logs: what every [log](crate::log) must do, as named cases.
//!
//! [`TestLog`](crate::TestLog) and Apache Kafka pass the same cases; a log of your own passes when
//! [`run`] reports no failure:
//!
//! ```
//! # fn block_on<F: Future>(future: F) -> F::Output {
//! #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
//! #     let mut future = std::pin::pin!(future);
//! #     loop {
//! #         if let std::task::Poll::Ready(it) = future.as_mut().poll(&mut context) { return it }
//! #     }
//! # }
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use std::time::Duration;
//!
//! use semel::BoxFuture;
//! use semel_kafka::TestLog;
//! use semel_kafka::conformance::{self, Harness};
//! use semel_kafka::log::{Log, LogError};
//!
//! struct InProcess(TestLog, AtomicU32);
//!
//! impl Harness for InProcess {
//!     fn log(&self) -> Arc<dyn Log> {
//!         Arc::new(self.0.clone())
//!     }
//!     fn create_topic(&self, partitions: i32) -> BoxFuture<'_, Result<String, LogError>> {
//!         let name = format!("topic-{}", self.1.fetch_add(1, Ordering::Relaxed));
//!         self.0.create_topic(&name, partitions);
//!         Box::pin(async { Ok(name) })
//!     }
//!     fn calm(&self) -> Duration {
//!         Duration::from_millis(2)
//!     }
//! }
//!
//! let report = block_on(conformance::run(&InProcess(TestLog::new(), AtomicU32::new(0))));
//! assert!(report.failed.is_empty(), "{report}");
//! ```
//!
//! The cases wait by the machine's clock and do not need an async runtime, unless the log does.

mod groups;
mod kit;
mod readers;
mod reading;
mod records;
mod transactions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use semel::BoxFuture;

use self::kit::Kit;
use crate::log::{Log, LogError};

/// Gives the program a log, and topics in it.
///
/// Groups and transactional ids are named after the topics. The log must not create a topic that
/// is missing by itself.
pub trait Harness: Send + Sync {
    /// The log under test.
    fn log(&self) -> Arc<dyn Log>;

    /// Creates a topic with so many partitions and a name that was never used, also not in an
    /// earlier run, and returns the name once clients can use it.
    fn create_topic(&self, partitions: i32) -> BoxFuture<'_, Result<String, LogError>>;

    /// How long to wait for something that must happen. A case that holds never waits so long.
    /// Must be longer than a rebalance, and than the client looks for a topic that is missing.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// How long to watch that something does not happen. Every run waits so long several times.
    fn calm(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// A short time after which the log aborts an open transaction. It must do so within
    /// [`patience`](Self::patience) of its end. `None` leaves the case out.
    fn transaction_timeout(&self) -> Option<Duration> {
        None
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

/// What a case needs from a harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Every log must pass.
    Nothing,
    /// [`Harness::transaction_timeout`].
    Timeout,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not apply, for this reason.
    Skipped(&'static str),
    /// It is broken; this was seen.
    Failed(String),
}

impl Case {
    /// Runs this case.
    pub async fn run(&self, harness: &dyn Harness) -> Outcome {
        if self.needs == Needs::Timeout && harness.transaction_timeout().is_none() {
            return Outcome::Skipped("the harness does not wait for transactions to time out");
        }
        match (self.run)(&Kit::new(harness)).await {
            Ok(()) => Outcome::Passed,
            Err(what) => Outcome::Failed(what),
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
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
    let readers = readers::CASES;
    let all = [records::CASES, reading::CASES, readers, transactions::CASES, groups::CASES];
    all.into_iter().flatten()
}

/// Runs every case, one after the other.
pub async fn run(harness: &dyn Harness) -> Report {
    let mut report = Report::default();
    for case in cases() {
        match case.run(harness).await {
            Outcome::Passed => report.passed.push(case.name),
            Outcome::Skipped(why) => report.skipped.push((case.name, why)),
            Outcome::Failed(what) => report.failed.push((case.name, what)),
        }
    }
    report
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
