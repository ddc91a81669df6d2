use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use semel::{BoxError, BoxFuture};

use super::Shared;
use crate::body::Body;
use crate::event::Decision;

pin_project! {
    /// The response of an [`IdempotencyService`](super::IdempotencyService).
    pub struct ResponseFuture<F, E> {
        #[pin]
        state: State<F, E>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, E> {
        /// Not guarded: the service's own future, without a box.
        Passing { #[pin] future: F, shared: Arc<Shared> },
        Ready { response: Option<Response<Body>> },
        Guarded { future: BoxFuture<'static, Result<Response<Body>, E>> },
    }
}

impl<F, E> ResponseFuture<F, E> {
    pub(super) fn passing(future: F, shared: Arc<Shared>) -> Self {
        Self { state: State::Passing { future, shared } }
    }

    pub(super) fn ready(response: Response<Body>) -> Self {
        Self { state: State::Ready { response: Some(response) } }
    }

    pub(super) fn guarded(future: BoxFuture<'static, Result<Response<Body>, E>>) -> Self {
        Self { state: State::Guarded { future } }
    }
}

impl<F, E, R> Future for ResponseFuture<F, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Passing { future, shared } => {
                let answer = ready!(future.poll(context));
                let status = answer.as_ref().ok().map(Response::status);
                shared.answered(Decision::Bypass, status);
                Poll::Ready(answer.map(|mut response| {
                    response.headers_mut().remove(&shared.rules.outcome_header);
                    response.map(Body::new)
                }))
            }
            StateProjection::Ready { response } => {
                let response = response.take().unwrap_or_else(|| {
                    let mut again = Response::default();
                    *again.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    again
                });
                Poll::Ready(Ok(response))
            }
            StateProjection::Guarded { future } => future.as_mut().poll(context),
        }
    }
}

impl<F, E> fmt::Debug for ResponseFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
