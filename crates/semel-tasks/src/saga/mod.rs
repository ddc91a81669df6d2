//! Several effects that belong together: forward step by step, or back again.
//!
//! # What it guarantees
//!
//! 1. Steps run in their order, each a guarded step of one record: its result is stored, a finished
//!    one never runs again, and its effect is what the guard's [`Effect`](semel::Effect) promises
//!    for its step key. [`SagaBuilder::step_in`] commits effect and result in one transaction.
//! 2. A step that is *refused* ([`Failure::Final`]: a declined card) turns the saga round. The
//!    refusal is stored before anything is undone, and from then on no attempt goes forward again.
//! 3. Going back, the compensations of the finished steps run in reverse order, each a guarded step
//!    `undo:NAME` with a step key of its own. Killed in between, the next attempt goes on where
//!    this one stopped.
//! 4. It ends as a stored refusal, a [`Compensated`], that says which step was refused and what was
//!    undone. Every later call gets that answer.
//! 5. Whatever is not a refusal is no reason to turn round: a step that proved `NotApplied` is
//!    tried again as the [`RetryPolicy`] says; one whose effect is unknown ends the attempt, and
//!    the next delivery of the task goes on from the stored steps.
//! 6. A compensation that fails as often as the policy allows leaves the record *held* with the
//!    reason; nothing loops. `semel records` shows it, and an operator decides.
//!
//! Steps with the mode `hold` park the record at the first unknown effect, forward or back. Sagas
//! are better off with steps that are keyed, fenced or transactional.

mod build;
mod part;
mod run;

use std::fmt;
use std::sync::Arc;

use semel::{BoxFuture, Error, Failure};
use serde::{Deserialize, Serialize};

pub use self::build::SagaBuilder;
pub use self::part::Part;

use crate::retry::RetryPolicy;

/// Named steps, each with its compensation. Cheap to clone; made once and used for every task.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), semel::Error> {
/// use semel::{Effect, ErrorKind, Failure, FingerprintKey, Guard, Key, MemoryStore};
/// use semel_tasks::{Compensated, Saga, TaskGuard};
/// use std::sync::Arc;
///
/// let order = Saga::<u32>::builder()
///     .step("reserve", async |part| Ok(format!("seat for {}", part.step_key().as_str())))
///     .undo(async |part, seat: String| Ok(drop((part, seat))))
///     .step("charge", async |part| match *part.input() {
///         euros @ 0..100 => Ok(euros),
///         _ => Err(Failure::final_answer(&"card declined")),
///     })
///     .build()?;
///
/// let guard = Guard::builder(Arc::new(MemoryStore::new()))
///     .operation("order")?
///     .effect(Effect::Keyed)
///     .build()?;
/// let tasks = TaskGuard::new(guard, FingerprintKey::from_secret(b"sixteen bytes or more")?);
/// let charged = async |part: semel_tasks::Part<u32>| part.result::<u32>("charge");
///
/// let paid = tasks.run_saga(&Key::parse("order-17")?, 12, &order, charged).await?;
/// assert_eq!(paid.value, 12);
///
/// let declined = tasks.run_saga(&Key::parse("order-18")?, 1200, &order, charged).await;
/// let declined = declined.unwrap_err();
/// assert_eq!(declined.kind(), ErrorKind::Refused);
/// let how: Compensated = Compensated::of(&declined)?;
/// assert_eq!((&*how.refused, &*how.undone), ("charge", &["reserve".to_owned()][..]));
/// # Ok(())
/// # }
/// ```
pub struct Saga<I> {
    plan: Arc<Plan<I>>,
}

struct Plan<I> {
    steps: Vec<SagaStep<I>>,
    retry: RetryPolicy,
}

/// A step with its name, ready to run under any attempt.
struct SagaStep<I> {
    name: String,
    forward: Act<I>,
    undo: Option<Act<I>>,
}

/// Runs one guarded step to its stored result, or finds it stored.
type Act<I> = Box<dyn Fn(Part<I>) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>;

/// The stored answer of a saga that turned round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compensated {
    /// The step that was refused.
    pub refused: String,
    /// The refusal itself: what the step declared with [`Failure::final_answer`].
    pub refusal: serde_json::Value,
    /// The steps that were undone, in the order in which they were.
    pub undone: Vec<String>,
}

impl Compensated {
    /// Reads the answer from the error of [`run_saga`](crate::TaskGuard::run_saga).
    ///
    /// # Errors
    /// [`Corrupt`](semel::ErrorKind::Corrupt) when the error holds no refusal of a saga.
    pub fn of(error: &Error) -> Result<Self, Error> {
        let none = || Error::new(semel::ErrorKind::Corrupt, "the error holds no stored refusal");
        error.refusal().ok_or_else(none)?.to_json()
    }
}

impl<I> Saga<I> {
    /// Starts a saga over an input, the payload of its task.
    pub fn builder() -> SagaBuilder<I> {
        SagaBuilder::new()
    }

    /// The names of the steps, in their order.
    pub fn steps(&self) -> impl Iterator<Item = &str> {
        self.plan.steps.iter().map(|step| &*step.name)
    }
}

impl<I> Clone for Saga<I> {
    fn clone(&self) -> Self {
        Self { plan: Arc::clone(&self.plan) }
    }
}

impl<I> fmt::Debug for Saga<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps()).finish()
    }
}

/// The name under which the compensation of a step is stored.
fn undo_of(name: &str) -> String {
    format!("undo:{name}")
}
