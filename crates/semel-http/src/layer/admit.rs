//! What is checked before a claim: tenant, room, the whole body, the key in it, its fingerprint.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use semel::{Clock, Fingerprint, Key, Tenant};
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use crate::answer::{Problem, Refusal};
use crate::body::{Body, Collected, Whole, collect};
use crate::fingerprint;
use crate::settings::OnMissing;

/// A request that may claim its key.
pub(super) struct Admitted {
    pub(super) tenant: Tenant,
    pub(super) key: Key,
    pub(super) fingerprint: Fingerprint,
    pub(super) request: Request<Body>,
    pub(super) permit: OwnedSemaphorePermit,
}

pub(super) enum Admission {
    Guarded(Admitted),
    /// It has no key, and needs none.
    Passing(Request<Body>),
    Refused(Problem),
}

pub(super) async fn admit(shared: &Shared, request: Request<Body>, key: Option<Key>) -> Admission {
    match try_admit(shared, request, key).await {
        Ok(admission) => admission,
        Err(problem) => Admission::Refused(problem),
    }
}

async fn try_admit(
    shared: &Shared,
    request: Request<Body>,
    key: Option<Key>,
) -> Result<Admission, Problem> {
    let (parts, body) = request.into_parts();
    // Only a JSON body can hold the key; anything else is streamed on, however long it is.
    if key.is_none() && !fingerprint::has_json(&parts) {
        return match shared.rules.numbers.on_missing {
            OnMissing::Pass => Ok(Admission::Passing(Request::from_parts(parts, body))),
            OnMissing::Refuse => Err(shared.key_missing()),
        };
    }
    let tenant = shared
        .tenant
        .tenant_of(&parts)
        .map_err(|error| Problem::new(Refusal::TenantMissing, error.to_string()))?;
    let permit = Arc::clone(&shared.permits).try_acquire_owned().map_err(|_| {
        let detail = "as many keyed requests are in flight as this server takes; try again";
        Problem::new(Refusal::Overloaded, detail)
    })?;
    let body = read(shared, body).await?;
    // An HTTP/2 client may reset its stream in the middle as if nothing were wrong.
    if announced(&parts).is_some_and(|length| length != body.data.len() as u64) {
        let detail = "the body has another length than it announced; nothing was executed";
        return Err(Problem::new(Refusal::BodyIncomplete, detail));
    }
    let key = match (key, &shared.rules.key_pointer) {
        (None, Some(pointer)) => pointer
            .key_in(&body.data)
            .transpose()
            .map_err(|problem| Problem::new(Refusal::KeyMalformed, problem))?,
        (key, _) => key,
    };
    let Some(key) = key else {
        return match shared.rules.numbers.on_missing {
            OnMissing::Pass => {
                Ok(Admission::Passing(Request::from_parts(parts, Body::whole(body))))
            }
            OnMissing::Refuse => Err(shared.key_missing()),
        };
    };
    let canonical_json = shared.rules.numbers.canonical_json;
    let fingerprint = fingerprint::of(&shared.secret, &parts, &body.data, canonical_json);
    let request = Request::from_parts(parts, Body::whole(body));
    Ok(Admission::Guarded(Admitted { tenant, key, fingerprint, request, permit }))
}

/// What the request says about the length of its body.
fn announced(parts: &http::request::Parts) -> Option<u64> {
    parts.headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn read(shared: &Shared, body: Body) -> Result<Whole, Problem> {
    let numbers = &shared.rules.numbers;
    let (bytes_max, time_max) = (numbers.request_bytes_max, numbers.request_read_max);
    let collected = within(&*shared.clock, time_max, collect(body, bytes_max)).await;
    match collected {
        Some(Collected::Whole(whole)) => Ok(whole),
        Some(Collected::TooLong(_)) => {
            let detail = format!("the body of a request with a key may have {bytes_max} bytes");
            Err(Problem::new(Refusal::BodyTooLarge, detail))
        }
        Some(Collected::Broken(error)) => {
            tracing::debug!(target: "semel::http", error = &*error, "a request broke off");
            let detail = "the body ended before it was complete; nothing was executed";
            Err(Problem::new(Refusal::BodyIncomplete, detail))
        }
        None => {
            let detail = format!("the body took longer than {time_max:?}; nothing was executed");
            Err(Problem::new(Refusal::BodyTimeout, detail))
        }
    }
}

/// The output of `future`, or `None` if it takes longer than `limit`.
async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut timer = None;
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        // Most bodies are there at the first look; those cost no timer.
        let timer = timer.get_or_insert_with(|| clock.sleep(limit));
        timer.as_mut().poll(context).map(|()| None)
    })
    .await
}
