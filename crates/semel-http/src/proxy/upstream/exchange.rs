//! One request at the upstream.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::body::{Progress, receive, relay};
use super::connection::{Connection, Sent};
use super::pool::Pool;
use crate::answer::{Problem, Refusal};
use crate::body::Body;
use crate::hop;
use crate::proxy::timer::Timer;

/// Sends a request to the upstream and gives its answer, or the problem that says for certain
/// whether the request was sent.
///
/// A future is moved as a whole several times on its way into a connection's task, so this one is
/// kept small: what can be done before it is made is done, and what is rare is boxed.
pub(crate) fn exchange(
    pool: Arc<Pool>,
    problem_base: Arc<str>,
    request: Request<Body>,
) -> impl Future<Output = Response<Body>> + Send {
    let is_keyed = request.extensions().get::<semel::Context>().is_some();
    let (parts, body) = request.into_parts();
    let (body, progress) = match body.into_incoming() {
        Ok(incoming) => receive(incoming),
        Err(body) => (body, None),
    };
    let request = Box::new(Request::from_parts(parts, body));
    async move {
        match try_exchange(&pool, request, progress, is_keyed).await {
            Ok(response) => response,
            Err(problem) => problem.response(&problem_base),
        }
    }
}

async fn try_exchange(
    pool: &Arc<Pool>,
    mut request: Box<Request<Body>>,
    progress: Option<Progress>,
    is_keyed: bool,
) -> Result<Response<Body>, Problem> {
    let permit = match Arc::clone(&pool.permits).try_acquire_owned() {
        Ok(permit) => permit,
        Err(_) => Box::pin(wait_for_place(pool)).await?,
    };
    let settings = &pool.settings;
    let mut idle_max =
        if is_keyed { settings.upstream_reuse_keyed } else { settings.upstream_idle };
    loop {
        let mut connection = match pool.take(idle_max) {
            Some(connection) => connection,
            None => Box::pin(open(pool)).await?,
        };
        // A safe request without a body may be sent again (RFC 9110 §9.2.2) when a connection that
        // had been idle turns out to be closed. Nothing else ever is.
        let again = (connection.is_reused && !is_keyed && progress.is_none())
            .then(|| copy_of_safe(&request, &connection))
            .flatten();
        match connection.send(*request, progress.as_ref(), settings).await {
            Sent::Answered(response) => return Ok(answer(pool, connection, permit, response)),
            Sent::Unsent(unsent) if connection.is_reused => request = unsent,
            Sent::Lost(_) if let Some(again) = again => request = again,
            failed => return Err(problem_of(failed)),
        }
        idle_max = Duration::ZERO;
    }
}

/// Waits for a place among the requests at the upstream.
#[cold]
async fn wait_for_place(pool: &Pool) -> Result<OwnedSemaphorePermit, Problem> {
    let permits = Arc::clone(&pool.permits);
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
fn copy_of_safe(request: &Request<Body>, connection: &Connection) -> Option<Box<Request<Body>>> {
    use http_body::Body as _;
    let is_safe = request.method().is_safe() && request.body().is_end_stream();
    if !is_safe || connection.used_at.elapsed() < Duration::from_secs(1) {
        return None;
    }
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(Box::new(copy))
}

fn answer(
    pool: &Arc<Pool>,
    connection: Box<Connection>,
    permit: OwnedSemaphorePermit,
    response: Response<hyper::body::Incoming>,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    hop::strip(&mut parts.headers);
    Response::from_parts(parts, relay(body, connection, pool, permit))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::settings::Settings;

    /// Futures are moved as a whole several times on their way into a connection's task.
    #[test]
    fn the_future_of_an_exchange_stays_small() {
        let settings = Settings::new("http://app");
        let target = settings.validate().unwrap();
        let pool = Arc::new(Pool::new(settings, target));
        let future = exchange(pool, Arc::from("/"), Request::new(Body::empty()));
        let bytes = size_of_val(&future);
        assert!(bytes <= 1024, "{bytes}");
    }
}
