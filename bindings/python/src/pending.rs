//! Something that the heart's thread is doing, for threads and event loops to wait for.

use std::future::Future;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use pyo3::prelude::*;
use semel::{Ending, Error, Executed};
use semel_stores::Opened;
use semel_stores::postgres::CompletionStatement;
use semel_tasks::{Begun, TaskGuard};
use tokio::runtime::Handle;

use crate::attempt::{Attempt, Replay};
use crate::error::raised;
use crate::process::{heart, lock};
use crate::{error, notifier};

/// How often a waiting thread looks whether a signal has come (Ctrl-C).
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// What the heart gave.
pub(crate) enum Answer {
    Begun(Begun, TaskGuard, Arc<Opened>),
    Executed(Executed<()>),
    Statement(CompletionStatement),
    Nothing,
}

enum State {
    /// With whom to call when it is there.
    Open(Option<Py<PyAny>>),
    Given(Box<Result<Answer, Error>>),
    /// Nobody wants it any more, or somebody has it.
    Gone,
}

struct Slot {
    state: Mutex<State>,
    given: Condvar,
}

/// Work under way on the thread that keeps claims alive.
#[pyclass(frozen, module = "semel._semel")]
pub(crate) struct Pending {
    slot: Arc<Slot>,
    runtime: Handle,
}

impl Pending {
    /// Starts it. It goes on whether or not anybody waits.
    pub(crate) fn start<F>(py: Python<'_>, work: F) -> PyResult<Self>
    where
        F: Future<Output = Result<Answer, Error>> + Send + 'static,
    {
        let runtime = heart().runtime().map_err(|error| raised(py, &error))?;
        let slot = Arc::new(Slot { state: Mutex::new(State::Open(None)), given: Condvar::new() });
        let giving = Arc::clone(&slot);
        runtime.spawn(async move { giving.give(work.await).await });
        Ok(Self { slot, runtime })
    }

    fn take(&self) -> Option<Result<Answer, Error>> {
        let mut state = lock(&self.slot.state);
        match std::mem::replace(&mut *state, State::Gone) {
            State::Given(given) => Some(*given),
            open @ State::Open(_) => {
                *state = open;
                None
            }
            State::Gone => Some(Err(error::gone())),
        }
    }

    fn give_up(&self) {
        let given = std::mem::replace(&mut *lock(&self.slot.state), State::Gone);
        if let State::Given(given) = given
            && let Ok(answer) = *given
        {
            self.runtime.spawn(give_back(answer));
        }
    }
}

#[pymethods]
impl Pending {
    /// Blocks until it is done; any signal's handler may end the wait by raising.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            let is_done = py.detach(|| {
                let state = lock(&self.slot.state);
                let is_open = |state: &mut State| matches!(state, State::Open(_));
                let waited = self.slot.given.wait_timeout_while(state, SIGNALS_EVERY, is_open);
                waited.is_ok_and(|(_, timeout)| !timeout.timed_out())
            });
            if let Err(signal) = py.check_signals() {
                self.give_up();
                return Err(signal);
            }
            if is_done {
                return Ok(());
            }
        }
    }

    /// Calls back from another thread when it is done; false when it is done already.
    fn on_done(&self, callback: Py<PyAny>) -> bool {
        let mut state = lock(&self.slot.state);
        match &mut *state {
            State::Open(slot) => {
                *slot = Some(callback);
                true
            }
            State::Given(_) | State::Gone => false,
        }
    }

    /// What it gave, once; raises what went wrong.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let given = self.take().unwrap_or_else(|| Err(error::gone()));
        match given.map_err(|error| raised(py, &error))? {
            Answer::Begun(Begun::Run(attempt), tasks, store) => {
                Ok(Py::new(py, Attempt::new(attempt, tasks, store))?.into_any())
            }
            Answer::Begun(Begun::Replay { outcome, expires_at }, ..)
            | Answer::Executed(Executed::Replayed { outcome, expires_at }) => {
                let replay = Replay::of(outcome, expires_at);
                let replay = replay.map_err(|error| raised(py, &error))?;
                Ok(Py::new(py, replay)?.into_any())
            }
            Answer::Executed(Executed::Fresh { expires_at, .. }) => {
                Ok(error::seconds(expires_at).into_pyobject(py)?.into_any().unbind())
            }
            Answer::Statement(statement) => parameters(py, &statement),
            Answer::Executed(Executed::NotApplied { .. } | Executed::Unknown { .. })
            | Answer::Nothing => Ok(py.None()),
        }
    }

    /// Nobody wants it any more; a claim is given back.
    fn cancel(&self) {
        self.give_up();
    }
}

impl Slot {
    async fn give(&self, given: Result<Answer, Error>) {
        let unwanted = {
            let mut state = lock(&self.state);
            match std::mem::replace(&mut *state, State::Gone) {
                State::Gone => given.ok(),
                State::Open(callback) => {
                    *state = State::Given(Box::new(given));
                    self.given.notify_all();
                    callback.into_iter().for_each(notifier::call);
                    None
                }
                // It is given once.
                State::Given(first) => {
                    *state = State::Given(first);
                    None
                }
            }
        };
        if let Some(answer) = unwanted {
            give_back(answer).await;
        }
    }
}

/// A claim that did not reach its caller has run nothing.
async fn give_back(answer: Answer) {
    let Answer::Begun(Begun::Run(attempt), ..) = answer else { return };
    let ending = if attempt.attempts() == 1 {
        Ending::NotApplied { live: () }
    } else {
        // Earlier attempts may have left something.
        let detail = "the caller was gone before the attempt began".to_owned();
        Ending::Unknown { detail, live: () }
    };
    drop(attempt.finish(ending).await);
}

/// SQL with named parameters as Python's drivers write them, and their values.
fn parameters(py: Python<'_>, statement: &CompletionStatement) -> PyResult<Py<PyAny>> {
    let mut sql = statement.sql.replace('%', "%%");
    for number in 1..=8 {
        sql = sql.replace(&format!("${number}"), &format!("%(p{number})s"));
    }
    let values = pyo3::types::PyDict::new(py);
    for (number, name) in (1..).zip(&statement.names) {
        values.set_item(format!("p{number}"), name)?;
    }
    values.set_item("p4", statement.counter)?;
    values.set_item("p5", pyo3::types::PyBytes::new(py, &statement.nonce))?;
    values.set_item("p6", statement.retention)?;
    values.set_item("p7", pyo3::types::PyBytes::new(py, &statement.outcome))?;
    values.set_item("p8", py.None())?;
    Ok((sql, values).into_pyobject(py)?.into_any().unbind())
}
