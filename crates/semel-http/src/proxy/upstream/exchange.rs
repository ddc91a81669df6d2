//! One request at the upstream.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::body::{receive, relay};
use super::connection::{Connection, Sent};
use super::pool::Pool;
use crate::answer::{PROBLEMS_PATH, Problem, Refusal};
use crate::body::Body;
use crate::hop;
use crate::proxy::timer::Timer;

/// Sends a request to the upstream and gives its answer, or the problem that says for certain
/// whether the request was sent.
pub(crate) async fn exchange(
    pool: Arc<Pool>,
    problem_base: Arc<str>,
    request: Request<Body>,
) -> Response<Body> {
    match try_exchange(&pool, request).await {
        Ok(response) => response,
        Err(problem) => {
            let base = if problem_base.is_empty() { PROBLEMS_PATH } else { &problem_base };
            problem.response(base)
        }
    }
}

async fn try_exchange(pool: &Arc<Pool>, request: Request<Body>) -> Result<Response<Body>, Problem> {
    let permit = place(pool).await?;
    let is_keyed = request.extensions().get::<semel::Context>().is_some();
    let settings = &pool.settings;
    let mut idle_max =
        if is_keyed { settings.upstream_reuse_keyed } else { settings.upstream_idle };
    let (parts, body) = request.into_parts();
    let (body, progress) = match body.into_incoming() {
        Ok(incoming) => receive(incoming),
        Err(body) => (body, None),
    };
    let mut request = Request::from_parts(parts, body);
    loop {
        let mut connection = match pool.take(idle_max) {
            Some(connection) => connection,
            None => open(pool).await?,
        };
        // A safe request without a body may be sent again (RFC 9110 §9.2.2) when a connection that
        // had been idle turns out to be closed. Nothing else ever is.
        let again = (connection.is_reused && !is_keyed && progress.is_none())
            .then(|| copy_of_safe(&request, &connection))
            .flatten();
        match connection.send(request, progress.as_ref(), settings).await {
            Sent::Answered(response) => {
                return Ok(answer(pool, connection, permit, response).await);
            }
            Sent::Unsent(unsent) if connection.is_reused => {
                request = *unsent;
                idle_max = Duration::ZERO;
            }
            Sent::Lost(_) if let Some(again) = again => {
                request = again;
                idle_max = Duration::ZERO;
            }
            failed => return Err(problem_of(failed)),
        }
    }
}

/// Waits for a place among the requests at the upstream.
async fn place(pool: &Pool) -> Result<OwnedSemaphorePermit, Problem> {
    let permits = Arc::clone(&pool.permits);
    if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
        return Ok(permit);
    }
    let mut patience = Timer::new(pool.settings.connect);
    let permit = tokio::select! {
        biased;
        permit = permits.acquire_owned() => permit.ok(),
        () = patience.over() => None,
    };
    permit.ok_or_else(|| {
        let detail = "as many requests are at the upstream as are allowed; nothing was sent";
        Problem::new(Refusal::Overloaded, detail)
    })
}

async fn open(pool: &Pool) -> Result<Box<Connection>, Problem> {
    let opened = Connection::open(&pool.target, &pool.settings).await;
    opened.map(Box::new).map_err(|error| {
        tracing::warn!(
            target: "semel::http",
            upstream = %pool.settings.upstream,
            %error,
            "the upstream cannot be reached"
        );
        unreachable()
    })
}

fn unreachable() -> Problem {
    Problem::new(Refusal::UpstreamUnreachable, "nothing was sent to the upstream")
}

/// A copy to send again, made only where the connection was idle long enough to be in doubt.
fn copy_of_safe(request: &Request<Body>, connection: &Connection) -> Option<Request<Body>> {
    use http_body::Body as _;
    let is_safe = request.method().is_safe() && request.body().is_end_stream();
    if !is_safe || connection.used_at.elapsed() < Duration::from_secs(1) {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

async fn answer(
    pool: &Arc<Pool>,
    connection: Box<Connection>,
    permit: OwnedSemaphorePermit,
    response: Response<hyper::body::Incoming>,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    hop::strip(&mut parts.headers);
    let mut taken = Some((body, connection, permit));
    let body = poll_fn(|context| {
        let body = taken
            .take()
            .map(|(body, connection, permit)| relay(body, connection, pool, permit, context));
        Poll::Ready(body.unwrap_or_default())
    })
    .await;
    Response::from_parts(parts, body)
}

fn problem_of(failed: Sent) -> Problem {
    match failed {
        Sent::BodyTimeout => {
            Problem::new(Refusal::BodyTimeout, "the body of the request paused for too long")
        }
        Sent::HeadTimeout => {
            let detail = "the request was sent, and may have been executed";
            Problem::new(Refusal::UpstreamTimeout, detail)
        }
        Sent::Lost(error) => {
            tracing::warn!(target: "semel::http", %error, "the upstream was lost after sending");
            let detail = "the request was sent, and may have been executed";
            Problem::new(Refusal::UpstreamLost, detail)
        }
        Sent::Unsent(_) | Sent::Answered(_) => unreachable(),
    }
}
