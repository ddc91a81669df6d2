//! The layer over a tower service: which requests execute, which replay, which are refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use semel::{
    Clock, Effect, Error, ErrorKind, Guard, ManualClock, MemoryStore, Operation, RecordId, Store,
    Tenant, Wait,
};
use semel_http::{
    Body, Disposition, IdempotencyLayer, OnMissing, Settings, Spelling, StatusRules, UnknownPolicy,
};
use support::*;
use tokio::sync::{Notify, mpsc};

/// A body whose pieces are sent by the test.
fn piped() -> (mpsc::UnboundedSender<Result<&'static str, Error>>, Body) {
    let (sender, mut pieces) = mpsc::unbounded_channel::<Result<&'static str, Error>>();
    let stream = futures_util::stream::poll_fn(move |context| {
        pieces.poll_recv(context).map(|piece| {
            piece.map(|piece| piece.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))))
        })
    });
    (sender, Body::new(StreamBody::new(stream)))
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_with_its_status_headers_and_bytes() {
    let runs = Runs::default();
    let door = orders(&layer(HOLD), &runs);
    let first = send(&door, post("\"k\"")).await;
    let retry = send(&door, post("k")).await;
    assert_eq!(runs.count(), 1);
    assert_eq!((first.status(), retry.status()), (201, 201));
    assert_eq!(first.body, retry.body);
    assert_eq!(retry.field("location"), Some("/orders/1"));
    assert_eq!(retry.field("content-length"), Some("8"));
    assert!(!first.is_replayed() && retry.is_replayed());
    assert_eq!(first.field("set-cookie"), Some("session=secret"));
    assert_eq!(retry.field("set-cookie"), None, "a session must not be handed to a retry");
    let expires = first.field("idempotency-expires").unwrap();
    assert!(expires.ends_with(" GMT"), "{expires}");
    assert_eq!(retry.field("idempotency-expires"), Some(expires));
}

#[tokio::test]
async fn a_thousand_concurrent_requests_with_one_key_execute_once() {
    let runs = Runs::default();
    let store = Arc::new(MemoryStore::new());
    let guard = Guard::builder(store)
        .operation("orders")
        .unwrap()
        .effect(HOLD)
        .wait(Wait::UpTo(Duration::from_secs(30)))
        .build()
        .unwrap();
    let layer = builder(guard).build().unwrap();
    let gate = Arc::new(Notify::new());
    let waiting = Arc::clone(&gate);
    let door = door(&layer, &runs, move |run, _| {
        let gate = Arc::clone(&waiting);
        async move {
            gate.notified().await;
            created(run)
        }
    });
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let door = door.clone();
            tokio::spawn(async move { send(&door, post("storm")).await })
        })
        .collect();
    while layer.executing() < 1000 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    for task in tasks {
        let answer = task.await.unwrap();
        assert_eq!((answer.status(), answer.body.as_str()), (201, "{\"id\":1}"));
    }
    assert_eq!(runs.count(), 1);
    assert_eq!(layer.executing(), 0);
}

#[tokio::test]
async fn a_duplicate_of_a_running_request_is_told_to_come_back() {
    let (runs, gate) = (Runs::default(), Arc::new(Notify::new()));
    let layer = layer(HOLD);
    let (entered, waiting) = (Arc::new(Notify::new()), Arc::clone(&gate));
    let told = Arc::clone(&entered);
    let door = door(&layer, &runs, move |run, _| {
        let (gate, entered) = (Arc::clone(&waiting), Arc::clone(&told));
        async move {
            entered.notify_one();
            gate.notified().await;
            created(run)
        }
    });
    let first = tokio::spawn({
        let door = door.clone();
        async move { send(&door, post("k")).await }
    });
    entered.notified().await;
    let duplicate = send(&door, post("k")).await;
    assert_eq!((duplicate.status(), duplicate.problem().as_str()), (409, "in-flight"));
    assert_eq!(duplicate.field("retry-after"), Some("1"));
    // A reused key must not learn that something is in flight.
    let mismatch = send(&door, post_body("k", "another")).await;
    assert_eq!((mismatch.status(), mismatch.problem().as_str()), (422, "key-reused"));
    gate.notify_one();
    assert_eq!(first.await.unwrap().status(), 201);
    assert!(send(&door, post("k")).await.is_replayed());
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_the_service() {
    let (runs, gate) = (Runs::default(), Arc::new(Notify::new()));
    let layer = layer(HOLD);
    let (entered, waiting) = (Arc::new(Notify::new()), Arc::clone(&gate));
    let told = Arc::clone(&entered);
    let door = door(&layer, &runs, move |run, _| {
        let (gate, entered) = (Arc::clone(&waiting), Arc::clone(&told));
        async move {
            entered.notify_one();
            gate.notified().await;
            created(run)
        }
    });
    let client = tokio::spawn({
        let door = door.clone();
        async move { send(&door, post("k")).await }
    });
    entered.notified().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    assert_eq!(layer.executing(), 1);
    gate.notify_one();
    layer.drained().await;
    let retry = send(&door, post("k")).await;
    assert!(retry.is_replayed());
    assert_eq!((retry.body.as_str(), runs.count()), ("{\"id\":1}", 1));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_whole_claims_nothing() {
    let runs = Runs::default();
    let layer = layer(HOLD);
    let door = orders(&layer, &runs);
    let (pieces, body) = piped();
    pieces.send(Ok("{\"item\":")).unwrap();
    pieces.send(Err(Error::new(ErrorKind::Invalid, "reset"))).unwrap();
    let broken = send(&door, post_body("k", body)).await;
    assert_eq!((broken.status(), broken.problem().as_str()), (400, "body-incomplete"));
    // A client that hangs up while it sends.
    let (pieces, body) = piped();
    pieces.send(Ok("{\"item\":")).unwrap();
    let client = tokio::spawn({
        let door = door.clone();
        async move { send(&door, post_body("k", body)).await }
    });
    tokio::task::yield_now().await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    assert_eq!((runs.count(), layer.executing()), (0, 0));
    assert_eq!(send(&door, post("k")).await.status(), 201, "the key must still be unused");
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_refused_by_the_clock() {
    let clock = ManualClock::new();
    let layer = builder(guard(HOLD)).clock(Arc::new(clock.clone())).build().unwrap();
    let runs = Runs::default();
    let door = orders(&layer, &runs);
    let (pieces, body) = piped();
    pieces.send(Ok("{")).unwrap();
    let mut request = Box::pin(send(&door, post_body("k", body)));
    assert!(futures_util::poll!(request.as_mut()).is_pending());
    clock.advance(Duration::from_millis(29_999));
    assert!(futures_util::poll!(request.as_mut()).is_pending());
    clock.advance(Duration::from_millis(1));
    let refused = request.await;
    assert_eq!((refused.status(), refused.problem().as_str()), (408, "body-timeout"));
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn only_guarded_methods_need_a_key_and_only_they_are_kept() {
    let runs = Runs::default();
    let door = orders(&layer(HOLD), &runs);
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        for _ in 0..2 {
            let request = Request::builder().method(method).uri("/orders");
            let request = request.header("idempotency-key", "k").body(Body::empty()).unwrap();
            assert_eq!(send(&door, request).await.field("idempotency-expires"), None);
        }
    }
    assert_eq!(runs.count(), 10);
    for method in ["POST", "PATCH"] {
        let request = Request::builder().method(method).uri("/orders").body(Body::empty()).unwrap();
        let refused = send(&door, request).await;
        assert_eq!((refused.status(), refused.problem().as_str()), (400, "key-missing"));
        assert!(refused.body.contains("`Idempotency-Key`"), "{}", refused.body);
    }
    assert_eq!(runs.count(), 10);
    let passing = layer_with(HOLD, |settings| settings.on_missing = OnMissing::Pass);
    let door = orders(&passing, &runs);
    let request = Request::post("/orders").body(Body::empty()).unwrap();
    assert_eq!(send(&door, request).await.status(), 201);
}

#[tokio::test]
async fn a_key_under_another_path_query_method_type_or_body_is_a_mismatch() {
    let runs = Runs::default();
    let door = orders(&layer(HOLD), &runs);
    assert_eq!(send(&door, post("k")).await.status(), 201);
    let base = || {
        Request::builder().header("idempotency-key", "k").header("content-type", "application/json")
    };
    let body = || Body::from("{\"item\":\"book\"}");
    let others = [
        base().method("POST").uri("/carts").body(body()).unwrap(),
        base().method("POST").uri("/orders?dry").body(body()).unwrap(),
        base().method("PATCH").uri("/orders").body(body()).unwrap(),
        base().method("POST").uri("/orders").body(Body::from("{}")).unwrap(),
        base().method("POST").uri("/orders").header("content-type", "x").body(body()).unwrap(),
        Request::post("/orders").header("idempotency-key", "k").body(body()).unwrap(),
    ];
    // The fifth differs only in a second content type, which no parser looks at.
    for (at, other) in others.into_iter().enumerate().filter(|(at, _)| *at != 4) {
        let answer = send(&door, other).await;
        assert_eq!((answer.status(), answer.problem().as_str()), (422, "key-reused"), "{at}");
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn another_tenant_s_key_is_indistinguishable_from_an_unused_one() {
    let runs = Runs::default();
    let layer = IdempotencyLayer::builder(guard(HOLD)).tenant_from_authorization().build().unwrap();
    let door = orders(&layer, &runs);
    let as_tenant = |who: &'static str, key: &str| {
        let mut request = post(key);
        request.headers_mut().insert("authorization", who.parse().unwrap());
        request
    };
    assert_eq!(send(&door, as_tenant("Bearer alice", "k")).await.body, "{\"id\":1}");
    let of_bob = send(&door, as_tenant("Bearer bob", "k")).await;
    let unused = send(&door, as_tenant("Bearer bob", "unused")).await;
    assert_eq!((of_bob.body.as_str(), of_bob.status()), ("{\"id\":2}", unused.status()));
    let names = |seen: &Seen| seen.parts.headers.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&of_bob), names(&unused));
    assert!(send(&door, as_tenant("Bearer alice", "k")).await.is_replayed());
    assert_eq!(send(&door, post("k")).await.body, "{\"id\":4}", "without credentials");
    let by_field = IdempotencyLayer::builder(guard(HOLD)).tenant_from_header("x-account").unwrap();
    let door = orders(&by_field.build().unwrap(), &runs);
    let refused = send(&door, post("k")).await;
    assert_eq!((refused.status(), refused.problem().as_str()), (400, "tenant-missing"));
}

#[tokio::test]
async fn what_an_answer_does_to_the_record_follows_the_table() {
    for code in (200..=599).step_by(1) {
        let runs = Runs::default();
        let door = door(&layer(HOLD), &runs, move |_, _| async move { answer(code) });
        let first = send(&door, post("k")).await;
        assert_eq!(first.status(), code);
        let again = send(&door, post("k")).await;
        match StatusRules::default().of(http::StatusCode::from_u16(code).unwrap()) {
            Disposition::Store => {
                assert!(again.is_replayed() && again.status() == code, "{code}");
                assert_eq!(runs.count(), 1);
            }
            Disposition::Release => assert_eq!((again.status(), runs.count()), (code, 2)),
            Disposition::Unknown => {
                assert_eq!((again.status(), again.problem().as_str()), (409, "outcome-unknown"));
                assert_eq!((again.field("retry-after"), runs.count()), (None, 1));
            }
        }
    }
}

#[tokio::test]
async fn after_an_unknown_outcome_retry_runs_again_and_store_replays_the_failure() {
    let failing = |run: usize, _| async move { if run == 1 { answer(503) } else { created(run) } };
    let runs = Runs::default();
    let retrying = door(&layer(UnknownPolicy::Retry.effect()), &runs, failing);
    assert_eq!(send(&retrying, post("k")).await.status(), 503);
    assert_eq!(send(&retrying, post("k")).await.status(), 201);
    assert_eq!(runs.count(), 2);
    let storing = layer_with(UnknownPolicy::Store.effect(), |it| it.store_unknown = true);
    let runs = Runs::default();
    let storing = door(&storing, &runs, failing);
    assert_eq!(send(&storing, post("k")).await.status(), 503);
    let again = send(&storing, post("k")).await;
    assert!(again.is_replayed());
    assert_eq!((again.status(), runs.count()), (503, 1));
}

#[tokio::test]
async fn what_the_service_says_about_its_outcome_overrides_the_status_and_is_removed() {
    let rows = [
        (500, "not-applied", Disposition::Release),
        (500, "applied", Disposition::Store),
        (200, "unknown", Disposition::Unknown),
        (200, "not-applied", Disposition::Release),
        (429, "applied", Disposition::Store),
        (500, "nonsense", Disposition::Unknown),
    ];
    for (code, says, expected) in rows {
        let runs = Runs::default();
        let door = door(&layer(HOLD), &runs, move |_, _| async move {
            let mut answer = answer(code);
            answer.headers_mut().insert("semel-outcome", says.parse().unwrap());
            answer
        });
        let first = send(&door, post("k")).await;
        assert_eq!((first.status(), first.field("semel-outcome")), (code, None));
        let again = send(&door, post("k")).await;
        assert_eq!(again.field("semel-outcome"), None);
        let seen = match (again.is_replayed(), runs.count()) {
            (true, 1) => Disposition::Store,
            (false, 2) => Disposition::Release,
            _ => Disposition::Unknown,
        };
        assert_eq!(seen, expected, "{code} {says}");
    }
}

#[tokio::test]
async fn rules_change_single_statuses() {
    let runs = Runs::default();
    let layer = layer_with(HOLD, |it| it.statuses = "409=release, 408=store".parse().unwrap());
    let door = door(&layer, &runs, |run, _| async move { answer([409, 409, 408][run.min(3) - 1]) });
    for expected in [409, 409, 408, 408] {
        assert_eq!(send(&door, post("k")).await.status(), expected);
    }
    assert_eq!(runs.count(), 3);
}

#[tokio::test]
async fn a_service_that_panics_leaves_the_outcome_unknown() {
    let runs = Runs::default();
    let door = door(&layer(HOLD), &runs, |_, _| async move { panic!("secret detail") });
    let first = send(&door, post("k")).await;
    assert_eq!((first.status(), first.problem().as_str()), (409, "outcome-unknown"));
    assert!(!first.body.contains("secret"), "{}", first.body);
    assert_eq!(send(&door, post("k")).await.problem(), "outcome-unknown");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn an_answer_over_the_limit_passes_through_and_leaves_a_tombstone() {
    for streamed in [false, true] {
        let runs = Runs::default();
        let layer = layer_with(HOLD, |it| it.response_bytes_max = 8);
        let door = door(&layer, &runs, move |_, _| async move {
            let body = if streamed {
                let (pieces, body) = piped();
                for piece in ["1234", "5678", "9"] {
                    pieces.send(Ok(piece)).unwrap();
                }
                body
            } else {
                Body::from("123456789")
            };
            Response::builder().status(201).body(body).unwrap()
        });
        let first = send(&door, post("k")).await;
        assert_eq!((first.status(), first.body.as_str()), (201, "123456789"));
        let again = send(&door, post("k")).await;
        assert_eq!((again.status(), again.problem().as_str()), (409, "answer-not-kept"));
        assert!(again.body.contains("\"original_status\":201"), "{}", again.body);
        assert_eq!((again.field("retry-after"), runs.count()), (None, 1));
    }
}

#[tokio::test]
async fn an_event_stream_reaches_the_client_while_it_is_open() {
    let runs = Runs::default();
    let (pieces, body) = piped();
    let body = std::sync::Mutex::new(Some(body));
    let body = Arc::new(body);
    let door = door(&layer(HOLD), &runs, move |_, _| {
        let body = body.lock().unwrap().take().unwrap();
        async move {
            Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
        }
    });
    use tower::ServiceExt;
    let mut stream = door.clone().oneshot(post("k")).await.unwrap().into_body();
    pieces.send(Ok("data: 1\n\n")).unwrap();
    let event = stream.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(event, "data: 1\n\n");
    assert_eq!(send(&door, post("k")).await.problem(), "answer-not-kept");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_unknown() {
    let runs = Runs::default();
    let door = door(&layer(HOLD), &runs, |_, _| async move {
        let (pieces, body) = piped();
        pieces.send(Ok("half")).unwrap();
        pieces.send(Err(Error::new(ErrorKind::Invalid, "reset"))).unwrap();
        Response::new(body)
    });
    let first = send(&door, post("k")).await;
    assert_eq!((first.status(), first.problem().as_str()), (502, "answer-broken"));
    assert_eq!(send(&door, post("k")).await.problem(), "outcome-unknown");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn trailers_are_replayed() {
    let runs = Runs::default();
    let door = door(&layer(HOLD), &runs, |_, _| async move {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("checksum", "17".parse().unwrap());
        trailers.insert("set-cookie", "secret".parse().unwrap());
        let frames = [Frame::data(Bytes::from_static(b"x")), Frame::trailers(trailers)];
        let frames = frames.map(Ok::<_, Error>);
        Response::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
    });
    use tower::ServiceExt;
    for expected in ["secret", ""] {
        let answer = door.clone().oneshot(post("k")).await.unwrap();
        let answer = answer.into_body().collect().await.unwrap();
        let trailers = answer.trailers().unwrap();
        assert_eq!(trailers["checksum"], "17");
        let cookie = trailers.get("set-cookie").map_or("", |value| value.to_str().unwrap());
        assert_eq!(cookie, expected);
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_before_anything_is_claimed() {
    let runs = Runs::default();
    let layer = layer_with(HOLD, |it| it.request_bytes_max = 8);
    let door = orders(&layer, &runs);
    let announced = send(&door, post_body("k", "123456789")).await;
    assert_eq!((announced.status(), announced.problem().as_str()), (413, "body-too-large"));
    let (pieces, body) = piped();
    for piece in ["1234", "5678", "9"] {
        pieces.send(Ok(piece)).unwrap();
    }
    assert_eq!(send(&door, post_body("k", body)).await.status(), 413);
    assert_eq!(runs.count(), 0);
    assert_eq!(send(&door, post_body("k", "12345678")).await.status(), 201);
}

#[tokio::test]
async fn the_bound_on_requests_in_flight_refuses_the_next() {
    let (runs, gate) = (Runs::default(), Arc::new(Notify::new()));
    let layer = layer_with(HOLD, |it| it.in_flight_max = 1);
    let (entered, waiting) = (Arc::new(Notify::new()), Arc::clone(&gate));
    let told = Arc::clone(&entered);
    let door = door(&layer, &runs, move |run, _| {
        let (gate, entered) = (Arc::clone(&waiting), Arc::clone(&told));
        async move {
            entered.notify_one();
            gate.notified().await;
            created(run)
        }
    });
    let first = tokio::spawn({
        let door = door.clone();
        async move { send(&door, post("a")).await }
    });
    entered.notified().await;
    let refused = send(&door, post("b")).await;
    assert_eq!((refused.status(), refused.problem().as_str()), (503, "overloaded"));
    assert_eq!(refused.field("retry-after"), Some("1"));
    gate.notify_one();
    assert_eq!(first.await.unwrap().status(), 201);
    gate.notify_one();
    assert_eq!(send(&door, post("b")).await.status(), 201);
}

#[tokio::test]
async fn the_key_may_come_from_the_body_and_from_other_fields() {
    let runs = Runs::default();
    let layer = layer_with(HOLD, |it| {
        it.key_headers = vec!["Idempotency-Key".to_owned(), "X-Request-Id".to_owned()];
        it.key_pointer = Some("/key".to_owned());
    });
    let door = orders(&layer, &runs);
    let plain = |body: &'static str| {
        let request = Request::post("/orders").header("content-type", "application/json");
        request.body(Body::from(body)).unwrap()
    };
    assert_eq!(send(&door, plain("{\"key\":\"a\"}")).await.body, "{\"id\":1}");
    assert!(send(&door, plain("{\"key\":\"a\"}")).await.is_replayed());
    assert_eq!(send(&door, plain("{\"key\":\"b\"}")).await.body, "{\"id\":2}");
    assert_eq!(send(&door, plain("{}")).await.problem(), "key-missing");
    assert_eq!(send(&door, plain("{\"key\":1}")).await.problem(), "key-malformed");
    let aliased = || {
        let mut request = plain("{}");
        request.headers_mut().insert("x-request-id", "c".parse().unwrap());
        request
    };
    assert_eq!(send(&door, aliased()).await.body, "{\"id\":3}");
    assert!(send(&door, aliased()).await.is_replayed());
    let passing = layer_with(HOLD, |it| {
        it.key_pointer = Some("/key".to_owned());
        it.on_missing = OnMissing::Pass;
    });
    let echo =
        support::door(
            &passing,
            &runs,
            |_, request| async move { Response::new(request.into_body()) },
        );
    assert_eq!(send(&echo, plain("{\"no\":1}")).await.body, "{\"no\":1}", "the body must survive");
    // What is no JSON has no place for a key; it passes however long it is.
    let image = Request::post("/orders").header("content-type", "image/png");
    let long = image.body(Body::from("x".repeat(3 * 1024 * 1024))).unwrap();
    assert_eq!(send(&echo, long).await.body.len(), 3 * 1024 * 1024);
}

#[tokio::test]
async fn strict_spelling_and_canonical_json_are_opt_in() {
    let runs = Runs::default();
    let strict = orders(&layer_with(HOLD, |it| it.key_spelling = Spelling::Quoted), &runs);
    assert_eq!(send(&strict, post("bare")).await.problem(), "key-malformed");
    assert_eq!(send(&strict, post("\"quoted\"")).await.status(), 201);
    let canonical = orders(&layer_with(HOLD, |it| it.canonical_json = true), &runs);
    assert_eq!(send(&canonical, post_body("k", "{\"a\":1,\"b\":2}")).await.status(), 201);
    assert!(send(&canonical, post_body("k", "{ \"b\": 2, \"a\": 1 }")).await.is_replayed());
    assert_eq!(send(&canonical, post_body("k", "{\"a\":1}")).await.status(), 422);
}

#[tokio::test]
async fn the_record_expires_after_its_retention_and_old_keys_are_refused() {
    let clock = Arc::new(ManualClock::new());
    let runs = Runs::default();
    let store = Arc::new(MemoryStore::with_clock(Arc::clone(&clock) as Arc<dyn Clock>));
    let guard = Guard::builder(store)
        .operation("orders")
        .unwrap()
        .effect(HOLD)
        .retention(Duration::from_secs(60))
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .build()
        .unwrap();
    let door = orders(&builder(guard).build().unwrap(), &runs);
    let first = send(&door, post("k")).await;
    assert_eq!(first.field("idempotency-expires"), Some("Thu, 01 Jan 2026 00:01:00 GMT"));
    clock.advance(Duration::from_secs(59));
    assert!(send(&door, post("k")).await.is_replayed());
    clock.advance(Duration::from_secs(1));
    assert_eq!(send(&door, post("k")).await.body, "{\"id\":2}");
    // A UUID version 7 of 2022.
    let old = send(&door, post("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")).await;
    assert_eq!((old.status(), old.problem().as_str()), (412, "key-too-old"));
}

#[tokio::test]
async fn the_service_sees_its_claim_and_the_observer_sees_decisions() {
    let runs = Runs::default();
    let decisions = Decisions::default();
    let noted = decisions.clone();
    let layer = builder(guard(HOLD))
        .observer(move |answered: &semel_http::Answered| noted.note(answered.decision))
        .build()
        .unwrap();
    let door = door(&layer, &runs, |_, request| async move {
        let context: &semel::Context = request.extensions().get().unwrap();
        Response::new(Body::from(context.step_key("charge").as_str().to_owned()))
    });
    let first = send(&door, post("k")).await;
    let expected = semel::Key::derived(
        &RecordId {
            tenant: Tenant::single(),
            operation: Operation::new("orders").unwrap(),
            key: semel::Key::parse("k").unwrap(),
        },
        "charge",
    );
    assert_eq!(first.body, expected.as_str());
    send(&door, post("k")).await;
    send(&door, post("a,b")).await;
    send(&door, post_body("k", "other")).await;
    assert_eq!(decisions.take(), ["executed", "replayed", "key-malformed", "key-reused"]);
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_fails_closed() {
    let runs = Runs::default();
    let store = Arc::new(MemoryStore::new().with_records_max(0));
    let layer = builder(guard_over(store, HOLD)).build().unwrap();
    let refused = send(&orders(&layer, &runs), post("k")).await;
    assert_eq!((refused.status(), refused.problem().as_str()), (503, "store-unavailable"));
    assert_eq!((refused.field("retry-after"), runs.count()), (Some("1"), 0));
}

#[test]
fn a_layer_that_contradicts_its_guard_does_not_build() {
    let problem = |guard: Guard, settings: Settings| {
        builder(guard).settings(settings).build().unwrap_err().to_string()
    };
    let mut large = Settings::default();
    large.response_bytes_max = 64 * 1024 * 1024;
    assert!(problem(guard(HOLD), large).contains("outcome_bytes_max"));
    let transactional = guard(Effect::Transactional);
    assert!(problem(transactional, Settings::default()).contains("transactional(store)"));
    let mut unnamed = Settings::default();
    unnamed.methods.clear();
    assert!(problem(guard(HOLD), unnamed).contains("methods"));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    assert!(builder(guard_over(store, RETRY)).build().is_ok());
}
