//! The listener for operators: /live /ready /metrics /config /log-level.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use semel::Inspect;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::logs::Levels;
use super::metrics;
use crate::probe;

/// Operators and their tools that may be connected at once.
const CONNECTIONS_MAX: usize = 64;
/// How long one request may take, and how long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest body: a log filter.
const BODY_BYTES_MAX: usize = 4096;

/// What the operators' listener shows.
pub(super) struct Admin {
    pub(super) store: Arc<dyn Inspect>,
    pub(super) metrics: PrometheusHandle,
    pub(super) levels: Levels,
    /// The settings as JSON, with their sources and without secrets.
    pub(super) config: String,
    pub(super) draining: Arc<AtomicBool>,
}

pub(super) async fn serve(admin: Arc<Admin>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: accepting again at once would spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(admin.answer(request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an operator's connection ended early");
            }
            drop(place);
        });
    }
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answer = self.route(request);
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(response) => response,
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the store did not answer in time\n"),
        }
    }

    async fn route(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/live") => text(StatusCode::OK, "live\n"),
            (&Method::GET, "/ready") => self.ready().await,
            (&Method::GET, "/metrics") => self.metrics().await,
            (&Method::GET, "/config") => {
                let mut response = text(StatusCode::OK, &self.config);
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            (&Method::GET, "/log-level") => {
                text(StatusCode::OK, &format!("{}\n", self.levels.shown()))
            }
            (&Method::PUT, "/log-level") => self.set_level(request).await,
            (_, "/live" | "/ready" | "/metrics" | "/config" | "/log-level") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "use GET (or PUT for /log-level)\n")
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "there is /live, /ready, /metrics, /config and /log-level\n",
            ),
        }
    }

    /// Ready only while requests with keys can be served: the store answers, nobody drains.
    async fn ready(&self) -> Response<Full<Bytes>> {
        if self.draining.load(Ordering::Acquire) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        // Only a write tells whether writing works; this one leaves nothing behind.
        match probe::write(&*self.store).await {
            Ok(_) => text(StatusCode::OK, "ready\n"),
            Err(error) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("the store does not work: {error}\n"),
            ),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        // A store that cannot be counted still has counters worth reading.
        if let Ok(counts) = self.store.count().await {
            metrics::counted(&counts);
        }
        text(StatusCode::OK, &self.metrics.render())
    }

    async fn set_level(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
        let filter = body.ok().and_then(|body| String::from_utf8(body.to_bytes().to_vec()).ok());
        let Some(filter) = filter else {
            return text(StatusCode::BAD_REQUEST, "the body must be a short text\n");
        };
        match self.levels.set(filter.trim()) {
            Ok(()) => text(StatusCode::OK, &format!("{}\n", self.levels.shown())),
            Err(what) => text(StatusCode::BAD_REQUEST, &format!("{what}\n")),
        }
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
