//! Accepting clients, serving their connections, and stopping.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_layer::Layer;
use tower_service::Service;

use super::answering::Answering;
use super::client::{Client, ClientIo};
use super::timer::Timer;
use super::upstream::tunnel::{self, Tunnels};
use super::upstream::{Pool, exchange};
use super::{forward, settings::Settings};
use crate::answer::Problem;
use crate::body::Body;
use crate::layer::IdempotencyLayer;

/// How stopping went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections and tunnels that were cut because they took too long.
    pub connections_cut: usize,
    /// Executions that still ran; the store's leases decide about their keys.
    pub executions_left: usize,
}

/// What all connections share.
struct Server<S> {
    service: S,
    pool: Arc<Pool>,
    layer: IdempotencyLayer,
    tunnels: Tunnels,
    /// No new requests.
    stop: Stop,
    /// No more waiting.
    cut: CancellationToken,
}

pub(super) async fn serve(
    pool: Arc<Pool>,
    layer: IdempotencyLayer,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> Drained {
    let problem_base: Arc<str> = layer.problem_base().into();
    let upstream = {
        let (pool, base) = (Arc::clone(&pool), problem_base);
        Through(move |request| {
            let exchanged = exchange(Arc::clone(&pool), Arc::clone(&base), request);
            async move { Ok::<_, Infallible>(exchanged.await) }
        })
    };
    let cut = CancellationToken::new();
    let server = Arc::new(Server {
        service: layer.layer(upstream),
        pool: Arc::clone(&pool),
        layer: layer.clone(),
        tunnels: Tunnels { tasks: TaskTracker::new(), cut: cut.clone() },
        stop: Stop::default(),
        cut,
    });
    let connections = TaskTracker::new();
    {
        let accepting = accept(&server, &connections, &listener);
        let closing = close_old(&pool);
        tokio::select! {
            () = shutdown => {}
            () = accepting => {}
            () = closing => {}
        }
    }
    drop(listener);
    drain(&server, &connections, &layer).await
}

async fn accept<S>(server: &Arc<Server<S>>, connections: &TaskTracker, listener: &TcpListener)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let places = Arc::new(Semaphore::new(server.pool.settings.connections_max));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let server = Arc::clone(server);
                let client = Arc::new(Client::new(peer));
                connections.spawn(async move {
                    serve_client(&server, stream, client).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(target: "semel::http", %error, "a client could not be accepted");
                if !is_of_one_client(&error) {
                    // Out of file descriptors, most likely: accepting again at once would spin.
                    Timer::new(Duration::from_millis(100)).over().await;
                }
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn close_old(pool: &Pool) {
    let pause = pool.settings.upstream_idle.max(Duration::from_millis(100)) / 2;
    loop {
        Timer::new(pause).over().await;
        pool.close_old();
    }
}

async fn serve_client<S>(server: &Arc<Server<S>>, stream: TcpStream, client: Arc<Client>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    let settings = &server.pool.settings;
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&client), settings));
    let service = service_fn(|request| server.answer(&client, request));
    let protocol = protocol(settings);
    let mut connection = pin!(protocol.serve_connection_with_upgrades(io, service));
    let mut stop = pin!(server.stop.wait());
    let mut cut = pin!(server.cut.cancelled());
    let mut is_stopping = false;
    let served = poll_fn(|context| {
        if !is_stopping && stop.as_mut().poll(context).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        if is_stopping && cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        connection.as_mut().poll(context)
    });
    if let Err(error) = served.await {
        tracing::debug!(target: "semel::http", %error, "a client's connection ended early");
    }
}

fn protocol(settings: &Settings) -> auto::Builder<TokioExecutor> {
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    // The time-outs of HTTP/1.1 are in `ClientIo`, which tells an idle client from a slow one.
    protocol.http1().max_buf_size(settings.header_bytes_max).header_read_timeout(None);
    protocol
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.streams_max)
        .max_header_list_size(u32::try_from(settings.header_bytes_max).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20));
    protocol
}

impl<S> Server<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    /// Answers one request. Not an `async fn`, so that a request is moved no more often than
    /// necessary; see [`exchange`].
    fn answer(&self, client: &Arc<Client>, mut request: Request<Incoming>) -> Answering<S::Future> {
        let serving = client.serving();
        let is_http1 = request.version() != Version::HTTP_2;
        let settings = &self.pool.settings;
        let protocol = tunnel::wanted(&request);
        let forwardable = forward::check_framing(&request, client.take_framing())
            .and_then(|()| forward::prepare(&mut request, client, settings, &self.pool.target));
        if let Err(problem) = forwardable {
            return Answering::ready(self.refuse(&problem, is_http1));
        }
        if let Some(protocol) = protocol {
            let (pool, tunnels) = (Arc::clone(&self.pool), self.tunnels.clone());
            let layer = self.layer.clone();
            return Answering::tunnel(async move {
                let opened = tunnel::open(pool, &tunnels, request, protocol, serving).await;
                opened.unwrap_or_else(|problem| layer.refuse(&problem))
            });
        }
        Answering::forwarded(self.service.clone().call(request.map(Body::new)), serving)
    }

    fn refuse(&self, problem: &Problem, is_http1: bool) -> Response<Body> {
        let mut response = self.layer.refuse(problem);
        if is_http1 {
            // Whoever sends such a request is not understood any further.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

async fn drain<S>(
    server: &Server<S>,
    connections: &TaskTracker,
    layer: &IdempotencyLayer,
) -> Drained {
    server.stop.tell();
    connections.close();
    server.tunnels.tasks.close();
    let ended = async {
        connections.wait().await;
        layer.drained().await;
        server.tunnels.tasks.wait().await;
    };
    let mut patience = Timer::new(server.pool.settings.drain_max);
    tokio::select! {
        biased;
        () = ended => {}
        () = patience.over() => {}
    }
    let drained = Drained {
        connections_cut: connections.len() + server.tunnels.tasks.len(),
        executions_left: layer.executing(),
    };
    server.cut.cancel();
    drained
}

/// Tells every connection to stop. A token that can be polled for next to nothing, because each
/// connection polls it whenever a byte moves.
#[derive(Default)]
struct Stop {
    is_told: AtomicBool,
    token: CancellationToken,
}

impl Stop {
    fn tell(&self) {
        self.is_told.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Must be polled by one task only: the waker is registered once.
    async fn wait(&self) {
        let mut told = pin!(self.token.cancelled());
        let mut is_registered = false;
        poll_fn(|context| {
            if is_registered && !self.is_told.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            is_registered = true;
            told.as_mut().poll(context)
        })
        .await;
    }
}

/// A tower service from a function, with the function's own future and so without a box.
#[derive(Clone)]
struct Through<F>(F);

impl<F, A> Service<Request<Body>> for Through<F>
where
    F: Fn(Request<Body>) -> A,
    A: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = A;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> A {
        (self.0)(request)
    }
}
