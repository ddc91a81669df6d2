//! Decisions. Each is a claim of its own, audited in the same write, and refused when there is
//! nothing to decide.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use semel::{Inspect, Outcome, RecordId, Settings, SystemRandom, operator};
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
    if completion.retention.is_zero() {
        let message = "--retention is zero, so the answer would be gone before the next retry";
        return Err(Failure::usage(message)
            .help("keep it for as long as clients retry, or use `semel records release`"));
    }
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
    let stored =
        StoredResponse { status, headers, body: body_of(completion)?, is_tombstone: false };
    let outcome = stored.outcome();
    // What the door never stores would be lost without a word.
    let kept = StoredResponse::read(&outcome)?.headers;
    if let Some(lost) = stored.headers.keys().find(|name| !kept.contains_key(*name)) {
        return Err(Failure::usage(format!("--header `{lost}` cannot be part of a stored answer"))
            .help(
                "leave it out: it belongs to one exchange and is made for each, or is a secret",
            ));
    }
    if !stored.body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
        return Err(Failure::usage(format!("an answer with status {status} has no body"))
            .help("leave the body out, or choose another --status"));
    }
    Ok(outcome)
}

fn body_of(completion: &Completion) -> Result<Bytes, Failure> {
    let body = match (&completion.body, &completion.body_file) {
        (Some(text), _) => Bytes::from(text.clone()),
        (None, Some(path)) => std::fs::read(path).map(Bytes::from).map_err(|error| {
            let message = format!("--body-file {} cannot be read", path.display());
            Failure::usage(message).caused_by(&error)
        })?,
        (None, None) => Bytes::new(),
    };
    let most = Settings::default().outcome_bytes_max;
    if body.len() > most {
        let message =
            format!("the body has {} bytes; a decision stores at most {most}", body.len());
        return Err(Failure::usage(message).help("answer with the place of the result instead"));
    }
    Ok(body)
}
