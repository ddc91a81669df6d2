use std::fmt;
use std::sync::Arc;

use semel::{Error, ErrorKind, Fence, Key};
use serde::de::DeserializeOwned;

use crate::task::{self, Task};

/// What a step or a compensation of a saga knows. Cheap to clone.
pub struct Part<I> {
    pub(super) task: Task,
    pub(super) input: Arc<I>,
    /// The step's own name, `undo:NAME` for a compensation.
    pub(super) name: Arc<str>,
}

impl<I> Part<I> {
    /// The payload of the task.
    #[must_use]
    pub fn input(&self) -> &I {
        &self.input
    }

    /// The key to hand to the downstream: equal in every attempt, another one for the
    /// compensation.
    #[must_use]
    pub fn step_key(&self) -> Key {
        self.task.step_key(&self.name)
    }

    /// The fence to hand to a sink that compares fences.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.task.fence()
    }

    /// What an earlier step of this saga returned.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a step that is not finished, [`ErrorKind::Corrupt`] for another
    /// type.
    pub fn result<T: DeserializeOwned>(&self, step: &str) -> Result<T, Error> {
        let result = self.task.step_result(step).ok_or_else(|| {
            let message = format!("step `{step}` is not finished, so it has no result yet");
            Error::new(ErrorKind::Invalid, message)
        })?;
        task::decoded(step, &result)
    }

    /// The claim under which this runs.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    pub(super) fn named(&self, name: &str) -> Self {
        Self { name: name.into(), ..self.clone() }
    }
}

impl<I> Clone for Part<I> {
    fn clone(&self) -> Self {
        let (task, input) = (self.task.clone(), Arc::clone(&self.input));
        Self { task, input, name: Arc::clone(&self.name) }
    }
}

impl<I> fmt::Debug for Part<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}
