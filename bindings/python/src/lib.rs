//! The part of the Python package `semel` that is written in Rust: claims, heartbeats, stores and
//! the rules of the doors. What Python users see is in `python/semel`, which is documented there.
//!
//! 1. The interpreter's lock is never held while anything here waits, and nothing that keeps a
//!    claim alive ever asks for it.
//! 2. Everything that has a thread, a lock or a connection belongs to one process. A forked child
//!    makes its own and never touches its parent's.
//! 3. Values cross the border as JSON texts; Python decides how it makes them.

mod attempt;
mod error;
mod guard;
mod notifier;
mod pending;
mod process;
mod settings;

use std::time::Duration;

use pyo3::prelude::*;

/// How long an interpreter that ends waits for what is being written.
const DRAIN: Duration = Duration::from_secs(2);

#[pymodule]
mod _semel {
    use super::*;

    #[pymodule_export]
    use crate::attempt::{Attempt, Replay};
    #[pymodule_export]
    use crate::guard::Guard;
    #[pymodule_export]
    use crate::pending::Pending;

    /// Waits for what is being written and stops the thread that calls back.
    #[pyfunction]
    fn shutdown(py: Python<'_>) {
        py.detach(|| {
            notifier::stop();
            process::heart().drain_blocking(DRAIN)
        });
    }

    /// One spelling for a JSON text, the same in every language.
    #[pyfunction]
    fn canonical_json(py: Python<'_>, json: &str) -> PyResult<String> {
        semel_tasks::canonical_json(json).map_err(|error| error::raised(py, &error))
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("KEY_HEADER", semel_tasks::KEY_HEADER)
    }
}
