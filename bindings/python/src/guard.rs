//! A guard as Python sees it: settings now, a store at the first use in each process.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use semel::{Effect, Error, Key, Operation, Settings, Tenant};
use semel_stores::Opened;
use semel_tasks::TaskGuard;
use tokio::sync::OnceCell;

use crate::error::raised;
use crate::pending::{Answer, Pending};
use crate::process::{self, PerProcess};
use crate::settings;

/// Claims keys of one kind of operation.
#[pyclass(frozen, module = "semel._semel")]
pub(crate) struct Guard {
    plan: Arc<Plan>,
}

struct Plan {
    url: String,
    operation: Operation,
    effect: Effect,
    settings: Settings,
    made: PerProcess<OnceCell<(TaskGuard, Arc<Opened>)>>,
}

#[pymethods]
impl Guard {
    #[new]
    fn new(
        py: Python<'_>,
        url: String,
        operation: &str,
        effect: &str,
        settings: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let settings = settings::read(settings)?;
        let plan = || -> Result<Plan, Error> {
            semel_stores::check(&url)?;
            let (operation, effect) = (Operation::new(operation)?, effect.parse()?);
            Ok(Plan { url, operation, effect, settings, made: PerProcess::new() })
        };
        let plan = plan().map_err(|error| raised(py, &error))?;
        Ok(Self { plan: Arc::new(plan) })
    }

    /// Claims a key for a payload, which is a JSON text.
    fn begin(&self, py: Python<'_>, tenant: &str, key: &str, payload: &str) -> PyResult<Pending> {
        let parsed = || -> Result<(Tenant, Key, String), Error> {
            let canonical = semel_tasks::canonical_json(payload)?;
            Ok((Tenant::new(tenant)?, Key::parse(key)?, canonical))
        };
        let (tenant, key, payload) = parsed().map_err(|error| raised(py, &error))?;
        let plan = Arc::clone(&self.plan);
        Pending::start(py, async move {
            let (tasks, store) = plan.made().await?;
            let fingerprint = semel_tasks::fingerprint_of_json(tasks.secret(), &payload)?;
            let begun = tasks.begin(&tenant, &key, fingerprint).await?;
            Ok(Answer::Begun(begun, tasks.clone(), Arc::clone(store)))
        })
    }

    /// The lease in seconds.
    #[getter]
    fn lease(&self) -> f64 {
        self.plan.settings.lease.as_secs_f64()
    }

    /// The name of the effect mode.
    #[getter]
    fn effect(&self) -> &'static str {
        self.plan.effect.name()
    }

    /// The name of the operation.
    #[getter]
    fn operation(&self) -> &str {
        self.plan.operation.as_str()
    }
}

impl Plan {
    /// The guard of this process. A store that is down now is tried again at the next use.
    async fn made(&self) -> Result<&(TaskGuard, Arc<Opened>), Error> {
        let make = || async {
            let opened = process::store(&self.url, self.settings.store_patience).await?;
            let guard = semel::Guard::builder(opened.store.clone())
                .operation(self.operation.as_str())?
                .effect(self.effect)
                .settings(self.settings.clone())
                .build()?;
            let tasks = TaskGuard::new(guard, opened.fingerprint_key.clone());
            Ok((tasks.with_heart(process::heart().clone()), opened))
        };
        self.made.get().get_or_try_init(make).await
    }
}
