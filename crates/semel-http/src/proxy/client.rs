//! A client's connection: what both its bytes and its requests have to know, and the limits on a
//! client that is slow.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::framing::{Framing, Watch};
use super::settings::Settings;
use super::timer::Timer;

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    /// Requests that are being served.
    open: AtomicU32,
    framing: AtomicU8,
    /// For `X-Forwarded-For`.
    pub(super) address: HeaderValue,
    /// For `Forwarded`.
    pub(super) forwarded: HeaderValue,
}

/// Marks a request as being served until its answer is over.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Client>);

impl Client {
    pub(super) fn new(peer: SocketAddr) -> Self {
        let ip = peer.ip().to_canonical();
        let quoted = if ip.is_ipv6() { format!("\"[{ip}]\"") } else { ip.to_string() };
        let value = |text: String| {
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        };
        Self {
            open: AtomicU32::new(0),
            framing: AtomicU8::new(Framing::Unseen as u8),
            address: value(ip.to_string()),
            forwarded: value(format!("for={quoted};proto=http")),
        }
    }

    pub(super) fn serving(self: &Arc<Self>) -> Serving {
        self.open.fetch_add(1, Ordering::Relaxed);
        Serving(Arc::clone(self))
    }

    /// How the request that just arrived is framed.
    pub(super) fn take_framing(&self) -> Framing {
        Framing::from_code(self.framing.swap(Framing::Unseen as u8, Ordering::Relaxed))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Head,
    Idle,
    Serving,
}

/// The bytes of a client's connection, with a limit on how long each phase may take.
#[derive(Debug)]
pub(super) struct ClientIo {
    stream: TcpStream,
    client: Arc<Client>,
    watch: Watch,
    is_http2: bool,
    limits: Limits,
    /// Runs in the phase it was started for.
    timer: Timer,
    phase: Option<Phase>,
    /// Runs while the client takes nothing.
    stalled: Option<Timer>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    idle: Duration,
    head: Duration,
    write: Duration,
}

impl ClientIo {
    pub(super) fn new(stream: TcpStream, client: Arc<Client>, settings: &Settings) -> Self {
        let limits = Limits {
            idle: settings.client_idle,
            head: settings.header_read,
            write: settings.client_write,
        };
        Self {
            stream,
            client,
            watch: Watch::default(),
            is_http2: false,
            limits,
            timer: Timer::new(limits.idle),
            phase: None,
            stalled: None,
        }
    }

    fn is_serving(&self) -> bool {
        self.client.open.load(Ordering::Relaxed) > 0
    }

    fn arrived(&mut self, bytes: &[u8]) {
        if self.is_http2 {
            return;
        }
        if self.watch.is_over() && !self.is_serving() {
            self.watch.restart();
        }
        if !self.watch.has_begun() && bytes.starts_with(b"PRI * HTTP/2.0") {
            // HTTP/2 has no ambiguous lengths.
            self.is_http2 = true;
        } else if !self.watch.is_over()
            && let Some(framing) = self.watch.see(bytes)
        {
            self.client.framing.store(framing as u8, Ordering::Relaxed);
        }
    }

    /// Nothing arrived: is the client still in time?
    ///
    /// hyper does not look at the connection again when an answer is over, so the timer has to run
    /// while a request is served as well: when it rings afterwards, the idle time begins. A client
    /// is let go after one to two times its limit.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let (phase, limit) = self.phase_now();
            // Serving needs no time of its own: requests and the upstream have their own limits.
            if self.phase != Some(phase) && phase != Phase::Serving {
                self.timer.restart(limit);
            }
            self.phase = Some(phase);
            ready!(self.timer.poll(context));
            let what = match phase {
                Phase::Head => "the head of a request took too long",
                Phase::Idle => "no request came",
                Phase::Serving => {
                    self.timer.restart(limit);
                    continue;
                }
            };
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, what));
        }
    }

    fn phase_now(&mut self) -> (Phase, Duration) {
        if self.is_serving() {
            return (Phase::Serving, self.limits.idle);
        }
        if self.watch.is_over() {
            self.watch.restart();
        }
        if self.watch.has_begun() && !self.is_http2 {
            (Phase::Head, self.limits.head)
        } else {
            (Phase::Idle, self.limits.idle)
        }
    }

    /// Bounds how long the client takes nothing.
    fn patiently<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limits.write;
        let stalled = self.stalled.get_or_insert_with(|| Timer::new(limit));
        ready!(stalled.poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no answer")))
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                self.arrived(&buffer.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_patience(context).map(Err),
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.patiently(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.patiently(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
