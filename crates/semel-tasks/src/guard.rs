//! The guard of this door, and how it runs an async function.

use std::future::Future;

use semel::{
    Answer, Ending, Error, ErrorKind, Executed, Failure, Fingerprint, FingerprintKey, Guard, Key,
    Outcome, Tenant,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::attempt::Begun;
use crate::heart::Heart;
use crate::payload;
use crate::retry::RetryPolicy;
use crate::task::Task;

/// Runs tasks under a [`Guard`], with the heartbeats on a [`Heart`]. Cheap to clone.
///
/// The guarantees are those of the guard; its [`Effect`](semel::Effect) decides how often the
/// effect happens. This type adds that a body may block its thread, and that nothing this process
/// lives to see ends in silence.
#[derive(Clone, Debug)]
pub struct TaskGuard {
    pub(crate) guard: Guard,
    pub(crate) heart: Heart,
    secret: FingerprintKey,
    tenant: Tenant,
    retry: RetryPolicy,
}

impl TaskGuard {
    /// Tasks under this guard, on a heart of their own. All processes that share a store share the
    /// secret; the stores of `semel-stores` keep one (`secret()`).
    #[must_use]
    pub fn new(guard: Guard, secret: FingerprintKey) -> Self {
        let (tenant, retry) = (Tenant::single(), RetryPolicy::never());
        Self { guard, heart: Heart::new(), secret, tenant, retry }
    }

    /// Shares the thread of this heart. One heart is enough for a process.
    #[must_use]
    pub fn with_heart(mut self, heart: Heart) -> Self {
        self.heart = heart;
        self
    }

    /// Whose keys [`run`](Self::run) means. Default: the single tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = tenant;
        self
    }

    /// How often [`run`](Self::run) repeats what provably did nothing. Default:
    /// [`RetryPolicy::never`], because queues retry by themselves.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`], see [`RetryPolicy::validate`].
    pub fn with_retry(mut self, retry: RetryPolicy) -> Result<Self, Error> {
        retry.validate()?;
        self.retry = retry;
        Ok(self)
    }

    /// The guard.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The heart.
    #[must_use]
    pub fn heart(&self) -> &Heart {
        &self.heart
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The secret under which payloads are fingerprinted.
    #[must_use]
    pub fn secret(&self) -> &FingerprintKey {
        &self.secret
    }

    /// Runs `body` once for this key, or returns what it returned before. The payload is whatever
    /// makes the task this task; another one under the same key is refused. Value and payload
    /// travel as JSON.
    ///
    /// `body` runs where the future is polled, the claim is kept alive elsewhere. It is called
    /// again only for what it proved to be [`NotApplied`](Failure::NotApplied), as the
    /// [`RetryPolicy`] says. [`Decision::of`](crate::Decision::of) tells what a queue must do with
    /// an error.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), semel::Error> {
    /// use semel::{Effect, Failure, FingerprintKey, Guard, Key, MemoryStore};
    /// use semel_tasks::{Decision, TaskGuard};
    /// use std::sync::Arc;
    ///
    /// let guard = Guard::builder(Arc::new(MemoryStore::new()))
    ///     .operation("charge_order")?
    ///     .effect(Effect::Keyed)
    ///     .build()?;
    /// let tasks = TaskGuard::new(guard, FingerprintKey::from_secret(b"sixteen bytes or more")?);
    ///
    /// let (key, order) = (Key::parse("order-17")?, ("book", 12));
    /// let charge = || {
    ///     tasks.run(&key, &order, async |task| {
    ///         task.step("charge", async |step| charge_card(step.step_key()).await).await
    ///             .map_err(Failure::from)
    ///     })
    /// };
    /// # async fn charge_card(key: &Key) -> Result<String, semel::Error> {
    /// #     Ok(format!("charged under {}", key.as_str()))
    /// # }
    /// let first = charge().await?;
    /// let redelivered = charge().await?;
    /// assert!(redelivered.replayed && redelivered.value == first.value);
    ///
    /// let reused = tasks.run(&key, &("book", 99), async |_| Ok(())).await.unwrap_err();
    /// assert!(matches!(Decision::of(&reused), Decision::DeadLetter { .. }));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancellation
    /// Dropping the future drops the body; its outcome is *unknown* then, the store is told so,
    /// and the mode decides.
    ///
    /// # Panics
    /// A panic of the body goes on to the caller; the record is *unknown*.
    ///
    /// # Errors
    /// As [`Guard::run`]; [`ErrorKind::Invalid`] for a payload that is no JSON;
    /// [`ErrorKind::Unavailable`] when too many attempts are open
    /// ([`Heart::with_attempts_max`]).
    pub async fn run<P, T, F, Fut>(
        &self,
        key: &Key,
        payload: &P,
        body: F,
    ) -> Result<Answer<T>, Error>
    where
        P: Serialize + ?Sized,
        T: Serialize + DeserializeOwned,
        F: FnMut(Task) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let fingerprint = payload::fingerprint(&self.secret, payload)?;
        self.run_as(&self.tenant, key, fingerprint, body).await
    }

    /// [`run`](Self::run) for a tenant and a fingerprint of your own.
    ///
    /// # Cancellation, panics, errors
    /// As [`run`](Self::run).
    pub async fn run_as<T, F, Fut>(
        &self,
        tenant: &Tenant,
        key: &Key,
        fingerprint: Fingerprint,
        mut body: F,
    ) -> Result<Answer<T>, Error>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(Task) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let mut failures = 0;
        loop {
            let error = match self.once(tenant, key, fingerprint, &mut body).await {
                Err(error) if error.kind() == ErrorKind::NotApplied => error,
                ran => return ran,
            };
            failures += 1;
            let pause = self.retry.pause(failures, &**self.guard.random());
            if failures >= self.retry.attempts_max {
                return Err(error.with_retry_after(pause));
            }
            self.guard.clock().sleep(pause).await;
        }
    }

    /// One attempt.
    pub(crate) async fn once<T, F, Fut>(
        &self,
        tenant: &Tenant,
        key: &Key,
        fingerprint: Fingerprint,
        body: F,
    ) -> Result<Answer<T>, Error>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce(Task) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let replay = |outcome: Outcome, expires_at| {
            outcome.into_value().map(|value| Answer { value, replayed: true, expires_at })
        };
        let attempt = match self.begin(tenant, key, fingerprint).await? {
            Begun::Replay { outcome, expires_at } => return replay(outcome, expires_at),
            Begun::Run(attempt) => attempt,
        };
        let result = body(attempt.task().clone()).await;
        let (ending, live) = apart(self.guard.ending(result));
        match attempt.finish(ending).await? {
            Executed::Fresh { expires_at, .. } => {
                live.map(|value| Answer { value, replayed: false, expires_at })
            }
            Executed::Replayed { outcome, expires_at } => replay(outcome, expires_at),
            Executed::NotApplied { .. } | Executed::Unknown { .. } => Err(failed(live)),
        }
    }

    pub(crate) fn claim(&self, tenant: &Tenant, key: &Key, fingerprint: Fingerprint) -> Claim {
        let guard = self.guard.clone();
        Claim { guard, tenant: tenant.clone(), key: key.clone(), fingerprint }
    }
}

/// What is asked of the store, owned, because it is asked on another thread.
pub(crate) struct Claim {
    pub(crate) guard: Guard,
    pub(crate) tenant: Tenant,
    pub(crate) key: Key,
    pub(crate) fingerprint: Fingerprint,
}

/// What the store hears, and what the caller does.
pub(crate) fn apart<T>(ending: Ending<Result<T, Error>>) -> (Ending<()>, Result<T, Error>) {
    let live = ();
    match ending {
        Ending::ClaimLost => (Ending::ClaimLost, Err(lost())),
        Ending::Committed { expires_at, live: value } => {
            (Ending::Committed { expires_at, live }, value)
        }
        Ending::Completed { outcome, live: value } => (Ending::Completed { outcome, live }, value),
        Ending::Hold { detail, live: value } => (Ending::Hold { detail, live }, value),
        Ending::NotApplied { live: value } => (Ending::NotApplied { live }, value),
        Ending::Unknown { detail, live: value } => (Ending::Unknown { detail, live }, value),
    }
}

/// A body that returned a value never ends so.
pub(crate) fn failed<T>(live: Result<T, Error>) -> Error {
    live.err().unwrap_or_else(lost)
}

fn lost() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "the value was lost")
}
