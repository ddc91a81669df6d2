use semel::store::AuditEntry;
use semel::{Clock, Inspect, Record, RecordId, State, SystemClock};
use semel_http::StoredResponse;
use serde_json::{Value, json};

use super::{Target, find};
use crate::failure::Failure;
use crate::{output, text};

/// Audit entries that are shown.
const AUDIT_MAX: usize = 50;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Show the stored body as well; it may hold personal data
    #[arg(long)]
    show_body: bool,
    /// Print a JSON object for each scope
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(store: &dyn Inspect, arguments: Arguments) -> Result<(), Failure> {
    let ids = match find::all(store, &arguments.target).await {
        Ok(ids) => ids,
        // A released or purged record is gone; what was decided about it is not.
        Err(absent) => match decided(store, &arguments.target).await? {
            ids if ids.is_empty() => return Err(absent),
            ids => ids,
        },
    };
    for (at, id) in ids.iter().enumerate() {
        let audit = store.audit(id, AUDIT_MAX).await?;
        let record = store.get(id).await?;
        if arguments.json {
            output::json(&value_of(id, record.as_ref(), &audit, arguments.show_body));
            continue;
        }
        if at > 0 {
            output::line("");
        }
        show(id, record.as_ref(), &audit, arguments.show_body);
    }
    Ok(())
}

/// Scopes in which something was decided about the key.
async fn decided(store: &dyn Inspect, target: &Target) -> Result<Vec<RecordId>, Failure> {
    let fits =
        |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let mut ids = Vec::new();
    for (id, _) in store.decisions(&target.key, AUDIT_MAX).await? {
        let is_meant = fits(&target.tenant, id.tenant.as_str())
            && fits(&target.operation, id.operation.as_str());
        if is_meant && !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn show(id: &RecordId, record: Option<&Record>, audit: &[AuditEntry], show_body: bool) {
    let pair = |name: &str, value: &str| output::line(&format!("{name:<12} {value}"));
    pair("key", id.key.as_str());
    pair("tenant", id.tenant.as_str());
    pair("operation", id.operation.as_str());
    match record {
        None => pair("state", "absent (released, purged, or its retention is over)"),
        Some(record) => {
            pair("state", record.state.name());
            pair("mode", record.effect.name());
            pair("attempts", &record.attempts.to_string());
            pair("fence", &record.fence.to_string());
            pair("first claim", &stamp(record.created_at));
            pair("last change", &stamp(record.updated_at));
            for step in &record.steps {
                pair("step done", &format!("{} ({} bytes)", step.name, step.result.len()));
            }
            show_state(&record.state, show_body, &pair);
        }
    }
    for entry in audit {
        let action = entry.takeover.action.name();
        let by = format!("{action} by {}: {}", entry.takeover.actor, entry.takeover.reason);
        pair("audit", &format!("{} {by}", text::time(entry.at)));
    }
}

fn show_state(state: &State, show_body: bool, pair: &dyn Fn(&str, &str)) {
    match state {
        State::Completed { outcome, completed_at, expires_at } => {
            pair("completed", &stamp(*completed_at));
            pair("expires", &text::time(*expires_at));
            match StoredResponse::read(outcome) {
                Ok(stored) => show_response(&stored, show_body, pair),
                Err(_) => pair("answer", &format!("{}, {} bytes", outcome.format, outcome.len())),
            }
        }
        State::Held(hold) => {
            pair("held since", &stamp(hold.since));
            pair("why", &format!("{}: {}", hold.cause.name(), hold.detail));
            pair("", "decide with `semel records complete` or `semel records release`");
        }
        State::InProgress { lease_until } if SystemClock.now() < *lease_until => {
            pair("lease until", &text::time(*lease_until));
        }
        State::InProgress { lease_until } => {
            pair("silent since", &stamp(*lease_until));
            pair("why", "its owner fell silent: it ended or hangs, and its lease is over");
            pair("", "a retry settles it as the mode says; or decide as about a held one");
        }
        State::Interrupted { since } => pair("given up", &stamp(*since)),
    }
}

fn show_response(stored: &StoredResponse, show_body: bool, pair: &dyn Fn(&str, &str)) {
    pair("status", stored.status.as_str());
    if stored.is_tombstone {
        pair("answer", "was over the limit and not kept; it is never run again");
        return;
    }
    for (name, value) in &stored.headers {
        pair("header", &format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    }
    pair("body", &format!("{} bytes", stored.body.len()));
    if show_body {
        output::bytes(&stored.body);
        output::line("");
    }
}

fn value_of(
    id: &RecordId,
    record: Option<&Record>,
    audit: &[AuditEntry],
    show_body: bool,
) -> Value {
    let audit: Vec<_> = audit
        .iter()
        .map(|entry| {
            json!({
                "at": text::time(entry.at),
                "fence": entry.fence.to_string(),
                "action": entry.takeover.action.name(),
                "actor": entry.takeover.actor,
                "reason": entry.takeover.reason,
            })
        })
        .collect();
    let Some(record) = record else {
        return json!({ "key": id.key.as_str(), "tenant": id.tenant.as_str(),
            "operation": id.operation.as_str(), "state": "absent", "audit": audit });
    };
    let mut value = super::ls::value_of(&semel::store::Summary::of(id, record));
    value["audit"] = audit.into();
    value["lost_leases"] = record.lost_leases.into();
    value["steps"] = record.steps.iter().map(|step| step.name.as_str()).collect();
    if let State::Completed { outcome, completed_at, expires_at } = &record.state {
        value["completed_at"] = text::time(*completed_at).into();
        value["expires_at"] = text::time(*expires_at).into();
        value["answer"] = answer_of(outcome, show_body);
    }
    value
}

fn answer_of(outcome: &semel::Outcome, show_body: bool) -> Value {
    let Ok(stored) = StoredResponse::read(outcome) else {
        return json!({ "format": outcome.format, "bytes": outcome.len() });
    };
    let headers: Vec<_> = stored
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    json!({
        "format": outcome.format,
        "status": stored.status.as_u16(),
        "tombstone": stored.is_tombstone,
        "headers": headers,
        "body_bytes": stored.body.len(),
        "body": show_body.then(|| String::from_utf8_lossy(&stored.body).into_owned()),
    })
}

fn stamp(time: semel::Timestamp) -> String {
    format!("{} ({} ago)", text::time(time), text::ago(time))
}
