//! An execution cut in two: begun here, finished there, kept alive in between.

use std::fmt;
use std::ops::Deref;

use semel::{Context, Ending, Error, Executed, Fingerprint, Key, Outcome, Tenant, Timestamp};
use tokio::sync::oneshot;

use crate::guard::{Claim, TaskGuard};
use crate::heart::{self, Heart};
use crate::task::Task;

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
    task: Task,
    ending: oneshot::Sender<End>,
    executed: oneshot::Receiver<Result<Executed<()>, Error>>,
    /// Keeps the thread alive as long as there is something to keep alive.
    _heart: Heart,
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
    /// The refusals of [`Guard::execute`](semel::Guard::execute), and
    /// [`Unavailable`](semel::ErrorKind::Unavailable) when too many attempts are open
    /// ([`Heart::with_attempts_max`]). Nothing ran in this call.
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
                task: Task::new(context, place.runtime),
                ending: opening.into_ending()?,
                executed,
                _heart: self.heart.clone(),
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
    /// What the body gets: a handle without the right to end the attempt.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Says how the execution ended and waits until the store knows.
    ///
    /// # Cancellation
    /// The ending is written even if the future is dropped.
    ///
    /// # Errors
    /// As [`Guard::execute`](semel::Guard::execute); [`Invalid`](semel::ErrorKind::Invalid) in a
    /// forked child.
    pub async fn finish(self, ending: Ending<()>) -> Result<Executed<()>, Error> {
        self.task.check_process()?;
        let Self { ending: say, executed, .. } = self;
        if say.send(End::Ending(ending)).is_err() {
            return Err(heart::ended());
        }
        executed.await.unwrap_or_else(|_| Err(heart::ended()))
    }

    /// Says how it ended and does not wait; the store is told in the background.
    pub(crate) fn let_go(self, ending: Ending<()>) {
        drop(self.ending.send(End::Ending(ending)));
    }

    /// [`finish`](Self::finish) for callers without a runtime; blocks the thread.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub fn finish_blocking(self, ending: Ending<()>) -> Result<Executed<()>, Error> {
        pollster::block_on(self.finish(ending))
    }
}

impl Deref for Attempt {
    type Target = Task;

    fn deref(&self) -> &Task {
        &self.task
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("task", &self.task).finish_non_exhaustive()
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
