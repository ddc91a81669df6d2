use semel::store::{Filter, StateFilter, Summary};
use semel::{Clock, Inspect, SystemClock};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::{output, text};

/// Records in one page of the store.
const PAGE: usize = 500;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only records in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only this key, in every scope
    #[arg(long)]
    key: Option<String>,
    /// Only this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Only this operation
    #[arg(long)]
    operation: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "100")]
    limit: usize,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum State {
    /// Finished
    Completed,
    /// Parked until someone decides
    Held,
    /// Executing
    InProgress,
    /// Given up by its owner; the next claim runs again
    Interrupted,
    /// In progress as far as anyone knows, but its lease is over
    Silent,
}

impl From<State> for StateFilter {
    fn from(state: State) -> Self {
        match state {
            State::Completed => Self::Completed,
            State::Held => Self::Held,
            State::InProgress => Self::InProgress,
            State::Interrupted => Self::Interrupted,
            State::Silent => Self::Expired,
        }
    }
}

pub(super) async fn run(store: &dyn Inspect, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { state, key, tenant, operation, limit, json } = arguments;
    let filter = Filter { state: state.map(StateFilter::from), key, tenant, operation };
    let (found, is_more) = collect(store, &filter, limit).await?;
    if json {
        for summary in &found {
            output::json(&value_of(summary));
        }
        return Ok(());
    }
    if found.is_empty() {
        output::line("no records");
        return Ok(());
    }
    let head = ["KEY", "STATE", "MODE", "ATTEMPTS", "AGE", "TENANT", "OPERATION", "WHY"];
    let rows: Vec<_> = found.iter().map(row_of).collect();
    output::table(&head, &rows);
    if is_more {
        output::line(&format!("and more; `--limit` is {limit}"));
    }
    Ok(())
}

async fn collect(
    store: &dyn Inspect,
    filter: &Filter,
    limit: usize,
) -> Result<(Vec<Summary>, bool), Failure> {
    let mut found: Vec<Summary> = Vec::new();
    loop {
        // One more than is shown tells whether there are more.
        let wanted = (limit + 1).saturating_sub(found.len()).min(PAGE);
        let after = found.last().map(|summary| summary.id.clone());
        let page = store.list(filter, after.as_ref(), wanted).await?;
        let is_last = page.len() < wanted;
        found.extend(page);
        if is_last || found.len() > limit {
            let is_more = found.len() > limit;
            found.truncate(limit);
            return Ok((found, is_more));
        }
    }
}

fn row_of(summary: &Summary) -> Vec<String> {
    if summary.state == "damaged" {
        let name =
            [&summary.id.key.as_str(), &"damaged", &"?", &"?", &"?"].map(ToString::to_string);
        let scope = [summary.id.tenant.as_str(), summary.id.operation.as_str()];
        let why = "cannot be read: see docs/errors/E0103.md";
        return name.into_iter().chain(scope.map(str::to_owned)).chain([why.to_owned()]).collect();
    }
    let held = summary.hold.as_ref();
    let why = held.map(|hold| format!("{}: {}", hold.cause.name(), hold.detail));
    let why = why.or_else(|| Some(format!("its owner fell silent {} ago", silence(summary)?)));
    vec![
        summary.id.key.as_str().to_owned(),
        summary.state.to_owned(),
        summary.effect.to_string(),
        summary.attempts.to_string(),
        text::ago(summary.created_at),
        summary.id.tenant.as_str().to_owned(),
        summary.id.operation.as_str().to_owned(),
        why.unwrap_or_default(),
    ]
}

/// How long ago the lease of a record ran out that is executing as far as anyone knows.
fn silence(summary: &Summary) -> Option<String> {
    let lease_until = summary.deadline.filter(|_| summary.state == "in-progress")?;
    (lease_until <= SystemClock.now()).then(|| text::ago(lease_until))
}

pub(super) fn value_of(summary: &Summary) -> Value {
    let hold = summary.hold.as_ref().map(|hold| {
        json!({
            "cause": hold.cause.name(),
            "detail": hold.detail,
            "since": text::time(hold.since),
        })
    });
    json!({
        "key": summary.id.key.as_str(),
        "tenant": summary.id.tenant.as_str(),
        "operation": summary.id.operation.as_str(),
        "state": summary.state,
        "mode": summary.effect.name(),
        "attempts": summary.attempts,
        "fence": summary.fence.to_string(),
        "created_at": text::time(summary.created_at),
        "updated_at": text::time(summary.updated_at),
        "deadline": summary.deadline.map(text::time),
        "hold": hold,
        "silent": silence(summary).is_some(),
    })
}
