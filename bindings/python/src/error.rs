//! Errors of the engine as Python's exceptions.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use semel::{Error, ErrorKind, Timestamp};
use semel_tasks::Decision;

/// The exception of this error: `semel.errors.of_kind` chooses the class.
pub(crate) fn raised(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).unwrap_or_else(|failure| failure)
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let decision = Decision::of(error);
    let parts = PyDict::new(py);
    parts.set_item("code", error.kind().code())?;
    parts.set_item("retry_after", error.retry_after().map(|wait| wait.as_secs_f64()))?;
    parts.set_item("retryable", error.is_retryable())?;
    parts.set_item("outcome_unknown", error.outcome_unknown())?;
    parts.set_item("held", error.is_held())?;
    parts.set_item("decision", decision.name())?;
    if let Some(refusal) = error.refusal().filter(|refusal| refusal.format == "json") {
        parts.set_item("answer_json", String::from_utf8_lossy(&refusal.body))?;
    }
    let kind = format!("{:?}", error.kind());
    let class = py.import("semel.errors")?.getattr("of_kind")?.call1((kind,))?;
    Ok(PyErr::from_value(class.call((whole(error),), Some(&parts))?))
}

/// The message with those of its causes.
fn whole(error: &Error) -> String {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    message
}

pub(crate) fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

/// Somebody took the answer before.
pub(crate) fn gone() -> Error {
    invalid("the answer was taken before, or given up")
}

/// Seconds since 1970, as Python counts.
pub(crate) fn seconds(at: Timestamp) -> f64 {
    std::time::Duration::from_millis(at.as_millis()).as_secs_f64()
}
