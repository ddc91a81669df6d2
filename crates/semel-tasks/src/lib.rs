//! The task door of semel: queue tasks and functions whose effects happen once.
//!
//! A queue delivers a task again after every crash, lost lease and visibility time-out, and its
//! "unique" options act when work is put in, not when it runs. This crate is not a queue; it
//! guards the execution: a claim with a lease and a fence, kept alive on a thread of its own, and
//! the outcome stored for whoever comes next.
//!
//! # A function that runs once
//!
//! [`TaskGuard::run`] runs an async function under a key: the task's id, or better a business key
//! that also recognises a task that was put in twice. The second delivery gets the stored value. A
//! delivery that meets a running one gets an error; [`Decision::of`] is the table that says what a
//! queue must do with it, and the answer is never "acknowledge".
//!
//! # What is promised
//!
//! The guard's [`Effect`](semel::Effect) decides, as everywhere in semel:
//!
//! | mode | the effect of a task and of each step | a worker killed after its effect |
//! |---|---|---|
//! | `Transactional`, with [`Task::step_in`] | exactly once | effect and result are one |
//! | `Keyed`, with [`Task::step_key`] | exactly once while the downstream remembers | runs again |
//! | `FencedQuery`, with [`Task::fence`] | exactly once | asks the sink and goes on |
//! | `Foreign(Retry)` | at least once | runs again |
//! | `Foreign(Hold)` | at most once | parked with its reason |
//!
//! Besides, in every mode: finished [steps](Task::step) do not run again; another payload under one
//! key is refused; after [`lost_leases_max`](semel::Settings::lost_leases_max) workers died over a
//! task it is parked instead of killing the next; whatever this process lives to see (a panic, a
//! cancelled future, a dropped attempt) is told to the store at once.
//!
//! # A body that blocks
//!
//! The heartbeat runs on a [`Heart`], a thread apart from whatever runs the body. So a body may
//! block its thread, its interpreter or its event loop for longer than the lease. An [`Attempt`] is
//! the execution cut in two for callers that are no async Rust; each call has a blocking twin.
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
//!
//! # From here
//!
//! - [`saga`]: steps with compensations, undone once and in order when a later step is refused.
//! - [`Locks`]: a lease with a fence as a lock, and what a lock does not give.
//! - [`RetryPolicy`]: repeats inside one call, for what provably did nothing.
//! - [`key_in`]: one key from the request through Kafka to the task and what it starts.
//! - `apalis` (feature): a layer for workers of apalis 1.
//! - [`canonical_json`]: how payloads are compared, the same in every language.
//!
//! # Features
//!
//! - `apalis`: the layer for workers of apalis 1.
//! - `failpoints`: named points at which tests stop or kill the process.

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
