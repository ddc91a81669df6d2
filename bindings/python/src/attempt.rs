//! A claim that Python holds, and an answer that it replays.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pyo3::prelude::*;
use semel::{Ending, Error, ErrorKind, Failure, Outcome, State, Timestamp, Verdict};
use semel_stores::{Kind, Opened};
use semel_tasks::{Task, TaskGuard};
use serde_json::value::RawValue;

use crate::error::{invalid, raised, seconds};
use crate::notifier;
use crate::pending::{Answer, Pending};
use crate::process::{heart, lock};

/// A stored answer.
#[pyclass(frozen, module = "semel._semel")]
pub(crate) struct Replay {
    /// The answer, as JSON.
    #[pyo3(get)]
    json: String,
    /// When its record expires.
    #[pyo3(get)]
    expires_at: f64,
}

impl Replay {
    pub(crate) fn of(outcome: Outcome, expires_at: Timestamp) -> Result<Self, Error> {
        let value: Box<RawValue> = outcome.into_value()?;
        Ok(Self { json: value.get().to_owned(), expires_at: seconds(expires_at) })
    }
}

/// A claim that is held and kept alive until it is finished or dropped.
#[pyclass(frozen, module = "semel._semel")]
pub(crate) struct Attempt {
    held: Mutex<Option<semel_tasks::Attempt>>,
    task: Task,
    tasks: TaskGuard,
    store: Arc<Opened>,
}

impl Attempt {
    pub(crate) fn new(held: semel_tasks::Attempt, tasks: TaskGuard, store: Arc<Opened>) -> Self {
        let task = held.task().clone();
        Self { held: Mutex::new(Some(held)), task, tasks, store }
    }

    fn finish(&self, py: Python<'_>, ending: Ending<()>) -> PyResult<Pending> {
        let held = self.take().map_err(|error| raised(py, &error))?;
        Pending::start(py, async move { held.finish(ending).await.map(Answer::Executed) })
    }

    fn take(&self) -> Result<semel_tasks::Attempt, Error> {
        lock(&self.held).take().ok_or_else(|| invalid("the attempt has ended already"))
    }

    /// The outcome of a value or a refusal, as every binding stores it.
    fn outcome(&self, verdict: Verdict, json: &str) -> Result<Outcome, Error> {
        let value: &RawValue = serde_json::from_str(json)
            .map_err(|error| invalid("the answer is not JSON").with_source(error))?;
        let result = match verdict {
            Verdict::Succeeded => Ok(value),
            Verdict::Refused => Err(Failure::Final(Outcome::json(verdict, &value)?)),
        };
        match self.tasks.guard().ending(result) {
            Ending::Completed { outcome, .. } => Ok(outcome),
            _ => Err(invalid("the answer cannot be stored")),
        }
    }

    fn complete_with(&self, py: Python<'_>, verdict: Verdict, json: &str) -> PyResult<Pending> {
        let outcome = self.outcome(verdict, json).map_err(|error| raised(py, &error))?;
        self.finish(py, Ending::Completed { outcome, live: () })
    }
}

#[pymethods]
impl Attempt {
    /// Stores the answer.
    fn complete(&self, py: Python<'_>, json: &str) -> PyResult<Pending> {
        self.complete_with(py, Verdict::Succeeded, json)
    }

    /// Stores a refusal.
    fn refuse(&self, py: Python<'_>, json: &str) -> PyResult<Pending> {
        self.complete_with(py, Verdict::Refused, json)
    }

    /// Gives the key back: nothing happened.
    fn not_applied(&self, py: Python<'_>) -> PyResult<Pending> {
        self.finish(py, Ending::NotApplied { live: () })
    }

    /// Says that nobody knows what happened.
    fn unknown(&self, py: Python<'_>, detail: String) -> PyResult<Pending> {
        self.finish(py, Ending::Unknown { detail, live: () })
    }

    /// Parks the record.
    fn hold(&self, py: Python<'_>, detail: String) -> PyResult<Pending> {
        self.finish(py, Ending::Hold { detail, live: () })
    }

    /// The statement that stores the answer within a transaction of the caller's.
    fn statement(&self, py: Python<'_>, json: &str) -> PyResult<Pending> {
        let outcome = self.outcome(Verdict::Succeeded, json);
        let outcome = outcome.map_err(|error| raised(py, &error))?;
        let completion = self.task.context().completion(outcome);
        let opened = Arc::clone(&self.store);
        Pending::start(py, async move {
            let Kind::Postgres(store) = &opened.kind else {
                let message = "only a postgres:// store completes a record inside a transaction of \
                               the caller's; use that, or another effect mode";
                return Err(Error::new(ErrorKind::Settings, message));
            };
            store.completion_statement(&completion).await.map(Answer::Statement)
        })
    }

    /// Ends an attempt whose answer was to be stored by a transaction of the caller's: the record
    /// tells whether it was.
    fn committed(&self, py: Python<'_>) -> PyResult<Pending> {
        let held = self.take().map_err(|error| raised(py, &error))?;
        let store = Arc::clone(&self.store);
        Pending::start(py, async move {
            let found = store.store.get(held.id()).await;
            let ending = match found {
                Ok(Some(record)) if record.fence == held.fence() => match record.state {
                    State::Completed { expires_at, .. } => {
                        Ending::Committed { expires_at, live: () }
                    }
                    State::Held(_) | State::InProgress { .. } | State::Interrupted { .. } => {
                        let detail =
                            "the transaction that was to store the answer is not committed";
                        Ending::Unknown { detail: detail.to_owned(), live: () }
                    }
                },
                Ok(_) => Ending::ClaimLost,
                Err(error) => Ending::Unknown { detail: error.to_string(), live: () },
            };
            held.finish(ending).await.map(Answer::Executed)
        })
    }

    /// What a step stored, as JSON.
    fn step_result(&self, name: &str) -> Option<String> {
        self.task.step_result(name).map(|result| String::from_utf8_lossy(&result).into_owned())
    }

    /// Stores the result of a step.
    fn store_step(&self, py: Python<'_>, name: String, json: String) -> PyResult<Pending> {
        let task = self.task.clone();
        Pending::start(py, async move {
            task.store_step(&name, Bytes::from(json)).await.map(|()| Answer::Nothing)
        })
    }

    /// The key of a named part of the operation.
    fn step_key(&self, name: &str) -> String {
        self.task.step_key(name).as_str().to_owned()
    }

    /// Calls back from another thread when the lease is lost.
    fn on_lease_lost(&self, py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        let runtime = heart().runtime().map_err(|error| raised(py, &error))?;
        let task = self.task.clone();
        runtime.spawn(async move {
            task.lease_lost().await;
            notifier::call(callback);
        });
        Ok(())
    }

    /// Whether the claim is lost.
    #[getter]
    fn lease_lost(&self) -> bool {
        self.task.is_lease_lost()
    }

    /// The counter of the claim's fence.
    #[getter]
    fn fence(&self) -> u64 {
        self.task.fence().counter
    }

    /// How many claims the operation has seen.
    #[getter]
    fn attempts(&self) -> u32 {
        self.task.attempts()
    }

    /// The key.
    #[getter]
    fn key(&self) -> &str {
        self.task.id().key.as_str()
    }

    /// The tenant.
    #[getter]
    fn tenant(&self) -> &str {
        self.task.id().tenant.as_str()
    }
}
