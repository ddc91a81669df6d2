//! Log lines on standard error, with a level that can be changed while the proxy runs.

use std::io::IsTerminal;
use std::sync::Arc;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use crate::failure::Failure;

/// Changes what is logged.
#[derive(Clone)]
pub(super) struct Levels(Arc<reload::Handle<EnvFilter, Registry>>);

impl Levels {
    /// What is logged now.
    pub(super) fn shown(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Logs this from now on.
    pub(super) fn set(&self, filter: &str) -> Result<(), String> {
        let filter = parse(filter)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

pub(super) fn start(filter: &str, as_json: bool) -> Result<Levels, Failure> {
    let filter = understood(filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    // Colours are for people; in a file or the journal they break every search for a word.
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if std::io::stderr().is_terminal() { lines } else { lines.with_ansi(false) };
    let started = if as_json {
        registry.with(lines.json()).try_init()
    } else {
        registry.with(lines).try_init()
    };
    started.map_err(|error| Failure::runtime("logging could not start").caused_by(&error))?;
    Ok(Levels(Arc::new(handle)))
}

/// Complains about a filter that is none.
pub(super) fn check(filter: &str) -> Result<(), Failure> {
    understood(filter).map(drop)
}

fn understood(filter: &str) -> Result<EnvFilter, Failure> {
    parse(filter).map_err(|what| {
        Failure::usage(format!("the log filter `{filter}` is not understood: {what}"))
            .help("write a level (error, warn, info, debug, trace) or `semel::http=debug,info`")
    })
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(filter).map_err(|error| error.to_string())
}
