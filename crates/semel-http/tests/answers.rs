//! Every row of the answer table, caused by a real request: its status, its body, its headers, and
//! the link in it followed to its page.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use semel::store::{ClaimRequest, Claimed, Completion, Release, Renewal};
use semel::{
    BoxFuture, Capabilities, Error, ErrorKind, MemoryStore, Outcome, Record, RecordId, Store,
    Timestamp, Verdict,
};
use semel_http::{Body, IdempotencyLayer, Refusal};
use support::net::{Message, Raw, nobody, proxy_with, raw_post, raw_upstream, upstream};
use support::*;

/// A memory store whose next claim or completion goes wrong.
#[derive(Debug)]
struct Broken {
    store: MemoryStore,
    claim: Option<ErrorKind>,
    outcome: Option<Outcome>,
}

impl Broken {
    fn new() -> Self {
        Self { store: MemoryStore::new(), claim: None, outcome: None }
    }
}

impl Store for Broken {
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Result<Claimed, Error>> {
        if let Some(kind) = self.claim {
            return Box::pin(async move { Err(Error::new(kind, "as the test wants it")) });
        }
        if let Some(outcome) = self.outcome.clone() {
            let expires_at = Timestamp::from_millis(0);
            return Box::pin(async move { Ok(Claimed::Completed { outcome, expires_at }) });
        }
        self.store.claim(request)
    }

    fn renew<'a>(&'a self, request: &'a Renewal) -> BoxFuture<'a, Result<Timestamp, Error>> {
        self.store.renew(request)
    }

    fn complete<'a>(&'a self, request: &'a Completion) -> BoxFuture<'a, Result<Timestamp, Error>> {
        self.store.complete(request)
    }

    fn release<'a>(&'a self, request: &'a Release) -> BoxFuture<'a, Result<(), Error>> {
        self.store.release(request)
    }

    fn get<'a>(&'a self, id: &'a RecordId) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        self.store.get(id)
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        self.store.sweep(limit)
    }
}

/// One refused request: through which door and what came back.
struct Refused {
    door: Door,
    seen: Seen,
}

/// The rows that the layer itself makes.
async fn from_the_layer() -> Vec<Refused> {
    let runs = Runs::default();
    let small = layer_with(HOLD, |it| {
        it.request_bytes_max = 20;
        it.response_bytes_max = 4;
    });
    let large_answers = door(&small, &runs, |_, _| async { answer(200) });
    let failing = door(&layer(HOLD), &runs, |_, _| async { answer(500) });
    let ordering = orders(&layer(HOLD), &runs);
    send(&large_answers, post_body("k", "x")).await;
    send(&failing, post("k")).await;
    send(&ordering, post("k")).await;
    let by_field = IdempotencyLayer::builder(guard(HOLD)).tenant_from_header("x-tenant").unwrap();
    let by_field = orders(&by_field.build().unwrap(), &runs);
    let broken = |broken: Broken| {
        orders(&builder(guard_over(Arc::new(broken), HOLD)).build().unwrap(), &runs)
    };
    let unavailable = Broken { claim: Some(ErrorKind::Unavailable), ..Broken::new() };
    let foreign = Outcome {
        verdict: Verdict::Succeeded,
        format: "json".to_owned(),
        head: Bytes::new(),
        body: Bytes::new(),
    };
    let breaking =
        door(&layer(HOLD), &runs, |_, _| async { http::Response::new(Body::new(BrokenBody)) });
    let slow = layer_with(HOLD, |it| it.request_read_max = Duration::from_millis(1));
    let never = || {
        Body::new(http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<http_body::Frame<Bytes>, Error>,
        >()))
    };
    let gone = || {
        let gone = Error::new(ErrorKind::Invalid, "reset");
        let frames = [Err::<http_body::Frame<Bytes>, _>(gone)];
        Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
    };
    let requests: Vec<(Door, Request<Body>)> = vec![
        (ordering.clone(), Request::post("/orders").body(Body::empty()).unwrap()),
        (ordering.clone(), post("a, b")),
        (by_field, post("k")),
        (ordering.clone(), post_body("k", "other")),
        (failing, post("k")),
        (large_answers.clone(), post_body("k", "x")),
        (ordering.clone(), post("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")),
        (large_answers, post_body("new", "x".repeat(21))),
        (ordering, post_body("new", gone())),
        (orders(&slow, &runs), post_body("new", never())),
        (broken(unavailable), post("k")),
        (broken(Broken { outcome: Some(foreign), ..Broken::new() }), post("k")),
        (broken(Broken { claim: Some(ErrorKind::Corrupt), ..Broken::new() }), post("k")),
        (breaking, post("k")),
    ];
    let mut refused = Vec::new();
    for (door, request) in requests {
        let seen = send(&door, request).await;
        refused.push(Refused { door, seen });
    }
    refused.extend(from_a_busy_layer().await);
    refused
}

/// The rows that need another request in flight.
async fn from_a_busy_layer() -> Vec<Refused> {
    let runs = Runs::default();
    let layer = layer_with(HOLD, |it| it.in_flight_max = 2);
    let (gate, entered) =
        (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (waiting, told) = (Arc::clone(&gate), Arc::clone(&entered));
    let door = door(&layer, &runs, move |run, _| {
        let (gate, entered) = (Arc::clone(&waiting), Arc::clone(&told));
        async move {
            entered.notify_one();
            gate.notified().await;
            created(run)
        }
    });
    let mut refused = Vec::new();
    for key in ["a", "b"] {
        tokio::spawn({
            let door = door.clone();
            async move { send(&door, post(key)).await }
        });
        entered.notified().await;
        let seen = send(&door, post("a")).await;
        refused.push(Refused { door: door.clone(), seen });
    }
    gate.notify_waiters();
    refused
}

/// A body that fails at once.
struct BrokenBody;

impl http_body::Body for BrokenBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        std::task::Poll::Ready(Some(Err(Error::new(ErrorKind::Invalid, "reset"))))
    }
}

fn check(status: u16, slug: &str, retry_after: Option<&str>, body: &str) -> Refusal {
    let refusal = Refusal::ALL.iter().find(|refusal| refusal.slug() == slug);
    let refusal = *refusal.unwrap_or_else(|| panic!("{slug} is not in the table"));
    assert_eq!(status, refusal.status().as_u16(), "{slug}");
    assert_eq!(retry_after.is_some(), refusal.has_retry_after(), "{slug}");
    let problem: BTreeMap<String, serde_json::Value> = serde_json::from_str(body).unwrap();
    assert_eq!(problem["title"], refusal.title());
    refusal
}

#[tokio::test]
async fn every_row_of_the_layer_and_the_proxy_is_produced_and_its_link_leads_to_its_page() {
    let mut produced = Vec::new();
    for Refused { door, seen } in from_the_layer().await {
        let slug = seen.problem();
        let refusal = check(seen.status(), &slug, seen.field("retry-after"), &seen.body);
        assert_eq!(seen.parts.extensions.get(), Some(&refusal), "the typed refusal");
        let problem: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
        let link = problem["type"].as_str().unwrap();
        let page = send(&door, Request::get(link).body(Body::empty()).unwrap()).await;
        assert_eq!((page.status(), page.body.as_str()), (200, refusal.page()));
        assert_eq!(page.field("content-type"), Some("text/plain; charset=utf-8"));
        let head = send(&door, Request::head(link).body(Body::empty()).unwrap()).await;
        assert_eq!((head.status(), head.body.as_str()), (200, ""));
        produced.push(refusal);
    }
    for message in from_the_proxy().await {
        let body = message.text();
        let retry_after = message.field("retry-after");
        produced.push(check(message.status(), &message.problem(), retry_after, body));
    }
    for refusal in Refusal::ALL {
        assert!(produced.contains(refusal), "no request produced {}", refusal.slug());
    }
}

/// The rows that only the proxy makes, over a socket.
async fn from_the_proxy() -> Vec<Message> {
    let nobody = proxy_with(nobody().await, HOLD, |_| {}, |_| {}).await;
    let closing = raw_upstream(|mut raw: Raw| async move {
        raw.until(b"\r\n\r\n").await;
    });
    let closing = proxy_with(closing.await, HOLD, |_| {}, |_| {}).await;
    let silent = upstream(|_| std::future::pending::<http::Response<Body>>()).await;
    let short = |settings: &mut semel_http::proxy::Settings| {
        settings.response_head = Duration::from_millis(20);
    };
    let silent = proxy_with(silent, HOLD, short, |_| {}).await;
    let mut messages = Vec::new();
    for (proxy, request) in [
        (&nobody, raw_post("a", "x")),
        (&closing, raw_post("a", "x")),
        (&silent, raw_post("a", "x")),
        (
            &nobody,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"
                .to_owned(),
        ),
        (&nobody, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (&nobody, "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n".to_owned()),
    ] {
        messages.push(proxy.client().await.ask(request).await);
    }
    let link = format!("{}in-flight", semel_http::PROBLEMS_PATH);
    let asked = format!("GET {link} HTTP/1.1\r\nHost: h\r\n\r\n");
    let page = nobody.client().await.ask(asked).await;
    assert_eq!(page.text(), Refusal::InFlight.page(), "the proxy serves the pages itself");
    messages
}

#[tokio::test]
async fn a_docs_base_of_one_s_own_changes_the_type_and_serves_no_pages() {
    let runs = Runs::default();
    let layer = layer_with(HOLD, |it| it.problem_base = "https://docs.example/p/".to_owned());
    let door = orders(&layer, &runs);
    let refused = send(&door, post("a,b")).await;
    assert!(refused.body.contains("\"type\":\"https://docs.example/p/key-malformed\""));
    let page = format!("{}in-flight", semel_http::PROBLEMS_PATH);
    send(&door, Request::get(page).body(Body::empty()).unwrap()).await;
    assert_eq!(runs.count(), 1, "the service gets the request");
}
