//! A future that finds its runtime wherever it is polled.

use std::pin::Pin;
use std::task::{Context, Poll};

use semel::BoxFuture;
use tokio::runtime::Handle;

/// Runs on any executor: redis-rs and the batches look for tokio's timers and tasks in the
/// context of whoever polls or drops them.
pub(super) struct Within<'a, T> {
    runtime: Handle,
    future: Option<BoxFuture<'a, T>>,
}

pub(super) fn within<'a, T: 'a>(
    runtime: &Handle,
    future: impl Future<Output = T> + Send + 'a,
) -> BoxFuture<'a, T> {
    Box::pin(Within { runtime: runtime.clone(), future: Some(Box::pin(future)) })
}

impl<T> Future for Within<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let _inside = this.runtime.enter();
        match &mut this.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Within<'_, T> {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.future = None;
    }
}
