//! An execution cut in two: begun here, finished there, kept alive in between.

use std::fmt;

use bytes::Bytes;
use semel::{
    Context, Ending, Error, ErrorKind, Executed, Fence, Fingerprint, Key, Outcome, RecordId,
    Tenant, Timestamp,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::guard::{Claim, TaskGuard};
use crate::heart::{self, Heart};

/// What [`TaskGuard::begin`] found.
#[derive(Debug)]
pub enum Begun {
    /// The operation finished before. Give this answer and run nothing.
    Replay {
        /// The stored answer.
        outcome: Outcome,
        /// When the record expires.
        expires_at: Timestamp,
    },
    /// Run it, then [`finish`](Attempt::finish) the attempt.
    Run(Attempt),
}

/// A claim that is held and kept alive until it is finished or dropped.
///
/// The heartbeat runs on the [`Heart`], so whoever holds the attempt may block its thread.
///
/// **Dropping** an attempt without [`finish`](Self::finish) (a panic, an early return, a cancelled
/// future) ends it as *unknown*: the store is told so at once, and the effect mode decides. A
/// process that dies cannot tell, and its lease runs out.
pub struct Attempt {
    context: Context,
    ending: oneshot::Sender<End>,
    executed: oneshot::Receiver<Result<Executed<()>, Error>>,
    runtime: Handle,
    /// Keeps the thread alive as long as there is something to keep alive.
    _heart: Heart,
    process: u32,
}

/// How the holder of an attempt lets it go.
enum End {
    Ending(Ending<()>),
    /// The caller went away before it had the attempt, so this claim has run nothing.
    NeverBegun,
}

impl TaskGuard {
    /// Claims the key and keeps the claim alive until the attempt is finished or dropped. Waits
    /// for another execution as long as the guard's settings say.
    ///
    /// # Cancellation
    /// Dropping the future gives the claim back as if it had never been made, or leaves the
    /// record as unknown if earlier attempts left something in it.
    ///
    /// # Errors
    /// The refusals of [`Guard::execute`](semel::Guard::execute), and [`ErrorKind::Unavailable`]
    /// when too many attempts are open ([`Heart::with_attempts_max`]). Nothing ran in this call.
    pub async fn begin(
        &self,
        tenant: &Tenant,
        key: &Key,
        fingerprint: Fingerprint,
    ) -> Result<Begun, Error> {
        let place = self.heart.place()?;
        let (context_in, context) = oneshot::channel();
        let (ending, ending_out) = oneshot::channel();
        let (executed_in, executed) = oneshot::channel();
        let claim = self.claim(tenant, key, fingerprint);
        let permit = place.permit;
        place.runtime.spawn(async move {
            // Whoever waited may be gone; what it was to hear is in the store.
            drop(executed_in.send(keep(claim, context_in, ending_out).await));
            drop(permit);
        });
        let opening = Opening { ending: Some(ending) };
        match context.await {
            Ok(context) => Ok(Begun::Run(Attempt {
                context,
                ending: opening.into_ending()?,
                executed,
                runtime: place.runtime,
                _heart: self.heart.clone(),
                process: std::process::id(),
            })),
            Err(_) => match executed.await.unwrap_or_else(|_| Err(heart::ended()))? {
                Executed::Replayed { outcome, expires_at } => {
                    Ok(Begun::Replay { outcome, expires_at })
                }
                Executed::Fresh { .. } | Executed::NotApplied { .. } | Executed::Unknown { .. } => {
                    Err(heart::ended())
                }
            },
        }
    }

    /// [`begin`](Self::begin) for callers without a runtime; blocks the thread.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_blocking(
        &self,
        tenant: &Tenant,
        key: &Key,
        fingerprint: Fingerprint,
    ) -> Result<Begun, Error> {
        pollster::block_on(self.begin(tenant, key, fingerprint))
    }
}

impl Attempt {
    /// The record's name.
    #[must_use]
    pub fn id(&self) -> &RecordId {
        self.context.id()
    }

    /// The claim's fence, for sinks that compare fences.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.context.fence()
    }

    /// How many claims this operation has seen, this one included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.context.attempts()
    }

    /// The key of a named part of this operation: equal across attempts, different for each name.
    #[must_use]
    pub fn step_key(&self, name: &str) -> Key {
        self.context.step_key(name)
    }

    /// Whether the claim is lost: taken over, or over the ceiling of the execution. Stop when it
    /// is true; no outcome of this attempt will be stored over another's.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        self.context.is_lease_lost()
    }

    /// Completes when [`Self::is_lease_lost`] becomes true.
    pub async fn lease_lost(&self) {
        self.context.lease_lost().await;
    }

    /// The engine's view of this claim. Its store calls run where they are awaited.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What a step of this or an earlier attempt stored.
    #[must_use]
    pub fn step_result(&self, name: &str) -> Option<Bytes> {
        self.context.step_result(name)
    }

    /// Stores the result of a step. A step that is there already keeps its first result.
    ///
    /// # Cancellation
    /// The step is stored even if the future is dropped.
    ///
    /// # Errors
    /// As [`Context::store_step`]; [`ErrorKind::Invalid`] in a forked child.
    pub async fn store_step(&self, name: &str, result: Bytes) -> Result<(), Error> {
        self.check_process()?;
        let (context, name) = (self.context.clone(), name.to_owned());
        heart::on(&self.runtime, async move { context.store_step(&name, result).await }).await
    }

    /// [`store_step`](Self::store_step) for callers without a runtime; blocks the thread.
    ///
    /// # Errors
    /// As [`store_step`](Self::store_step).
    pub fn store_step_blocking(&self, name: &str, result: Bytes) -> Result<(), Error> {
        pollster::block_on(self.store_step(name, result))
    }

    /// Says how the execution ended and waits until the store knows.
    ///
    /// # Cancellation
    /// The ending is written even if the future is dropped.
    ///
    /// # Errors
    /// As [`Guard::execute`](semel::Guard::execute); [`ErrorKind::Invalid`] in a forked child.
    pub async fn finish(self, ending: Ending<()>) -> Result<Executed<()>, Error> {
        self.check_process()?;
        let Self { ending: say, executed, .. } = self;
        if say.send(End::Ending(ending)).is_err() {
            return Err(heart::ended());
        }
        executed.await.unwrap_or_else(|_| Err(heart::ended()))
    }

    /// [`finish`](Self::finish) for callers without a runtime; blocks the thread.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_blocking(self, ending: Ending<()>) -> Result<Executed<()>, Error> {
        pollster::block_on(self.finish(ending))
    }

    /// A forked child holds a copy that nobody keeps alive or listens to.
    fn check_process(&self) -> Result<(), Error> {
        if self.process == std::process::id() {
            return Ok(());
        }
        let process = self.process;
        let message = format!(
            "the attempt belongs to process {process}, which forked this one; only that process \
             can write for it"
        );
        Err(Error::new(ErrorKind::Invalid, message))
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("context", &self.context).finish_non_exhaustive()
    }
}

/// Says that nothing was begun unless the attempt gets to its caller.
struct Opening {
    ending: Option<oneshot::Sender<End>>,
}

impl Opening {
    fn into_ending(mut self) -> Result<oneshot::Sender<End>, Error> {
        self.ending.take().ok_or_else(heart::ended)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take() {
            drop(ending.send(End::NeverBegun));
        }
    }
}

/// The execution as the engine sees it: its handler waits for whoever holds the attempt.
async fn keep(
    claim: Claim,
    context_in: oneshot::Sender<Context>,
    ending: oneshot::Receiver<End>,
) -> Result<Executed<()>, Error> {
    let Claim { guard, tenant, key, fingerprint } = claim;
    let hold = async |context: Context| {
        let is_first = context.attempts() == 1;
        let end = match context_in.send(context) {
            Ok(()) => ending.await,
            Err(_) => Ok(End::NeverBegun),
        };
        match end {
            Ok(End::Ending(ending)) => ending,
            Ok(End::NeverBegun) if is_first => Ending::NotApplied { live: () },
            Ok(End::NeverBegun) => unknown("the caller was gone before the attempt began"),
            Err(_) => unknown("the attempt was dropped without an ending"),
        }
    };
    guard.execute(&tenant, &key, fingerprint, hold).await
}

fn unknown(detail: &str) -> Ending<()> {
    Ending::Unknown { detail: detail.to_owned(), live: () }
}
