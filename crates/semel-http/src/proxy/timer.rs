//! The one timer that a connection has, moved from one deadline to the next.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A deadline that can be moved. Made once for a connection and moved for every request: moving a
/// timer to a later time costs next to nothing, making one does not.
///
/// Uses tokio's time and not a [`semel::Clock`], because it sits on the path of every request of a
/// connection that tokio drives anyway. It decides only about connections, never about records.
#[derive(Debug)]
pub(super) struct Timer(Pin<Box<Sleep>>);

impl Timer {
    pub(super) fn new(limit: Duration) -> Self {
        Self(Box::pin(tokio::time::sleep_until(deadline(limit))))
    }

    pub(super) fn restart(&mut self, limit: Duration) {
        self.0.as_mut().reset(deadline(limit));
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }

    pub(super) async fn over(&mut self) {
        self.0.as_mut().await;
    }
}

/// A limit too long for the clock never comes.
fn deadline(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365))
}
