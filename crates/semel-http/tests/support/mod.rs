//! What the tests of this crate share: layers, services that are told what to answer, requests.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod net;

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use semel::{Effect, Guard, MemoryStore, OnUnknown, Store};
use semel_http::{Body, Decision, IdempotencyLayer, LayerBuilder, Scoped, Settings};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

pub(crate) const HOLD: Effect = Effect::Foreign(OnUnknown::Hold);
pub(crate) const RETRY: Effect = Effect::Foreign(OnUnknown::Retry);

pub(crate) type Door = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

pub(crate) fn guard(effect: Effect) -> Guard {
    guard_over(Arc::new(MemoryStore::new()), effect)
}

pub(crate) fn guard_over(store: Arc<dyn Store>, effect: Effect) -> Guard {
    Guard::builder(store).operation("orders").unwrap().effect(effect).build().unwrap()
}

pub(crate) fn builder(guard: Guard) -> LayerBuilder<Scoped> {
    IdempotencyLayer::builder(guard).single_tenant()
}

pub(crate) fn layer(effect: Effect) -> IdempotencyLayer {
    builder(guard(effect)).build().unwrap()
}

pub(crate) fn layer_with(effect: Effect, change: impl FnOnce(&mut Settings)) -> IdempotencyLayer {
    let mut settings = Settings::default();
    change(&mut settings);
    builder(guard(effect)).settings(settings).build().unwrap()
}

/// How often a service ran.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<AtomicUsize>);

impl Runs {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// A service behind the layer that counts its runs and answers what `answer` says about the
/// number of the run and the request.
pub(crate) fn door<F, Fut>(layer: &IdempotencyLayer, runs: &Runs, answer: F) -> Door
where
    F: Fn(usize, Request<Body>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let runs = runs.clone();
    let service = service_fn(move |request| {
        let answer = answer(runs.add(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    BoxCloneSyncService::new(layer.layer(service))
}

/// A door whose service makes an order: `201`, the number of the run in the body.
pub(crate) fn orders(layer: &IdempotencyLayer, runs: &Runs) -> Door {
    door(layer, runs, |run, _| async move { created(run) })
}

pub(crate) fn created(run: usize) -> Response<Body> {
    Response::builder()
        .status(StatusCode::CREATED)
        .header("location", format!("/orders/{run}"))
        .header("set-cookie", "session=secret")
        .body(Body::from(format!("{{\"id\":{run}}}")))
        .unwrap()
}

pub(crate) fn answer(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::from(format!("status {status}"))).unwrap()
}

pub(crate) fn post(key: &str) -> Request<Body> {
    post_body(key, "{\"item\":\"book\"}")
}

pub(crate) fn post_body(key: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post("/orders")
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

/// An answer read to its end.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) parts: http::response::Parts,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn status(&self) -> u16 {
        self.parts.status.as_u16()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn is_replayed(&self) -> bool {
        self.field("idempotent-replayed") == Some("true")
    }

    /// The last part of the problem's type, after checking what every problem has.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.field("content-language"), Some("en"));
        assert_eq!(self.field("cache-control"), Some("no-store"));
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status());
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        let link = problem["type"].as_str().unwrap();
        assert_eq!(self.field("link"), Some(format!("<{link}>; rel=\"describedby\"").as_str()));
        link.rsplit('/').next().unwrap().to_owned()
    }
}

pub(crate) async fn send(door: &Door, request: Request<Body>) -> Seen {
    let (parts, body) = door.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Seen { parts, body: String::from_utf8(body.into()).unwrap() }
}

/// Remembers how requests were answered.
#[derive(Clone, Default)]
pub(crate) struct Decisions(Arc<Mutex<Vec<&'static str>>>);

impl Decisions {
    pub(crate) fn note(&self, decision: Decision) {
        self.0.lock().unwrap().push(decision.name());
    }

    pub(crate) fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
