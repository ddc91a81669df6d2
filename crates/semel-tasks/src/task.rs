//! What a body knows about the claim under which it runs.

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use semel::{
    Context, Error, ErrorKind, Fence, Key, RecordId, StepContext, StepFailure, TransactionalStore,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::heart;

/// What a body knows about the claim under which it runs. Cheap to clone.
///
/// Whatever it writes carries the claim's fence, so a clone that outlives the attempt can change
/// nothing.
#[derive(Clone)]
pub struct Task {
    context: Context,
    runtime: Handle,
    process: u32,
}

impl Task {
    pub(crate) fn new(context: Context, runtime: Handle) -> Self {
        Self { context, runtime, process: std::process::id() }
    }

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

    /// Runs a part of the operation and stores its result, or returns the result that an earlier
    /// attempt stored. Names are unique within the operation and stable across releases.
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
        let value = step(self.context.step_context(name)).await.map_err(Into::into)?;
        self.store_step(name, encoded(name, &value)?).await?;
        Ok(value)
    }

    /// [`step`](Self::step) whose effect is in the store's own database: effect and result commit
    /// in one transaction; see [`Context::step_in`]. The transaction runs where this is awaited.
    ///
    /// # Cancellation, errors
    /// As [`Context::step_in`].
    pub async fn step_in<S, T, E, F>(
        &self,
        store: &S,
        name: &str,
        step: F,
    ) -> Result<T, StepFailure>
    where
        S: TransactionalStore,
        T: Serialize + DeserializeOwned,
        E: Into<StepFailure>,
        F: AsyncFnOnce(&mut S::Transaction, StepContext) -> Result<T, E>,
    {
        self.check_process()?;
        self.context.step_in(store, name, step).await
    }

    /// A forked child holds a copy that nobody keeps alive or listens to.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
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

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("context", &self.context).finish_non_exhaustive()
    }
}

pub(crate) fn decoded<T: DeserializeOwned>(name: &str, result: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(result).map_err(|error| {
        let message = format!("the stored result of step `{name}` has another type");
        Error::new(ErrorKind::Corrupt, message).with_source(error)
    })
}

pub(crate) fn encoded<T: Serialize>(name: &str, value: &T) -> Result<Bytes, Error> {
    let result = serde_json::to_vec(value).map_err(|error| {
        let message = format!("the result of step `{name}` cannot be written as JSON");
        Error::new(ErrorKind::Invalid, message).with_source(error)
    })?;
    Ok(Bytes::from(result))
}
