//! A layer for workers of apalis 1.
//!
//! apalis keeps a key from being *put in* twice, for as long as it knows the task. A task that is
//! delivered twice (a worker that was thought dead, a lost lease, a crash before the
//! acknowledgement) runs twice. [`GuardLayer`] makes it run once:
//!
//! | what happened | what apalis hears |
//! |---|---|
//! | it ran, or it had run before | the result; the stored one if it had run |
//! | another worker has it, the store is away | nothing yet: the delivery waits in its place |
//! | it proved `NotApplied`, or may run again | an error: failed, up to `max_attempts` |
//! | it is held, its key is used for something else or too old | `AbortError`: killed, with why |
//! | it was refused for good, now or before | `AbortError` |
//!
//! A delivery that has to wait is never acknowledged and never handed back, because no way back is
//! safe on every backend: a `RetryAfterError` makes a task pending again, which apalis-sqlite 1.0
//! never takes up, and an error counts against `max_attempts`. It asks again as often as
//! [`Decision::Reschedule`] says, for [`GuardLayer::with_wait`] at most; then it is an error.
//!
//! The handler gets its [`Task`] as an argument, for steps and step keys, and may return a
//! [`Failure`] as its error. Errors of any other type are unknown outcomes; an `AbortError` is
//! taken as a refusal that its author declared.
//!
//! ```
//! use apalis_core::{backend::memory::MemoryStorage, worker::builder::WorkerBuilder};
//! use semel::{Effect, Failure, FingerprintKey, Guard, MemoryStore};
//! use semel_tasks::{Task, TaskGuard, apalis::GuardLayer};
//! use std::sync::Arc;
//!
//! async fn charge(order: u64, task: Task) -> Result<String, Failure> {
//!     Ok(format!("order {order} charged under {}", task.step_key("charge").as_str()))
//! }
//!
//! let guard = Guard::builder(Arc::new(MemoryStore::new()))
//!     .operation("charge")?
//!     .effect(Effect::Keyed)
//!     .build()?;
//! let tasks = TaskGuard::new(guard, FingerprintKey::from_secret(b"sixteen bytes or more")?);
//! let worker = WorkerBuilder::new("charges")
//!     .backend(MemoryStorage::<u64>::new())
//!     .layer(GuardLayer::new(tasks))
//!     .build(charge);
//! # drop(worker);
//! # Ok::<(), semel::Error>(())
//! ```

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::error::{AbortError, BoxDynError};
use apalis_core::task::Task as Delivery;
use apalis_core::task::data::MissingDataError;
use apalis_core::task::from_request::FromRequest;
use apalis_core::task::status::Status;
use semel::{BoxFuture, Error, ErrorKind, Failure, Key};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower_layer::Layer;
use tower_service::Service;

use crate::decision::Decision;
use crate::guard::TaskGuard;
use crate::payload;
use crate::task::Task;

/// Where the key of a task comes from. Closures are such a place.
pub trait KeyOf<Args>: Send + Sync + 'static {
    /// The key of this task.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a task without one; it is killed, not run.
    fn key_of(&self, task: &Delivery<Args>) -> Result<Key, Error>;
}

impl<Args, F> KeyOf<Args> for F
where
    F: Fn(&Delivery<Args>) -> Result<Key, Error> + Send + Sync + 'static,
{
    fn key_of(&self, task: &Delivery<Args>) -> Result<Key, Error> {
        self(task)
    }
}

/// The idempotency key of a task, or else its id: [`key_of`].
#[derive(Clone, Copy, Debug)]
pub struct OwnKey;

impl<Args> KeyOf<Args> for OwnKey {
    fn key_of(&self, task: &Delivery<Args>) -> Result<Key, Error> {
        key_of(task)
    }
}

/// Guards every task of a worker. See the [module's page](self).
pub struct GuardLayer<K = OwnKey> {
    tasks: TaskGuard,
    key_of: Arc<K>,
    wait_max: Duration,
}

impl GuardLayer {
    /// Tasks are known by their idempotency key, or else by their id.
    #[must_use]
    pub fn new(tasks: TaskGuard) -> Self {
        let wait_max = tasks.guard().settings().execution_max;
        Self { tasks, key_of: Arc::new(OwnKey), wait_max }
    }

    /// Tasks are known by a key of your own, from their arguments for example: a business key also
    /// recognises a task that was put in twice.
    #[must_use]
    pub fn with_key<Args, F>(self, key_of: F) -> GuardLayer<F>
    where
        F: Fn(&Delivery<Args>) -> Result<Key, Error> + Send + Sync + 'static,
    {
        let Self { tasks, wait_max, .. } = self;
        GuardLayer { tasks, key_of: Arc::new(key_of), wait_max }
    }
}

impl<K> GuardLayer<K> {
    /// How long a delivery waits in its place for another worker or for the store. Default: the
    /// guard's [`execution_max`](semel::Settings::execution_max), after which no other worker
    /// still has it.
    #[must_use]
    pub fn with_wait(mut self, wait_max: Duration) -> Self {
        self.wait_max = wait_max;
        self
    }
}

/// The idempotency key of a task, or else its id.
///
/// # Errors
/// [`ErrorKind::Invalid`] when it has neither, or what it has breaks the rule for keys.
pub fn key_of<Args>(task: &Delivery<Args>) -> Result<Key, Error> {
    if let Some(key) = task.idempotency_key() {
        return Key::parse(key);
    }
    let id = task.task_id().map(ToString::to_string);
    Key::parse(&id.ok_or_else(|| {
        let message = "the task has neither an idempotency key nor an id; give it a key";
        Error::new(ErrorKind::Invalid, message)
    })?)
}

/// What a worker must hear about an error of this door; for handlers that run a saga or a task of
/// their own, without the layer.
#[must_use]
pub fn error_for(error: Error) -> BoxDynError {
    match Decision::of(&error) {
        Decision::Acknowledge | Decision::DeadLetter { .. } | Decision::Park { .. } => {
            Box::new(AbortError::new(error))
        }
        Decision::Reschedule { .. } => error.into(),
    }
}

impl<K, S> Layer<S> for GuardLayer<K> {
    type Service = GuardService<K, S>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService { layer: self.clone(), inner }
    }
}

/// A service whose tasks run once; made by [`GuardLayer`].
pub struct GuardService<K, S> {
    layer: GuardLayer<K>,
    inner: S,
}

impl<Args, K, S> Service<Delivery<Args>> for GuardService<K, S>
where
    K: KeyOf<Args>,
    Args: Serialize + Send + Sync + 'static,
    S: Service<Delivery<Args>> + Clone + Send + 'static,
    S::Response: Serialize + DeserializeOwned + Send,
    S::Error: Into<BoxDynError>,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<S::Response, BoxDynError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, task: Delivery<Args>) -> Self::Future {
        // The one that was polled to be ready; its clone waits for its turn.
        let unready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, unready);
        let layer = self.layer.clone();
        let status = task.raw_status().clone();
        Box::pin(async move {
            let answer = layer.run(inner, task).await.map_err(error_for);
            // apalis writes down what the handler's own future left here, not what the layers
            // above it answer, and nothing at all if the handler was not called.
            status.store(match &answer {
                Ok(_) => Status::Done,
                Err(error) if error.is::<AbortError>() => Status::Killed,
                Err(_) => Status::Failed,
            });
            answer
        })
    }
}

impl<K> GuardLayer<K> {
    async fn run<Args, S>(&self, inner: S, task: Delivery<Args>) -> Result<S::Response, Error>
    where
        K: KeyOf<Args>,
        Args: Serialize,
        S: Service<Delivery<Args>>,
        S::Response: Serialize + DeserializeOwned,
        S::Error: Into<BoxDynError>,
    {
        let (tasks, clock) = (&self.tasks, self.tasks.guard().clock());
        let key = self.key_of.key_of(&task)?;
        let fingerprint = payload::fingerprint(tasks.secret(), &task.args)?;
        let deadline = clock.now().after(self.wait_max);
        let mut call = Some((inner, task));
        loop {
            let body = async |guarded: Task| {
                let Some((mut inner, mut task)) = call.take() else { return Err(gone()) };
                task.inject_data(guarded);
                inner.call(task).await.map_err(|error| declared(error.into()))
            };
            let error = match tasks.once(tasks.tenant(), &key, fingerprint, body).await {
                Ok(answer) => return Ok(answer.value),
                Err(error) => error,
            };
            match Decision::of(&error) {
                Decision::Reschedule { after } if call.is_some() && clock.now() < deadline => {
                    clock.sleep(after).await;
                }
                _ => return Err(error),
            }
        }
    }
}

/// Not reached: a call that is gone is not tried again.
fn gone() -> Failure {
    Failure::not_applied("the delivery was called before")
}

/// What the handler's error says about the effect.
fn declared(error: BoxDynError) -> Failure {
    match error.downcast::<AbortError>() {
        Ok(abort) => Failure::final_answer(&abort.to_string()),
        Err(error) => Failure::from_boxed(error),
    }
}

/// Handlers take the [`Task`] under which they run as an argument.
impl<Args: Sync> FromRequest<Delivery<Args>> for Task {
    type Error = MissingDataError;

    async fn from_request(delivery: &Delivery<Args>) -> Result<Self, MissingDataError> {
        delivery.data().get_checked::<Self>().cloned()
    }
}

impl<K> Clone for GuardLayer<K> {
    fn clone(&self) -> Self {
        let (tasks, key_of) = (self.tasks.clone(), Arc::clone(&self.key_of));
        Self { tasks, key_of, wait_max: self.wait_max }
    }
}

impl<K, S: Clone> Clone for GuardService<K, S> {
    fn clone(&self) -> Self {
        Self { layer: self.layer.clone(), inner: self.inner.clone() }
    }
}

impl<K> fmt::Debug for GuardLayer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardLayer").field("tasks", &self.tasks).finish_non_exhaustive()
    }
}

impl<K, S> fmt::Debug for GuardService<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardService").field("layer", &self.layer).finish_non_exhaustive()
    }
}
