//! The task door of semel: queue tasks and functions whose effects happen once.
//!
//! A queue delivers a task again after every crash, lost lease and visibility time-out, and its
//! "unique" options act when work is put in, not when it runs. This crate is not a queue; it
//! guards the execution: a claim with a lease and a fence, kept alive on a thread of its own, and
//! the outcome stored for whoever comes next.
//!
//! ```
//! use semel::{Effect, Ending, FingerprintKey, Guard, Key, MemoryStore, Outcome, Tenant, Verdict};
//! use semel_tasks::{Begun, TaskGuard};
//! use std::sync::Arc;
//!
//! let guard = Guard::builder(Arc::new(MemoryStore::new()))
//!     .operation("send_invoice")?
//!     .effect(Effect::Keyed)
//!     .build()?;
//! let tasks = TaskGuard::new(guard, FingerprintKey::from_secret(b"sixteen bytes or more")?);
//! let fingerprint = semel_tasks::fingerprint(tasks.secret(), &("invoice", 17))?;
//! let (tenant, key) = (Tenant::single(), Key::parse("invoice-17")?);
//!
//! // A function that blocks its thread for as long as it likes.
//! let Begun::Run(attempt) = tasks.begin_blocking(&tenant, &key, fingerprint)? else {
//!     unreachable!("nothing has run yet")
//! };
//! let outcome = Outcome::json(Verdict::Succeeded, &"sent")?;
//! attempt.finish_blocking(Ending::Completed { outcome, live: () })?;
//!
//! // The same task, delivered again.
//! let Begun::Replay { outcome, .. } = tasks.begin_blocking(&tenant, &key, fingerprint)? else {
//!     unreachable!("it is finished")
//! };
//! assert_eq!(outcome.to_json::<String>()?, "sent");
//! # Ok::<(), semel::Error>(())
//! ```

#[cfg(feature = "apalis")]
pub mod apalis;
mod attempt;
mod chain;
mod decision;
pub mod failpoint;
mod guard;
mod heart;
mod lock;
mod payload;
mod retry;
pub mod saga;
mod task;

pub use self::attempt::{Attempt, Begun};
pub use self::chain::{KEY_HEADER, key_in};
pub use self::decision::Decision;
pub use self::guard::TaskGuard;
pub use self::heart::Heart;
pub use self::lock::{Lock, Locks};
pub use self::payload::{canonical_json, fingerprint, fingerprint_of_json};
pub use self::retry::RetryPolicy;
pub use self::saga::{Compensated, Part, Saga, SagaBuilder};
pub use self::task::Task;
