use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;
use semel::BoxFuture;

use super::client::Serving;
use crate::body::Body;

pin_project! {
    /// The answer to one client's request, on its way.
    #[project = AnsweringProjection]
    pub(super) enum Answering<F> {
        Forwarded { #[pin] future: F, serving: Option<Serving> },
        Ready { response: Option<Response<Body>> },
        Tunnel { future: BoxFuture<'static, Response<Body>> },
    }
}

impl<F> Answering<F> {
    pub(super) fn forwarded(future: F, serving: Serving) -> Self {
        Self::Forwarded { future, serving: Some(serving) }
    }

    pub(super) fn ready(response: Response<Body>) -> Self {
        Self::Ready { response: Some(response) }
    }

    pub(super) fn tunnel(future: impl Future<Output = Response<Body>> + Send + 'static) -> Self {
        Self::Tunnel { future: Box::pin(future) }
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Answering<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AnsweringProjection::Forwarded { future, serving } => {
                let Ok(mut response) = ready!(future.poll(context));
                if let Some(serving) = serving.take() {
                    response.body_mut().hold(serving);
                }
                Poll::Ready(Ok(response))
            }
            AnsweringProjection::Ready { response } => {
                Poll::Ready(Ok(response.take().unwrap_or_default()))
            }
            AnsweringProjection::Tunnel { future } => future.as_mut().poll(context).map(Ok),
        }
    }
}
