use std::fmt;
use std::future::Future;
use std::sync::Arc;

use semel::{BoxFuture, Error, ErrorKind, Failure, StepFailure, TransactionalStore};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Act, Part, Plan, Saga, SagaStep};
use crate::failpoint;
use crate::retry::RetryPolicy;
use crate::task;

/// Builds a [`Saga`].
#[must_use]
pub struct SagaBuilder<I> {
    steps: Vec<SagaStep<I>>,
    retry: RetryPolicy,
    problem: Option<String>,
}

impl<I: Send + Sync + 'static> SagaBuilder<I> {
    /// The next step. What it returns is stored; later steps read it with [`Part::result`].
    ///
    /// It is refused for good by [`Failure::final_answer`], which turns the saga round; any other
    /// failure is tried again, in this attempt ([`Failure::NotApplied`]) or the next.
    pub fn step<T, F, Fut>(self, name: &str, forward: F) -> Self
    where
        T: Serialize + Send,
        F: Fn(Part<I>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Failure>> + Send,
    {
        let forward = Arc::new(forward);
        self.push(
            name,
            guarded(move |part| {
                let forward = Arc::clone(&forward);
                async move { forward(part).await }
            }),
        )
    }

    /// The next step, whose effect is in the store's own database: effect and result commit in one
    /// transaction. See [`Context::step_in`](semel::Context::step_in).
    pub fn step_in<S, T, F>(self, store: Arc<S>, name: &str, forward: F) -> Self
    where
        S: TransactionalStore + 'static,
        T: Serialize + DeserializeOwned + Send,
        F: for<'t> Fn(Part<I>, &'t mut S::Transaction) -> BoxFuture<'t, Result<T, Failure>>
            + Send
            + Sync
            + 'static,
    {
        self.push(name, transactional(store, forward))
    }

    /// The compensation of the step before. It gets what the step returned, and may not refuse:
    /// one that keeps failing leaves the record held.
    pub fn undo<T, F, Fut>(self, undo: F) -> Self
    where
        T: DeserializeOwned + Send,
        F: Fn(Part<I>, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send,
    {
        let undo = Arc::new(undo);
        self.compensate(move |name| {
            guarded(move |part| {
                let (undo, name) = (Arc::clone(&undo), name.clone());
                async move {
                    let result = part.result(&name)?;
                    undo(part, result).await
                }
            })
        })
    }

    /// The compensation of the step before, whose effect is in the store's own database.
    pub fn undo_in<S, F>(self, store: Arc<S>, undo: F) -> Self
    where
        S: TransactionalStore + 'static,
        F: for<'t> Fn(Part<I>, &'t mut S::Transaction) -> BoxFuture<'t, Result<(), Failure>>
            + Send
            + Sync
            + 'static,
    {
        self.compensate(move |_| transactional(store, undo))
    }

    /// How often a step that provably did nothing is tried again within an attempt, and how often
    /// a compensation. Default: [`RetryPolicy::default`].
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Checks the names and the policy.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for a saga without steps, a name that is there twice, is empty, too
    /// long or has a colon, and a compensation without a step.
    pub fn build(self) -> Result<Saga<I>, Error> {
        self.retry.validate()?;
        let Self { steps, retry, problem } = self;
        let problem =
            problem.or_else(|| steps.is_empty().then(|| "the saga has no step".to_owned()));
        match problem {
            Some(problem) => Err(Error::new(ErrorKind::Settings, problem)),
            None => Ok(Saga { plan: Arc::new(Plan { steps, retry }) }),
        }
    }

    fn push(mut self, name: &str, forward: Act<I>) -> Self {
        let twice = self.steps.iter().any(|step| step.name == name);
        let rule = if twice {
            "is there twice; its stored result would be taken for the other's"
        } else if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(':') {
            "must have 1 to 200 bytes and no colon"
        } else {
            ""
        };
        if !rule.is_empty() {
            self.problem.get_or_insert(format!("the step `{name}` {rule}"));
        }
        self.steps.push(SagaStep { name: name.to_owned(), forward, undo: None });
        self
    }

    fn compensate(mut self, undo: impl FnOnce(String) -> Act<I>) -> Self {
        match self.steps.last_mut() {
            Some(step) if step.undo.is_none() => step.undo = Some(undo(step.name.clone())),
            _ => {
                let problem = "a compensation belongs to the step before it, one to each";
                self.problem.get_or_insert(problem.to_owned());
            }
        }
        self
    }
}

/// Room for `undo:` in front.
const NAME_BYTES_MAX: usize = 200;

impl<I> SagaBuilder<I> {
    pub(super) fn new() -> Self {
        Self { steps: Vec::new(), retry: RetryPolicy::default(), problem: None }
    }
}

impl<I> fmt::Debug for SagaBuilder<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| &step.name)).finish()
    }
}

/// A step whose effect is somewhere, and whose result is stored after it.
fn guarded<I, T, F, Fut>(act: F) -> Act<I>
where
    I: Send + Sync + 'static,
    T: Serialize + Send,
    F: Fn(Part<I>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, Failure>> + Send + 'static,
{
    Box::new(move |part| {
        let (task, name) = (part.task.clone(), Arc::clone(&part.name));
        let act = act(part);
        Box::pin(async move {
            let value = act.await?;
            failpoint::pass("tasks:after_effect");
            task.store_step(&name, task::encoded(&name, &value)?).await?;
            Ok(())
        })
    })
}

/// A step whose effect and result commit together.
fn transactional<I, S, T, F>(store: Arc<S>, act: F) -> Act<I>
where
    I: Send + Sync + 'static,
    S: TransactionalStore + 'static,
    T: Serialize + DeserializeOwned + Send,
    F: for<'t> Fn(Part<I>, &'t mut S::Transaction) -> BoxFuture<'t, Result<T, Failure>>
        + Send
        + Sync
        + 'static,
{
    let act = Arc::new(act);
    Box::new(move |part| {
        let (store, act) = (Arc::clone(&store), Arc::clone(&act));
        Box::pin(async move {
            let (task, name) = (part.task.clone(), Arc::clone(&part.name));
            // What a step says besides "failed" is kept beside it, because nothing of the
            // transaction remains.
            let mut said = None;
            let step = async |transaction: &mut S::Transaction, _| {
                act(part, transaction).await.map_err(|failure| {
                    said = Some(failure);
                    StepFailure::Unknown("the step failed and was rolled back".into())
                })
            };
            let stepped = task.step_in::<_, T, _, _>(&*store, &name, step).await;
            match (stepped, said) {
                (Ok(_), _) => Ok(()),
                // Rolled back, so nothing happened, whatever the error was.
                (Err(_), Some(Failure::Unknown(error))) => Err(Failure::NotApplied(error)),
                (Err(_), Some(failure)) => Err(failure),
                (Err(error), None) => Err(error.into()),
            }
        })
    })
}
