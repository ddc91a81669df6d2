//! Effects in the store's own database: outcome or step, and effect, in one transaction.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::context::{Context, StepContext, decoded, encoded};
use super::{Ending, StepFailure};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::failpoint;
use crate::outcome::Outcome;
use crate::record::{Record, State, Step};
use crate::store::{Completion, Renewal, TransactionalStore};

impl Context {
    /// The completion of this claim with an outcome, for a transaction of your own
    /// (`SqliteStore::complete_in`, say).
    #[must_use]
    pub fn completion(&self, outcome: Outcome) -> Completion {
        let retention = self.shared().settings.retention;
        Completion { id: self.id().clone(), fence: self.fence(), outcome, retention }
    }

    /// Completes the record inside `transaction` and commits both, so that effect and record
    /// exist together or not at all.
    ///
    /// A commit whose answer is lost is decided by the record, which was in the same transaction:
    /// by the store, or by reading it back here. Where neither can tell, the ending is unknown.
    /// Hand the ending on to [`Guard::execute`](super::Guard::execute).
    pub async fn commit<T: TransactionalStore, L>(
        &self,
        store: &T,
        transaction: T::Transaction,
        outcome: Outcome,
        live: L,
    ) -> Ending<L> {
        failpoint::pass("before_complete");
        let completion = self.completion(outcome);
        let error = match store.commit(transaction, &completion).await {
            Ok(expires_at) => return Ending::Committed { expires_at, live },
            Err(error) if error.kind() == ErrorKind::ClaimLost => return Ending::ClaimLost,
            Err(error) if !error.outcome_unknown() => return Ending::NotApplied { live },
            Err(error) => error,
        };
        self.observe(Event::StoreError { kind: error.kind() });
        match self.shared().patiently(|| store.get(self.id())).await {
            Ok(Some(record)) if record.fence == self.fence() => match record.state {
                State::Completed { expires_at, .. } => Ending::Committed { expires_at, live },
                // The commit may still be on its way to the server. Only the store knows how to
                // wait for its end, and it has given up.
                State::Held(_) | State::InProgress { .. } | State::Interrupted { .. } => {
                    Ending::Unknown { detail: unanswered(&error), live }
                }
            },
            Ok(_) => Ending::ClaimLost,
            Err(_) => Ending::Unknown { detail: unanswered(&error), live },
        }
    }

    /// The renewal of this claim that stores a step, for a transaction of your own
    /// (`SqliteStore::step_in`, say). [`Self::step_result`] shows it to the next attempt only;
    /// stored a second time in this one, it is refused.
    #[must_use]
    pub fn step_renewal(&self, name: &str, result: Bytes) -> Renewal {
        self.renewal(Some(Step { name: name.to_owned(), result }))
    }

    /// [`Self::step`] whose effect is in the store's own database: effect and result commit in one
    /// transaction, so the step happens exactly once, whatever is killed in between.
    ///
    /// ```
    /// # use semel::{Context, StepFailure, TransactionalStore};
    /// # async fn run<S: TransactionalStore>(ctx: Context, store: &S) -> Result<(), StepFailure> {
    /// let order: u64 = ctx
    ///     .step_in(store, "order", async |transaction, step| {
    ///         // Insert with `transaction`; what is returned is stored with it.
    ///         # let _ = (transaction, step);
    ///         Ok::<_, StepFailure>(17)
    ///     })
    ///     .await?;
    /// # let _ = order;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Always [`StepFailure::Unknown`], also for a step that was rolled back and so did nothing:
    /// the steps before it have happened, and must not be forgotten with it. Hand it on with `?`;
    /// the next attempt goes on where this one failed.
    ///
    /// # Cancellation
    /// Dropping the future rolls back, unless the commit is under way; the record tells then.
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
        if let Some(result) = self.step_result(name) {
            return Ok(decoded(name, &result)?);
        }
        let mut transaction = store.begin().await?;
        let value = match step(&mut transaction, self.step_context(name)).await {
            Ok(value) => value,
            Err(failure) => {
                // Dropped it would be rolled back as well, only later.
                drop(store.rollback(transaction).await);
                return Err(failure.into().into_unknown());
            }
        };
        let step = Step { name: name.to_owned(), result: encoded(name, &value)? };
        self.shared().settings.limits().check_step(name, &step.result, self.steps().len())?;
        self.commit_step(store, transaction, step).await?;
        Ok(value)
    }

    /// A commit whose answer is lost is decided by the step, which was in the same transaction.
    async fn commit_step<S: TransactionalStore>(
        &self,
        store: &S,
        transaction: S::Transaction,
        step: Step,
    ) -> Result<(), Error> {
        let renewal = self.renewal(Some(step.clone()));
        let committed = store.commit_step(transaction, &renewal).await;
        if let Err(error) = committed {
            if error.kind() == ErrorKind::ClaimLost {
                self.lose_lease();
            }
            if !error.outcome_unknown() {
                return Err(error);
            }
            self.observe(Event::StoreError { kind: error.kind() });
            let record = self.shared().patiently(|| store.get(self.id())).await;
            let is_kept = |record: Record| {
                record.fence == self.fence() && record.steps.iter().any(|it| it.name == step.name)
            };
            if !record.is_ok_and(|record| record.is_some_and(is_kept)) {
                return Err(error);
            }
        }
        self.steps().push(step);
        Ok(())
    }
}

fn unanswered(error: &Error) -> String {
    format!("the commit was not answered: {error}")
}
