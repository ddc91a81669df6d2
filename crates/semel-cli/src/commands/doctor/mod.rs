//! `semel doctor`: does the store keep its promises, and what waits in it?

mod postgres;
mod redis;
mod sqlite;

use std::time::Duration;

use semel::Inspect;
use semel::store::Counts;
use semel_stores::{Kind, Opened, Purpose};
use serde_json::json;

use crate::cli::StoreArguments;
use crate::failure::Failure;
use crate::probe::{self, Probe};
use crate::{output, text};

/// A durable write that takes longer is a finding.
const WRITE_MAX: Duration = Duration::from_millis(250);
/// More expired records than a sweeper leaves behind.
const EXPIRED_MAX: u64 = 100_000;
/// How far the store's clock may be from this machine's.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);
/// Columns for what was looked at.
const WIDTH_MIN: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    store: StoreArguments,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) what: &'static str,
    pub(super) seen: String,
    /// What to do, where it is not as it should be.
    pub(super) advice: Option<String>,
    /// What it may cost one day, where it may well be meant so.
    pub(super) warning: Option<String>,
}

impl Finding {
    pub(super) fn new(what: &'static str, seen: impl Into<String>, problem: Option<&str>) -> Self {
        Self { what, seen: seen.into(), advice: problem.map(str::to_owned), warning: None }
    }

    fn warning(self, warning: Option<String>) -> Self {
        Self { warning, ..self }
    }

    fn mark(&self) -> &'static str {
        match (&self.advice, &self.warning) {
            (Some(_), _) => "!!",
            (None, Some(_)) => "! ",
            (None, None) => "ok",
        }
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let url = arguments.store.url()?;
    let mut findings = vec![Finding::new("program", env!("CARGO_PKG_VERSION"), None)];
    let opened = match semel_stores::open(&url, Purpose::Operate).await {
        Ok(opened) => opened,
        // Where the server answers, the rest about it is told all the same.
        Err(error) if url.starts_with("redis") || url.starts_with("valkey") => {
            let Some(found) = redis::look_without_records(&url, &error).await else {
                return Err(error.into());
            };
            findings.extend(found);
            return tell(&findings, arguments.json, "the store");
        }
        Err(error) => return Err(error.into()),
    };
    let Opened { store, kind, .. } = opened;
    findings.extend(match &kind {
        Kind::Postgres(store) => postgres::look(store).await?,
        Kind::Redis(store) => redis::look(store).await?,
        Kind::Sqlite(store) => sqlite::look(store).await?,
        _ => Vec::new(),
    });
    findings.extend(probe(&*store).await);
    findings.extend(backlog(&store.count().await?));
    tell(&findings, arguments.json, "the store")
}

/// Says what was found, and whether all is well, in the exit code too.
pub(super) fn tell(findings: &[Finding], is_json: bool, of: &str) -> Result<(), Failure> {
    let is_safe = findings.iter().all(|finding| finding.advice.is_none());
    if is_json {
        let findings: Vec<_> = findings
            .iter()
            .map(|it| {
                let Finding { what, seen, advice, warning } = it;
                json!({ "what": what, "seen": seen, "advice": advice, "warning": warning })
            })
            .collect();
        output::json(&json!({ "safe": is_safe, "findings": findings }));
    } else {
        let width = findings.iter().map(|it| it.what.len()).fold(WIDTH_MIN, usize::max);
        for finding in findings {
            output::line(&format!("{}  {:<width$} {}", finding.mark(), finding.what, finding.seen));
            for more in finding.advice.iter().chain(&finding.warning) {
                output::line(&format!("    {:<width$} {more}", ""));
            }
        }
        let is_warned = findings.iter().any(|finding| finding.warning.is_some());
        let verdict = match (is_safe, is_warned) {
            (true, false) => "is safe",
            (true, true) => "is safe, but for what the line with ! says",
            (false, _) => "needs attention",
        };
        output::line(&format!("{of} {verdict}"));
    }
    if is_safe { Ok(()) } else { Err(Failure::told()) }
}

async fn probe(store: &dyn Inspect) -> Vec<Finding> {
    let Probe { took, skew } = match probe::write(store).await {
        Ok(probe) => probe,
        // What was seen before it often says why, so this is a finding among the others.
        Err(error) => {
            return vec![Finding::new("durable write", "failed", Some(&error.to_string()))];
        }
    };
    let slow =
        (took > WRITE_MAX).then_some("the store is slow or busy; requests wait for it twice");
    let wrong = (skew > CLOCK_SKEW_MAX)
        .then_some("the clocks differ: leases and retention end early or late; run NTP");
    vec![
        Finding::new("durable write", format!("{:.1} ms", took.as_secs_f64() * 1e3), slow),
        Finding::new("store's clock", format!("{} off", text::duration(skew)), wrong),
    ]
}

fn backlog(counts: &Counts) -> Vec<Finding> {
    let held = (counts.held > 0).then_some("decide about them: `semel records ls --state held`");
    let silent = (counts.silent > 0).then_some(
        "their owners fell silent: `semel records ls --state silent`; a retry settles it",
    );
    let expired = (counts.expired > EXPIRED_MAX)
        .then_some("no proxy sweeps; `semel records purge --expired`");
    vec![
        Finding::new("held", counts.held.to_string(), held),
        Finding::new("silent claims", counts.silent.to_string(), silent),
        Finding::new("interrupted", counts.interrupted.to_string(), None),
        Finding::new("in progress", counts.in_progress.to_string(), None),
        Finding::new("completed", counts.completed.to_string(), None),
        Finding::new("expired", counts.expired.to_string(), expired),
    ]
}
