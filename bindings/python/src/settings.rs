//! Settings as Python gives them: names and numbers.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use semel::{Error, ErrorKind, Settings, Wait};

use crate::error::raised;

/// Reads settings and checks them against each other. Times are in seconds.
pub(crate) fn read(values: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let mut settings = Settings::default();
    for (name, value) in values {
        let name: String = name.extract()?;
        set(&mut settings, &name, &value)?;
    }
    if !values.contains("store_patience")? {
        // A short lease is a wish for quick recovery; the default must not stand in its way.
        settings.store_patience = settings.store_patience.min(settings.lease / 2);
    }
    settings.validate().map_err(|error| raised(values.py(), &error))?;
    Ok(settings)
}

fn set(settings: &mut Settings, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
    match name {
        "execution_max" => settings.execution_max = time(name, value)?,
        "lease" => settings.lease = time(name, value)?,
        "lost_leases_max" => settings.lost_leases_max = value.extract()?,
        "outcome_bytes_max" => settings.outcome_bytes_max = value.extract()?,
        "poll_max" => settings.poll_max = time(name, value)?,
        "refuse_old_keys" => settings.refuse_old_keys = value.extract()?,
        "retention" => settings.retention = time(name, value)?,
        "retry_after" => settings.retry_after = time(name, value)?,
        "retry_window" => settings.retry_window = Some(time(name, value)?),
        "step_bytes_max" => settings.step_bytes_max = value.extract()?,
        "steps_max" => settings.steps_max = value.extract()?,
        "store_patience" => settings.store_patience = time(name, value)?,
        "wait" => {
            let wait = time(name, value)?;
            settings.wait = if wait.is_zero() { Wait::Refuse } else { Wait::UpTo(wait) };
        }
        "waiters_max" => settings.waiters_max = value.extract()?,
        other => {
            let error = Error::new(ErrorKind::Settings, format!("there is no setting `{other}`"));
            return Err(raised(value.py(), &error));
        }
    }
    Ok(())
}

fn time(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds: f64 = value.extract()?;
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let message = format!("{name} is {seconds}; it is a time in seconds, not below zero");
        raised(value.py(), &Error::new(ErrorKind::Settings, message))
    })
}
