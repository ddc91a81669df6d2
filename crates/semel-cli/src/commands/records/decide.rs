//! Decisions. Each is a claim of its own, audited in the same write, and refused when there is
//! nothing to decide.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use semel::{Inspect, Outcome, RecordId, SystemRandom, operator};
use semel_http::StoredResponse;
use serde_json::json;

use super::{Completion, Decision, Purge, Target, find};
use crate::failure::Failure;
use crate::{output, text};

/// Expired records that one step deletes.
const SWEEP_STEP: usize = 1000;

pub(super) async fn release(store: &dyn Inspect, decision: Decision) -> Result<(), Failure> {
    let id = find::one(store, &decision.target).await?;
    let by = decision.because.by();
    operator::release(store, &SystemRandom, &id, by).await?;
    tell(&id, decision.json, "released", "the key is free again: a retry will run");
    Ok(())
}

pub(super) async fn complete(store: &dyn Inspect, completion: Completion) -> Result<(), Failure> {
    let outcome = outcome_of(&completion)?;
    let Completion { decision, retention, .. } = completion;
    let id = find::one(store, &decision.target).await?;
    let by = decision.because.by();
    let expires_at = operator::complete(store, &SystemRandom, &id, by, outcome, retention).await?;
    let until = format!("retries get this answer until {}", text::time(expires_at));
    tell(&id, decision.json, "completed", &until);
    Ok(())
}

pub(super) async fn purge(store: &dyn Inspect, purge: Purge) -> Result<(), Failure> {
    let Some(key) = purge.key else {
        let mut all = 0;
        loop {
            let swept = store.sweep(SWEEP_STEP).await?;
            all += swept;
            if swept < SWEEP_STEP {
                break;
            }
        }
        if purge.json {
            output::json(&json!({ "expired_records_deleted": all }));
        } else {
            output::line(&format!("{all} expired records deleted"));
        }
        return Ok(());
    };
    let target = Target { key, tenant: purge.tenant, operation: purge.operation };
    let id = find::one(store, &target).await?;
    let reason = purge.reason.unwrap_or_default();
    let by = operator::By { actor: &purge.actor, reason: &reason };
    operator::purge(store, &SystemRandom, &id, by).await?;
    tell(&id, purge.json, "purged", "the answer is forgotten: a retry will run again");
    Ok(())
}

fn tell(id: &RecordId, as_json: bool, what: &str, so: &str) {
    if as_json {
        output::json(&json!({
            "key": id.key.as_str(),
            "tenant": id.tenant.as_str(),
            "operation": id.operation.as_str(),
            "done": what,
        }));
    } else {
        output::line(&format!("{what} {}; {so}", id.key.as_str()));
    }
}

fn outcome_of(completion: &Completion) -> Result<Outcome, Failure> {
    let status = StatusCode::from_u16(completion.status)
        .ok()
        .filter(|status| !status.is_informational())
        .ok_or_else(|| {
            let message = format!("--status {} is no final HTTP status", completion.status);
            Failure::usage(message).help("use 200 to 599")
        })?;
    let mut headers = HeaderMap::new();
    for header in &completion.header {
        let parsed = header.split_once(':').and_then(|(name, value)| {
            let name = name.trim().parse::<HeaderName>().ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| {
            let message = format!("--header `{header}` is no field");
            Failure::usage(message).help("write `NAME: VALUE`")
        })?;
        headers.append(name, value);
    }
    let body = match (&completion.body, &completion.body_file) {
        (Some(text), _) => Bytes::from(text.clone()),
        (None, Some(path)) => std::fs::read(path).map(Bytes::from).map_err(|error| {
            let message = format!("--body-file {} cannot be read", path.display());
            Failure::usage(message).caused_by(&error)
        })?,
        (None, None) => Bytes::new(),
    };
    let stored = StoredResponse { status, headers, body, is_tombstone: false };
    Ok(stored.outcome())
}
