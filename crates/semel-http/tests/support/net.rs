//! Real sockets: a proxy, upstreams that are told what to do, clients that write raw bytes.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use semel::{Effect, MemoryStore};
use semel_http::proxy::Drained;
use semel_http::{Body, IdempotencyLayer, Proxy, Settings, proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::guard_over;

/// A proxy that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) layer: IdempotencyLayer,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Drained>,
}

impl Running {
    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn drained(mut self) -> Drained {
        if self.stop.is_some() {
            self.stop();
        }
        self.served.await.unwrap()
    }

    pub(crate) async fn client(&self) -> Raw {
        Raw::connect(self.address).await
    }
}

pub(crate) async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub(crate) async fn proxy_to(upstream: SocketAddr) -> Running {
    proxy_with(upstream, super::HOLD, |_| {}, |_| {}).await
}

pub(crate) async fn proxy_with(
    upstream: SocketAddr,
    effect: Effect,
    change: impl FnOnce(&mut proxy::Settings),
    change_layer: impl FnOnce(&mut Settings),
) -> Running {
    let mut settings = proxy::Settings::new(&format!("http://{upstream}"));
    change(&mut settings);
    let mut layer_settings = Settings::proxy();
    change_layer(&mut layer_settings);
    let guard = guard_over(Arc::new(MemoryStore::new()), effect);
    let layer = IdempotencyLayer::builder(guard)
        .tenant_from_authorization()
        .settings(layer_settings)
        .build()
        .unwrap();
    let proxy = Proxy::new(settings, layer.clone()).unwrap();
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(proxy.serve(listener, async move {
        // A dropped sender leaves the proxy running to the end of the test.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
    }));
    Running { address, layer, stop: Some(stop), served }
}

/// An upstream made of a function.
pub(crate) async fn upstream<F, Fut>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let io = TokioIo::new(stream);
                let server = hyper::server::conn::http1::Builder::new();
                server.serve_connection(io, service).with_upgrades().await.ok();
            });
        }
    });
    address
}

/// An upstream of raw bytes: each connection is handed to `serve`.
pub(crate) async fn raw_upstream<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(Raw) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(Raw { stream, left: Vec::new() }));
        }
    });
    address
}

/// An address that refuses connections.
pub(crate) async fn nobody() -> SocketAddr {
    listener().await.local_addr().unwrap()
}

/// A connection of raw bytes.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    left: Vec<u8>,
}

/// A message as it was on the wire.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let mut named = fields.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn is_replayed(&self) -> bool {
        self.field("idempotent-replayed") == Some("true")
    }

    /// The last part of the problem's type.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        problem["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
    }
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, left: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.write(request).await;
        self.message().await.expect("an answer")
    }

    async fn more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk).await {
            Ok(0) | Err(_) => false,
            Ok(bytes) => {
                self.left.extend_from_slice(&chunk[..bytes]);
                true
            }
        }
    }

    pub(crate) async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.left.windows(end.len()).position(|window| window == end);
            if let Some(at) = found {
                let rest = self.left.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.left, rest));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub(crate) async fn exactly(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.left.len() < bytes {
            if !self.more().await {
                return None;
            }
        }
        let rest = self.left.split_off(bytes);
        Some(std::mem::replace(&mut self.left, rest))
    }

    /// The next message with its whole body; chunked bodies are decoded, trailers left out.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await?).unwrap();
        let mut message = Message { head, body: Vec::new() };
        if let Some(length) = message.field("content-length") {
            message.body = self.exactly(length.parse().unwrap()).await?;
        } else if message.field("transfer-encoding").is_some() {
            loop {
                let size = String::from_utf8(self.until(b"\r\n").await?).unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    while self.until(b"\r\n").await? != b"\r\n" {}
                    break;
                }
                message.body.extend(self.exactly(size).await?);
                self.exactly(2).await?;
            }
        }
        Some(message)
    }

    /// Everything until the other side closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.left)
    }
}

/// A keyed request as raw bytes.
pub(crate) fn raw_post(key: &str, body: &str) -> String {
    format!(
        "POST /orders HTTP/1.1\r\nHost: shop.example\r\nIdempotency-Key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An HTTP/2 client with prior knowledge.
pub(crate) async fn http2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<Body> {
    let stream = TcpStream::connect(address).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
