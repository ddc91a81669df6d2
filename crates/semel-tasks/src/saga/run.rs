use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use semel::{Answer, BoxError, Ending, Error, ErrorKind, Executed, Failure, Key, Outcome, Verdict};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Act, Compensated, Part, Saga, undo_of};
use crate::attempt::Begun;
use crate::failpoint;
use crate::guard::{TaskGuard, apart, failed};
use crate::payload;
use crate::task;

/// Under this name the refusal that turned a saga round is stored. A colon keeps it apart from the
/// names of steps.
const REFUSED: &str = "saga:refused";

/// The refusal that turned a saga round.
#[derive(Serialize, Deserialize)]
struct Turned {
    step: String,
    refusal: serde_json::Value,
}

/// Why an attempt at a saga ends without an answer.
enum Stop {
    /// Ask again with the next delivery; the stored steps are there.
    Later(BoxError),
    /// Nothing has happened yet.
    NotApplied(BoxError),
    /// Somebody has to look.
    Hold(String),
}

impl TaskGuard {
    /// Runs a saga once for this key, or returns its stored answer. `answer` makes the answer of a
    /// saga that went through, from the results of its steps.
    ///
    /// # Cancellation
    /// As [`run`](Self::run): the step in flight is unknown, finished ones are kept.
    ///
    /// # Errors
    /// As [`run`](Self::run). [`ErrorKind::Refused`] when the saga turned round and everything is
    /// undone: [`Compensated::of`] reads how. [`ErrorKind::OutcomeUnknown`] when it is not over:
    /// delivered again it goes on, unless the error [is held](Error::is_held).
    pub async fn run_saga<I, T, F, Fut>(
        &self,
        key: &Key,
        input: I,
        saga: &Saga<I>,
        answer: F,
    ) -> Result<Answer<T>, Error>
    where
        I: Serialize + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        F: FnOnce(Part<I>) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let fingerprint = payload::fingerprint(self.secret(), &input)?;
        let attempt = match self.begin(self.tenant(), key, fingerprint).await? {
            Begun::Replay { outcome, expires_at } => {
                let value = outcome.into_value()?;
                return Ok(Answer { value, replayed: true, expires_at });
            }
            Begun::Run(attempt) => attempt,
        };
        let part = Part { task: attempt.task().clone(), input: Arc::new(input), name: "".into() };
        let ended = saga.drive(self, &part).await;
        failpoint::pass("tasks:before_end");
        let (ending, live) = match ended {
            Ok(None) => match answer(part).await {
                Ok(value) => apart(self.guard.ending(Ok(value))),
                Err(error) => stopped(Stop::Later(error.into())),
            },
            Ok(Some(compensated)) => refused(&compensated),
            Err(stop) => stopped(stop),
        };
        match attempt.finish(ending).await? {
            Executed::Fresh { expires_at, .. } => {
                live.map(|value| Answer { value, replayed: false, expires_at })
            }
            Executed::Replayed { outcome, expires_at } => {
                let value = outcome.into_value()?;
                Ok(Answer { value, replayed: true, expires_at })
            }
            Executed::NotApplied { .. } => Err(failed(live)),
            Executed::Unknown { .. } => {
                let error = failed(live);
                Err(if self.guard.effect().holds() { error.with_held() } else { error })
            }
        }
    }
}

impl<I: Send + Sync + 'static> Saga<I> {
    /// Forward, or back if the saga has turned round in this or an earlier attempt.
    async fn drive(&self, tasks: &TaskGuard, part: &Part<I>) -> Result<Option<Compensated>, Stop> {
        let turned = match part.task.step_result(REFUSED) {
            Some(turned) => Some(task::decoded(REFUSED, &turned).map_err(later)?),
            None => self.forward(tasks, part).await?,
        };
        match turned {
            None => Ok(None),
            Some(turned) => self.back(tasks, part, turned).await.map(Some),
        }
    }

    async fn forward(&self, tasks: &TaskGuard, part: &Part<I>) -> Result<Option<Turned>, Stop> {
        let mut has_begun = false;
        for step in &self.plan.steps {
            if part.task.step_result(&step.name).is_none() {
                failpoint::pass("tasks:before_step");
                match self.act(tasks, &step.forward, &part.named(&step.name), false).await {
                    Ok(()) => failpoint::pass("tasks:after_step"),
                    Err(Failure::Final(outcome)) => {
                        return turn(part, &step.name, &outcome).await.map(Some).map_err(later);
                    }
                    Err(Failure::NotApplied(error)) if !has_begun && part.task.attempts() == 1 => {
                        return Err(Stop::NotApplied(error));
                    }
                    Err(Failure::NotApplied(error) | Failure::Unknown(error)) => {
                        return Err(Stop::Later(error));
                    }
                }
            }
            has_begun = true;
        }
        Ok(None)
    }

    async fn back(
        &self,
        tasks: &TaskGuard,
        part: &Part<I>,
        turned: Turned,
    ) -> Result<Compensated, Stop> {
        let mut undone = Vec::new();
        for step in self.plan.steps.iter().rev() {
            let Some(undo) = &step.undo else { continue };
            if part.task.step_result(&step.name).is_none() {
                continue;
            }
            let name = undo_of(&step.name);
            if part.task.step_result(&name).is_none() {
                failpoint::pass("tasks:before_undo");
                self.act(tasks, undo, &part.named(&name), true)
                    .await
                    .map_err(|failure| Self::stuck(&step.name, part, failure))?;
                failpoint::pass("tasks:after_undo");
            }
            undone.push(step.name.clone());
        }
        Ok(Compensated { refused: turned.step, refusal: turned.refusal, undone })
    }

    /// One step, tried again as the policy says. Going back there is no other way out, so a
    /// compensation is tried again after every failure that its mode allows.
    async fn act(
        &self,
        tasks: &TaskGuard,
        act: &Act<I>,
        part: &Part<I>,
        is_undo: bool,
    ) -> Result<(), Failure> {
        let mut failures = 0;
        loop {
            if part.task.is_lease_lost() {
                let error =
                    Error::new(ErrorKind::ClaimLost, "the claim is lost; nothing more is begun");
                return Err(error.into());
            }
            let Err(failure) = act(part.clone()).await else { return Ok(()) };
            let again = match &failure {
                Failure::NotApplied(_) => true,
                Failure::Unknown(_) => is_undo && !tasks.guard.effect().holds(),
                Failure::Final(_) => is_undo,
            };
            failures += 1;
            if !again || failures >= self.plan.retry.attempts_max {
                return Err(failure);
            }
            let pause = self.plan.retry.pause(failures, &**tasks.guard.random());
            tasks.guard.clock().sleep(pause).await;
        }
    }

    fn stuck(name: &str, part: &Part<I>, failure: Failure) -> Stop {
        let error = match failure {
            Failure::Final(_) => "it was refused, which a compensation may not be".into(),
            Failure::NotApplied(error) | Failure::Unknown(error) => error,
        };
        if part.task.is_lease_lost() {
            return Stop::Later(error);
        }
        Stop::Hold(format!("the compensation of step `{name}` keeps failing: {error}"))
    }
}

/// Stores the refusal: from here on there is only back.
async fn turn<I>(part: &Part<I>, step: &str, refusal: &Outcome) -> Result<Turned, Error> {
    failpoint::pass("tasks:refused");
    let turned = Turned {
        step: step.to_owned(),
        refusal: refusal.to_json().unwrap_or(serde_json::Value::Null),
    };
    let stored: Bytes = task::encoded(REFUSED, &turned)?;
    part.task.store_step(REFUSED, stored).await?;
    failpoint::pass("tasks:after_refusal");
    Ok(turned)
}

fn later(error: Error) -> Stop {
    Stop::Later(error.into())
}

fn refused<T>(compensated: &Compensated) -> (Ending<()>, Result<T, Error>) {
    match Outcome::json(Verdict::Refused, compensated) {
        Ok(outcome) => {
            let live = Err(Error::refused(outcome.clone()));
            (Ending::Completed { outcome, live: () }, live)
        }
        Err(error) => stopped(later(error)),
    }
}

fn stopped<T>(stop: Stop) -> (Ending<()>, Result<T, Error>) {
    match stop {
        Stop::Later(cause) => {
            let detail = format!("the saga is not over: {cause}");
            let error = Error::new(ErrorKind::OutcomeUnknown, detail.clone()).with_source(cause);
            (Ending::Unknown { detail, live: () }, Err(error))
        }
        Stop::NotApplied(cause) => {
            let message = "the first step proved that nothing happened; the key is free again";
            let error = Error::new(ErrorKind::NotApplied, message).with_source(cause);
            (Ending::NotApplied { live: () }, Err(error))
        }
        Stop::Hold(detail) => {
            let error = Error::new(ErrorKind::OutcomeUnknown, detail.clone()).with_held();
            (Ending::Hold { detail, live: () }, Err(error))
        }
    }
}
