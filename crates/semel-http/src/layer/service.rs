use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use semel::{BoxError, Key};
use tower_service::Service;

use super::{ResponseFuture, Shared, execute};
use crate::answer::{self, Problem, Refusal};
use crate::body::Body;
use crate::event::Decision;
use crate::key;
use crate::settings::OnMissing;

/// A service whose guarded requests take effect once. Made by
/// [`IdempotencyLayer`](super::IdempotencyLayer).
///
/// Needs a tokio runtime: a guarded request is executed in a task of its own, which goes on when
/// the client hangs up.
#[derive(Clone)]
pub struct IdempotencyService<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// What a request is to the layer before its body is read.
enum Kind {
    Passing,
    Refused(Problem),
    /// `None`: the key may be in the body.
    Guarded(Option<Key>),
}

impl<S> IdempotencyService<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S, B, R> Service<Request<B>> for IdempotencyService<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let base = &self.shared.rules.numbers.problem_base;
        if let Some(page) = answer::page(&request, base) {
            self.shared.answered(Decision::Bypass, Some(page.status()));
            return ResponseFuture::ready(page);
        }
        match kind_of(&self.shared, &request) {
            Kind::Passing => {
                let future = self.inner.call(request.map(Body::new));
                ResponseFuture::passing(future, Arc::clone(&self.shared))
            }
            Kind::Refused(problem) => ResponseFuture::ready(self.shared.refuse(&problem)),
            Kind::Guarded(key) => {
                // The clone that was polled ready goes into the task; the fresh one stays.
                let fresh = self.inner.clone();
                let ready = std::mem::replace(&mut self.inner, fresh);
                let shared = Arc::clone(&self.shared);
                let guarded = execute::guarded(shared, ready, request.map(Body::new), key);
                ResponseFuture::guarded(Box::pin(guarded))
            }
        }
    }
}

fn kind_of<B>(shared: &Shared, request: &Request<B>) -> Kind {
    let rules = &shared.rules;
    if !rules.methods.contains(request.method()) {
        return Kind::Passing;
    }
    let spelling = rules.numbers.key_spelling;
    match key::from_headers(request.headers(), &rules.key_headers, spelling) {
        Some(Ok(key)) => Kind::Guarded(Some(key)),
        Some(Err(problem)) => Kind::Refused(Problem::new(Refusal::KeyMalformed, problem)),
        None if rules.key_pointer.is_some() => Kind::Guarded(None),
        None => match rules.numbers.on_missing {
            OnMissing::Pass => Kind::Passing,
            OnMissing::Refuse => Kind::Refused(shared.key_missing()),
        },
    }
}

impl Shared {
    pub(super) fn key_missing(&self) -> Problem {
        let places: Vec<_> = self.rules.numbers.key_headers.iter().map(String::as_str).collect();
        let field = places.join("` or `");
        let detail = match (&self.rules.numbers.key_pointer, places.is_empty()) {
            (None, _) => format!(
                "send the field `{field}` with a value that is new for every \
                                  operation and the same for every retry of it"
            ),
            (Some(pointer), true) => format!("put a key into the body at `{pointer}`"),
            (Some(pointer), false) => {
                format!("send the field `{field}`, or put a key into the body at `{pointer}`")
            }
        };
        Problem::new(Refusal::KeyMissing, detail)
    }

    pub(super) fn refuse(&self, problem: &Problem) -> Response<Body> {
        let refusal = problem.refusal();
        tracing::debug!(target: "semel::http", refusal = refusal.slug(), "refused");
        self.answered(Decision::Refused(refusal), Some(refusal.status()));
        problem.response(&self.rules.numbers.problem_base)
    }
}

impl<S: fmt::Debug> fmt::Debug for IdempotencyService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
