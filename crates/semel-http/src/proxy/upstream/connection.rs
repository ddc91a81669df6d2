use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::body::Progress;
use crate::body::Body;
use crate::proxy::settings::{Settings, Target};
use crate::proxy::timer::Timer;

/// A connection to the upstream, driven by whoever uses it.
pub(super) struct Connection {
    sender: http1::SendRequest<Body>,
    driver: Option<http1::Connection<TokioIo<TcpStream>, Body>>,
    pub(super) timer: Timer,
    pub(super) used_at: Instant,
    /// Whether it has carried a request before.
    pub(super) is_reused: bool,
}

/// What became of a request.
pub(super) enum Sent {
    Answered(Response<Incoming>),
    /// The connection was lost after the request, or a part of it, was sent.
    Lost(hyper::Error),
    /// Not one byte was sent. Here it is again.
    Unsent(Box<Request<Body>>),
    /// The client sent no more of the body for too long.
    BodyTimeout,
    /// The upstream did not answer in time.
    HeadTimeout,
}

impl Connection {
    pub(super) async fn open(target: &Target, settings: &Settings) -> io::Result<Self> {
        let mut timer = Timer::new(settings.connect);
        let stream = tokio::select! {
            biased;
            stream = TcpStream::connect((target.host.as_str(), target.port)) => stream?,
            () = timer.over() => return Err(io::ErrorKind::TimedOut.into()),
        };
        stream.set_nodelay(true)?;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(io::Error::other)?;
        let used_at = Instant::now();
        Ok(Self { sender, driver: Some(driver), timer, used_at, is_reused: false })
    }

    /// Moves bytes. All progress of requests and bodies on this connection happens in here, so
    /// they are polled after it, with no waker of their own.
    pub(super) fn drive(&mut self, context: &mut Context<'_>) {
        let Some(driver) = &mut self.driver else { return };
        if Pin::new(driver).poll(context).is_ready() {
            self.driver = None;
        }
    }

    /// Whether another request can be sent.
    pub(super) fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Whether a connection from the pool still lives: sees a close that has arrived.
    pub(super) fn is_alive(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.is_ready()
    }

    /// Sends a request and waits for the head of the answer. The request is handed over before the
    /// future is made, which is why this is no `async fn`.
    pub(super) fn send<'a>(
        &'a mut self,
        request: Request<Body>,
        progress: Option<&'a Progress>,
        settings: &'a Settings,
    ) -> impl Future<Output = Sent> + Send + 'a {
        let Self { sender, driver, timer, .. } = self;
        let sent = sender.try_send_request(request);
        async move {
            let mut deadline = Deadline::new(timer, progress, settings);
            let mut sent = pin!(sent);
            std::future::poll_fn(|context| {
                if let Some(live) = driver
                    && Pin::new(live).poll(context).is_ready()
                {
                    *driver = None;
                }
                let mut no_waker = Context::from_waker(Waker::noop());
                match sent.as_mut().poll(&mut no_waker) {
                    Poll::Ready(Ok(response)) => Poll::Ready(Sent::Answered(response)),
                    Poll::Ready(Err(mut error)) => Poll::Ready(match error.take_message() {
                        Some(request) => Sent::Unsent(Box::new(request)),
                        None => Sent::Lost(error.into_error()),
                    }),
                    Poll::Pending => deadline.poll(context),
                }
            })
            .await
        }
    }
}

/// How long the client may pause within the body, then how long the upstream may think.
struct Deadline<'a> {
    timer: &'a mut Timer,
    /// `None` once the body is complete.
    progress: Option<&'a Progress>,
    frames: u64,
    settings: &'a Settings,
}

impl<'a> Deadline<'a> {
    fn new(timer: &'a mut Timer, progress: Option<&'a Progress>, settings: &'a Settings) -> Self {
        let limit = if progress.is_some() { settings.body_idle } else { settings.response_head };
        timer.restart(limit);
        Self { timer, progress, frames: 0, settings }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Sent> {
        loop {
            if let Some(progress) = self.progress
                && progress.is_complete()
            {
                self.progress = None;
                self.timer.restart(self.settings.response_head);
            }
            std::task::ready!(self.timer.poll(context));
            let Some(progress) = self.progress else { return Poll::Ready(Sent::HeadTimeout) };
            // The timer is looked at when it rings, not moved with every frame.
            if progress.frames() == self.frames {
                return Poll::Ready(Sent::BodyTimeout);
            }
            self.frames = progress.frames();
            self.timer.restart(self.settings.body_idle);
        }
    }
}
