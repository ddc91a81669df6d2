use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use event_listener::Event as Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Guard, Shared, StepFailure};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::fence::Fence;
use crate::fingerprint::Fingerprint;
use crate::key::Key;
use crate::record::Step;
use crate::scope::RecordId;
use crate::store::Renewal;

/// What a handler knows about the claim under which it runs. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    guard: Guard,
    id: RecordId,
    fingerprint: Fingerprint,
    fence: Fence,
    attempts: u32,
    steps: Mutex<Vec<Step>>,
    lost: AtomicBool,
    lost_signal: Signal,
}

/// What a step knows: the key under which its effect is one and the same in every attempt.
#[derive(Clone, Debug)]
pub struct StepContext {
    key: Key,
    fence: Fence,
}

impl StepContext {
    /// The key to hand to the downstream (as its `Idempotency-Key`, its unique column, …).
    #[must_use]
    pub fn step_key(&self) -> &Key {
        &self.key
    }

    /// The fence to hand to a sink that compares fences.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }
}

impl Context {
    pub(super) fn new(
        guard: &Guard,
        id: RecordId,
        fingerprint: Fingerprint,
        fence: Fence,
        steps: Vec<Step>,
        attempts: u32,
    ) -> Self {
        let inner = Inner {
            guard: guard.clone(),
            id,
            fingerprint,
            fence,
            attempts,
            steps: Mutex::new(steps),
            lost: AtomicBool::new(false),
            lost_signal: Signal::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The record's name.
    #[must_use]
    pub fn id(&self) -> &RecordId {
        &self.inner.id
    }

    /// The claim's fence, for sinks that compare fences.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.inner.fence
    }

    /// How many claims this operation has seen, this one included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.inner.attempts
    }

    /// The key of a named part of this operation: equal across attempts, different for each name.
    #[must_use]
    pub fn step_key(&self, name: &str) -> Key {
        Key::derived(&self.inner.id, name)
    }

    /// Whether a heartbeat has found the claim taken over, or the execution has reached
    /// [`Settings::execution_max`](crate::Settings::execution_max). Stop when it is true: no
    /// outcome of this execution will be stored over another's.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        self.inner.lost.load(Ordering::Acquire)
    }

    /// Completes when [`Self::is_lease_lost`] becomes true.
    pub async fn lease_lost(&self) {
        loop {
            let lost = self.inner.lost_signal.listen();
            if self.is_lease_lost() {
                return;
            }
            lost.await;
        }
    }

    /// Runs a part of the operation and stores its result, or returns the result that an earlier
    /// attempt stored. Names must be unique within the operation and stable across releases.
    ///
    /// Only the one step in flight can ever run again; what happens to its effect then is up to
    /// the mode, which is why a step gets a [`StepContext::step_key`].
    ///
    /// # Errors
    /// What the step returned, and [`StepFailure::Unknown`] when its result could not be stored
    /// (claim lost, store unreachable, result over its limit). Hand it on with `?`.
    ///
    /// # Cancellation
    /// Dropping the future between the effect and the store leaves the step to run again.
    pub async fn step<T, E, F, Fut>(&self, name: &str, step: F) -> Result<T, StepFailure>
    where
        T: Serialize + DeserializeOwned,
        E: Into<StepFailure>,
        F: FnOnce(StepContext) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        if let Some(result) = self.step_result(name) {
            return Ok(decoded(name, &result)?);
        }
        let value = step(self.step_context(name)).await.map_err(Into::into)?;
        self.store_step(name, encoded(name, &value)?).await?;
        Ok(value)
    }

    /// What a step of this name gets to know.
    #[must_use]
    pub fn step_context(&self, name: &str) -> StepContext {
        StepContext { key: self.step_key(name), fence: self.fence() }
    }

    /// What a step stored, as bytes: for doors whose step results are not JSON of this program.
    #[must_use]
    pub fn step_result(&self, name: &str) -> Option<Bytes> {
        self.steps().iter().find(|done| done.name == name).map(|done| done.result.clone())
    }

    /// Stores the result of a step as bytes; [`Self::step`] is this with a type. A step that is
    /// there already keeps its first result.
    ///
    /// # Errors
    /// [`ErrorKind::ClaimLost`] when another claim took over, [`ErrorKind::TooLarge`] over a limit
    /// of the settings, and those of the store; each with [`Error::outcome_unknown`] once the store
    /// has been asked.
    ///
    /// # Cancellation
    /// A dropped future may or may not have stored the step.
    pub async fn store_step(&self, name: &str, result: Bytes) -> Result<(), Error> {
        self.keep_step(Step { name: name.to_owned(), result }).await
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.inner.guard.shared
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.inner.fingerprint
    }

    pub(super) fn observe(&self, event: Event) {
        self.shared().observer.event(&event);
    }

    pub(super) fn renewal(&self, step: Option<Step>) -> Renewal {
        let lease = self.shared().settings.lease;
        Renewal { id: self.inner.id.clone(), fence: self.inner.fence, lease, step }
    }

    pub(super) async fn renew(&self, renewal: &Renewal) -> Result<Timestamp, Error> {
        self.shared().store.renew(renewal).await
    }

    pub(super) fn lose_lease(&self) {
        if !self.inner.lost.swap(true, Ordering::AcqRel) {
            self.inner.lost_signal.notify(usize::MAX);
            self.observe(Event::LeaseLost);
        }
    }

    async fn keep_step(&self, step: Step) -> Result<(), Error> {
        let limits = self.shared().settings.limits();
        limits.check_step(&step.name, &step.result, self.steps().len())?;
        let renewal = self.renewal(Some(step.clone()));
        let stored = self.shared().patiently(|| self.shared().store.renew(&renewal)).await;
        match stored {
            Ok(_) => {
                let mut steps = self.steps();
                if steps.iter().all(|done| done.name != step.name) {
                    steps.push(step);
                }
            }
            Err(error) => {
                if error.kind() == ErrorKind::ClaimLost {
                    self.lose_lease();
                }
                return Err(error.with_outcome_unknown());
            }
        }
        Ok(())
    }

    pub(super) fn steps(&self) -> MutexGuard<'_, Vec<Step>> {
        // Nothing panics while it holds the lock.
        self.inner.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn decoded<T: DeserializeOwned>(name: &str, result: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(result).map_err(|error| {
        let message = format!("the stored result of step `{name}` has another type");
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    })
}

pub(super) fn encoded<T: Serialize>(name: &str, value: &T) -> Result<Bytes, Error> {
    let result = serde_json::to_vec(value).map_err(|error| {
        let message = format!("the result of step `{name}` cannot be written as JSON");
        Error::new(ErrorKind::Invalid, message).with_source(error)
    })?;
    Ok(Bytes::from(result))
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.inner.id)
            .field("fence", &self.inner.fence)
            .field("attempts", &self.inner.attempts)
            .finish_non_exhaustive()
    }
}
