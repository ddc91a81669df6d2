//! The two bodies that pass through: the client's on its way in, the upstream's on its way out.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use semel::BoxError;
use tokio::sync::OwnedSemaphorePermit;

use super::connection::Connection;
use super::pool::Pool;
use crate::body::{Body, Whole};
use crate::proxy::client::Serving;

/// How far the client's body has come, for the one who waits for it.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<AtomicU64>);

/// Set in the counter once the body is complete.
const COMPLETE: u64 = 1 << 63;

impl Progress {
    pub(super) fn frames(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.frames() & COMPLETE != 0
    }
}

/// A client's body that has not arrived whole.
pub(crate) struct Received {
    front: Option<Ahead>,
    rest: Incoming,
    progress: Progress,
}

/// Takes what has arrived. Most bodies came with their heads and are whole.
pub(super) fn receive(mut body: Incoming) -> (Body, Option<Progress>) {
    let (front, is_over) = look_ahead(&mut body);
    if is_over {
        let data =
            front.and_then(Result::ok).and_then(|it| it.into_data().ok()).unwrap_or_default();
        return (Body::from(data), None);
    }
    let progress = Progress(Arc::default());
    let received = Received { front, rest: body, progress: progress.clone() };
    (Body::received(received), Some(progress))
}

/// What came first: a frame, or the end of the connection in the middle of the body. The error is
/// kept, because the body tells it only once and looks complete afterwards.
type Ahead = Result<Frame<Bytes>, hyper::Error>;

/// What is there already, and whether nothing comes after it. Registers no waker: who waits for
/// more polls the body again.
fn look_ahead(body: &mut Incoming) -> (Option<Ahead>, bool) {
    if body.is_end_stream() {
        return (None, true);
    }
    let mut no_waker = Context::from_waker(Waker::noop());
    match Pin::new(&mut *body).poll_frame(&mut no_waker) {
        Poll::Ready(Some(Ok(frame))) => {
            // Trailers come in a frame of their own, which the whole body has no place for here.
            let is_over = frame.is_data() && body.is_end_stream();
            (Some(Ok(frame)), is_over)
        }
        Poll::Ready(None) => (None, true),
        Poll::Ready(Some(Err(error))) => (Some(Err(error)), false),
        Poll::Pending => (None, false),
    }
}

impl Received {
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = match self.front.take() {
            Some(ahead) => Poll::Ready(Some(ahead)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        };
        match &polled {
            Poll::Ready(Some(Ok(_))) if !self.is_end_stream() => {
                self.progress.0.fetch_add(1, Ordering::Relaxed);
            }
            Poll::Ready(_) => drop(self.progress.0.fetch_or(COMPLETE, Ordering::Relaxed)),
            Poll::Pending => {}
        }
        polled.map_err(Into::into)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.front.is_none() && self.rest.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        hint_with(self.front.as_ref(), self.rest.size_hint())
    }
}

fn hint_with(front: Option<&Ahead>, rest: SizeHint) -> SizeHint {
    let ahead =
        front.and_then(|it| it.as_ref().ok()?.data_ref()).map_or(0, |data| data.len() as u64);
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper + ahead);
    }
    hint.set_lower(rest.lower() + ahead);
    hint
}

/// An upstream's answer on its way to the client, with the connection that it comes from. Dropping
/// it early closes that connection.
pub(crate) struct Relayed(Box<Relay>);

struct Relay {
    front: Option<Ahead>,
    rest: Incoming,
    /// `None` once it is back in the pool.
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
    idle_max: Duration,
    permit: Option<OwnedSemaphorePermit>,
    serving: Option<Serving>,
    /// Whether the timer runs for the piece that is waited for.
    is_timed: bool,
}

/// Takes what has arrived of an answer. A whole one gives the connection back at once.
pub(super) fn relay(
    mut body: Incoming,
    mut connection: Box<Connection>,
    pool: &Arc<Pool>,
    permit: OwnedSemaphorePermit,
) -> Body {
    let (front, is_over) = look_ahead(&mut body);
    if is_over {
        if !connection.is_ready() {
            // The end of the body may still have to be noticed. Nobody has to be woken for it.
            connection.drive(&mut Context::from_waker(Waker::noop()));
        }
        pool.put(connection);
        let data =
            front.and_then(Result::ok).and_then(|it| it.into_data().ok()).unwrap_or_default();
        return Body::whole(Whole { data, trailers: None });
    }
    Body::relayed(Relayed(Box::new(Relay {
        front,
        rest: body,
        connection: Some(connection),
        pool: Arc::clone(pool),
        idle_max: pool.settings.response_idle,
        permit: Some(permit),
        serving: None,
        is_timed: false,
    })))
}

impl Relayed {
    /// Keeps the client's request open until the body is over.
    pub(crate) fn hold(&mut self, serving: Serving) {
        self.0.serving = Some(serving);
    }

    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_frame(context)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.0.front.is_none() && self.0.rest.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        hint_with(self.0.front.as_ref(), self.0.rest.size_hint())
    }
}

impl Relay {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.front.take() {
            Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => return self.broken(Some(Err(error))),
            None => {}
        }
        // Twice, because asking for a frame lets the connection read on.
        for _ in 0..2 {
            if let Some(connection) = &mut self.connection {
                connection.drive(context);
            }
            let polled = Pin::new(&mut self.rest).poll_frame(context);
            if let Poll::Ready(frame) = polled {
                self.is_timed = false;
                let is_over = match &frame {
                    Some(Ok(_)) => self.rest.is_end_stream(),
                    Some(Err(_)) => return self.broken(frame),
                    None => true,
                };
                if is_over {
                    self.give_back(context);
                }
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
        }
        self.poll_patience(context)
    }

    fn poll_patience<T>(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, BoxError>>> {
        let Some(connection) = &mut self.connection else { return Poll::Pending };
        if !self.is_timed {
            connection.timer.restart(self.idle_max);
            self.is_timed = true;
        }
        std::task::ready!(connection.timer.poll(context));
        self.connection = None;
        let error = io::Error::new(io::ErrorKind::TimedOut, "the upstream paused for too long");
        Poll::Ready(Some(Err(error.into())))
    }

    fn broken(
        &mut self,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.connection = None;
        self.permit = None;
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn give_back(&mut self, context: &mut Context<'_>) {
        if let Some(mut connection) = self.connection.take() {
            connection.drive(context);
            self.pool.put(connection);
        }
        self.permit = None;
        self.serving = None;
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Received")
    }
}

impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relayed")
    }
}
