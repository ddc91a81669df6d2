//! The service under a claim, in a task of its own, and what its answer means.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::Body as HttpBody;
use semel::{
    BoxError, Context, Ending, Error, ErrorKind, Executed, Key, Outcome, Timestamp, failpoint,
};
use tower_service::Service;

use super::Shared;
use super::admit::{Admission, Admitted, admit};
use super::transaction::Opened;
use crate::answer::{KnownEffect, Problem, Refusal};
use crate::body::{Body, Collected, collect};
use crate::event::Decision;
use crate::replay::{self, Stored};
use crate::status::Disposition;

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const EXPIRES: HeaderName = HeaderName::from_static("idempotency-expires");

/// The first caller's answer, and what was meant to become of the record. Where the store decides
/// otherwise (a commit that failed), the answer must not be sent.
struct Live<E> {
    answer: Result<Response<Body>, E>,
    meant: Disposition,
}

/// Answers one request that has a key, or may have one in its body.
pub(super) async fn guarded<S, R>(
    shared: Arc<Shared>,
    mut service: S,
    request: Request<Body>,
    key: Option<Key>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let admitted = match admit(&shared, request, key).await {
        Admission::Guarded(admitted) => admitted,
        Admission::Refused(problem) => return Ok(shared.refuse(&problem)),
        Admission::Passing(request) => {
            let mut response = service.call(request).await?;
            response.headers_mut().remove(&shared.rules.outcome_header);
            shared.answered(Decision::Bypass, Some(response.status()));
            return Ok(response.map(Body::new));
        }
    };
    // From here on the client no longer matters: dropping this future drops only the handle.
    let execution = shared.executions.spawn(execute(Arc::clone(&shared), service, admitted));
    match execution.await {
        Ok(answer) => answer,
        Err(_) => Ok(shared.refuse(&outcome_unknown())),
    }
}

async fn execute<S, R>(
    shared: Arc<Shared>,
    service: S,
    admitted: Admitted,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<R>> + Send,
    S::Future: Send,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let Admitted { tenant, key, fingerprint, request, permit } = admitted;
    // In a box: the futures around it are moved a dozen times before they are first polled.
    let handler = |context| Box::pin(run(&shared, service, request, context));
    let executed = shared.guard.execute(&tenant, &key, fingerprint, handler).await;
    drop(permit);
    conclude(&shared, executed)
}

async fn run<S, R>(
    shared: &Shared,
    mut service: S,
    mut request: Request<Body>,
    context: Context,
) -> Ending<Live<S::Error>>
where
    S: Service<Request<Body>, Response = Response<R>>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    request.extensions_mut().insert(context.clone());
    let transaction = match &shared.transactions {
        None => None,
        Some(transactions) => match transactions.begin(request.extensions_mut()).await {
            Ok(transaction) => Some(transaction),
            Err(error) => {
                tracing::warn!(target: "semel::http", %error, "no transaction could be opened");
                return released(Ok(shared.problem(&store_unavailable())));
            }
        },
    };
    match service.call(request).await {
        Ok(response) => settle(shared, &context, transaction, response.map(Body::new)).await,
        Err(error) => {
            undecided(transaction, "the service failed without an answer", Err(error)).await
        }
    }
}

/// Decides what an answer does to the record.
async fn settle<E>(
    shared: &Shared,
    context: &Context,
    transaction: Option<Box<dyn Opened>>,
    mut response: Response<Body>,
) -> Ending<Live<E>> {
    match shared.disposition_of(&mut response) {
        Disposition::Store => {
            let (response, outcome) = shared.kept(response).await;
            match outcome {
                Some(outcome) => store(context, transaction, response, outcome).await,
                None => undecided(transaction, "the answer broke off", Ok(response)).await,
            }
        }
        Disposition::Unknown => {
            let detail = match response.extensions().get::<Refusal>() {
                Some(refusal) => refusal.title().to_owned(),
                None => format!("the service answered {}", response.status().as_u16()),
            };
            undecided(transaction, &detail, Ok(response)).await
        }
        Disposition::Release => match transaction.map(Opened::rollback) {
            Some(rollback) => rolled_back(rollback.await, Ok(response)),
            None => released(Ok(response)),
        },
    }
}

async fn store<E>(
    context: &Context,
    transaction: Option<Box<dyn Opened>>,
    response: Response<Body>,
    outcome: Outcome,
) -> Ending<Live<E>> {
    let live = Live { answer: Ok(response), meant: Disposition::Store };
    let Some(transaction) = transaction else { return Ending::Completed { outcome, live } };
    match transaction.commit(context, outcome).await {
        Ending::ClaimLost => Ending::ClaimLost,
        Ending::Committed { expires_at, live: () } => Ending::Committed { expires_at, live },
        Ending::Completed { outcome, live: () } => Ending::Completed { outcome, live },
        Ending::Hold { detail, live: () } => Ending::Hold { detail, live },
        Ending::NotApplied { live: () } => Ending::NotApplied { live },
        Ending::Unknown { detail, live: () } => Ending::Unknown { detail, live },
    }
}

/// Without a transaction nobody knows what happened; with one, nothing that is not committed did.
async fn undecided<E>(
    transaction: Option<Box<dyn Opened>>,
    detail: &str,
    answer: Result<Response<Body>, E>,
) -> Ending<Live<E>> {
    match transaction.map(Opened::rollback) {
        Some(rollback) => rolled_back(rollback.await, answer),
        None => {
            let live = Live { answer, meant: Disposition::Unknown };
            Ending::Unknown { detail: detail.to_owned(), live }
        }
    }
}

fn rolled_back<E>(
    rollback: Result<(), Error>,
    answer: Result<Response<Body>, E>,
) -> Ending<Live<E>> {
    match rollback {
        Ok(()) => released(answer),
        Err(error) => {
            let live = Live { answer, meant: Disposition::Unknown };
            Ending::Unknown { detail: format!("the rollback failed: {error}"), live }
        }
    }
}

fn released<E>(answer: Result<Response<Body>, E>) -> Ending<Live<E>> {
    Ending::NotApplied { live: Live { answer, meant: Disposition::Release } }
}

fn conclude<E>(
    shared: &Shared,
    executed: Result<Executed<Live<E>>, Error>,
) -> Result<Response<Body>, E> {
    let (live, decision) = match executed {
        Ok(Executed::Fresh { live, expires_at }) => {
            let mut response = live.answer?;
            expires(&mut response, expires_at);
            failpoint::pass("before_answer");
            shared.answered(Decision::Executed, Some(response.status()));
            return Ok(response);
        }
        Ok(Executed::Replayed { outcome, expires_at }) => {
            failpoint::pass("before_answer");
            return Ok(shared.replay(&outcome, expires_at));
        }
        Ok(Executed::NotApplied { live }) => match live.meant {
            Disposition::Store => return Ok(shared.refuse(&store_unavailable())),
            Disposition::Release | Disposition::Unknown => (live, Decision::NotApplied),
        },
        Ok(Executed::Unknown { live }) => match live.meant {
            Disposition::Store => return Ok(shared.refuse(&outcome_unknown())),
            Disposition::Release | Disposition::Unknown => (live, Decision::Unknown),
        },
        Err(error) => return Ok(shared.refuse(&problem_of(&error))),
    };
    let status = live.answer.as_ref().ok().map(Response::status);
    let refusal = live.answer.as_ref().ok().and_then(|response| response.extensions().get());
    shared.answered(refusal.copied().map_or(decision, Decision::Refused), status);
    live.answer
}

impl Shared {
    fn problem(&self, problem: &Problem) -> Response<Body> {
        problem.response(&self.rules.numbers.problem_base)
    }

    fn replay(&self, outcome: &Outcome, expires_at: Timestamp) -> Response<Body> {
        match replay::read(outcome) {
            Ok(Stored::Answer(mut response)) => {
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                expires(&mut response, expires_at);
                self.answered(Decision::Replayed, Some(response.status()));
                response
            }
            Ok(Stored::Tombstone(status)) => {
                let detail = "it was too large; it will not be executed again";
                let problem = Problem::new(Refusal::AnswerNotKept, detail).original_status(status);
                self.refuse(&problem)
            }
            Err(error) => self.refuse(&problem_of(&error)),
        }
    }

    /// What this answer does to the record. What the service says counts more than its status.
    fn disposition_of(&self, response: &mut Response<Body>) -> Disposition {
        let said = response.headers_mut().remove(&self.rules.outcome_header);
        let said = said.and_then(|value| Disposition::from_outcome(value.as_bytes()));
        if let Some(said) = said {
            return said;
        }
        let refusal = response.extensions().get::<Refusal>();
        let known = match refusal.map(|refusal| refusal.known_effect()) {
            Some(KnownEffect::Nothing) => Disposition::Release,
            Some(KnownEffect::Unknown) => Disposition::Unknown,
            None => self.rules.numbers.statuses.of(response.status()),
        };
        if known != Disposition::Unknown {
            return known;
        }
        if self.rules.numbers.store_unknown {
            return Disposition::Store;
        }
        let parks = self.guard.effect().holds() && response.status().is_server_error();
        if parks && !self.hinted.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "semel::http",
                status = response.status().as_u16(),
                "this answer does not tell whether it happened, so its key is parked; a service \
                 that knows that nothing happened (a transaction was rolled back) can say so with \
                 the header `{}: not-applied`, and its clients may retry",
                self.rules.outcome_header
            );
        }
        known
    }

    /// Reads the answer as far as it may be kept. No outcome: it broke off, and the response is
    /// the one that says so.
    async fn kept(&self, response: Response<Body>) -> (Response<Body>, Option<Outcome>) {
        let (parts, body) = response.into_parts();
        let streams = parts.headers.get(CONTENT_TYPE).is_some_and(is_event_stream);
        let collected = if streams {
            Collected::TooLong(body)
        } else {
            collect(body, self.rules.numbers.response_bytes_max).await
        };
        match collected {
            Collected::Whole(whole) => {
                let outcome = replay::keep(&parts, &whole);
                (Response::from_parts(parts, Body::whole(whole)), Some(outcome))
            }
            Collected::TooLong(body) => {
                tracing::debug!(target: "semel::http", "an answer over the limit is not kept");
                let outcome = replay::tombstone(&parts);
                (Response::from_parts(parts, body), Some(outcome))
            }
            Collected::Broken(error) => {
                tracing::warn!(target: "semel::http", error = &*error, "an answer broke off");
                let detail = "the answer could not be read to its end; it may have happened";
                let response = self.problem(&Problem::new(Refusal::AnswerBroken, detail));
                if self.rules.numbers.store_unknown && self.transactions.is_none() {
                    return self.kept_problem(response).await;
                }
                (response, None)
            }
        }
    }

    async fn kept_problem(&self, response: Response<Body>) -> (Response<Body>, Option<Outcome>) {
        let (parts, body) = response.into_parts();
        match collect(body, usize::MAX).await {
            Collected::Whole(whole) => {
                let outcome = replay::keep(&parts, &whole);
                (Response::from_parts(parts, Body::whole(whole)), Some(outcome))
            }
            Collected::TooLong(body) => (Response::from_parts(parts, body), None),
            Collected::Broken(_) => (Response::from_parts(parts, Body::empty()), None),
        }
    }
}

/// A stream of events has no end to wait for.
fn is_event_stream(content_type: &HeaderValue) -> bool {
    let bytes = content_type.as_bytes();
    let wanted = b"text/event-stream";
    bytes.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted))
}

fn expires(response: &mut Response<Body>, expires_at: Timestamp) {
    let since_epoch = std::time::Duration::from_millis(expires_at.as_millis());
    // HTTP dates end with the year 9999; later is never.
    let last = std::time::Duration::from_secs(253_402_300_799);
    let date = httpdate::fmt_http_date(std::time::UNIX_EPOCH + since_epoch.min(last));
    if let Ok(date) = HeaderValue::try_from(date) {
        response.headers_mut().insert(EXPIRES, date);
    }
}

fn outcome_unknown() -> Problem {
    let detail = "an execution under this key ended without telling what happened; do not retry \
                  with a new key before the outcome is known";
    Problem::new(Refusal::OutcomeUnknown, detail)
}

fn store_unavailable() -> Problem {
    let detail = "nothing was executed; try again with the same key";
    Problem::new(Refusal::StoreUnavailable, detail)
}

/// The texts are fixed: an error's own message is for the operator, not for the client.
fn problem_of(error: &Error) -> Problem {
    tracing::debug!(target: "semel::http", %error, code = error.kind().code(), "not executed");
    match error.kind() {
        ErrorKind::InFlight => {
            let detail = "another request with this key is being executed; ask again with the \
                          same key";
            Problem::new(Refusal::InFlight, detail).retry_after(error.retry_after())
        }
        ErrorKind::Mismatch => {
            let detail = "the key was used before for another request; a new operation needs a \
                          new key";
            Problem::new(Refusal::KeyReused, detail)
        }
        ErrorKind::TooOld => {
            let detail = "nothing is known of this key, and it is too old for that to mean that \
                          it was never used";
            Problem::new(Refusal::KeyTooOld, detail)
        }
        _ if error.outcome_unknown() => {
            tracing::warn!(target: "semel::http", %error, "the outcome of a request is unknown");
            outcome_unknown()
        }
        ErrorKind::Corrupt | ErrorKind::TooNew => {
            tracing::error!(target: "semel::http", %error, "a record cannot be read");
            let detail = "nothing was executed; the operator has to look at the record";
            Problem::new(Refusal::RecordUnreadable, detail)
        }
        _ => {
            tracing::error!(target: "semel::http", %error, "the store could not answer");
            store_unavailable().retry_after(error.retry_after())
        }
    }
}
