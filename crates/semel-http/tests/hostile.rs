//! Clients that mean harm or vanish: framing tricks, slowness, disconnects at every byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use support::net::{Raw, Running, proxy_to, proxy_with, raw_post, upstream};
use support::*;
use tokio::sync::{Notify, mpsc};

/// Requests that must not reach the upstream, and the problem they get; none: closed or refused
/// by hyper itself.
const HOSTILE: &[(&str, &str)] = &[
    (
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bad-framing",
    ),
    (
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\
         Content-Length: 5\r\n\r\n0\r\n\r\n",
        "bad-framing",
    ),
    (
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "bad-framing",
    ),
    (
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bad-framing",
    ),
    (
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "bad-framing",
    ),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "bad-target"),
    ("GET / HTTP/1.1\r\n\r\n", "bad-target"),
    ("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", "method-unsupported"),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", ""),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx", ""),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1,1\r\n\r\nx", ""),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\nx", ""),
    ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nx", ""),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\nx", ""),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", ""),
    ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", ""),
    ("POST / HTTP/1.1\r\nHost: h\r\nX: a\r\n folded: b\r\n\r\n", ""),
    ("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""),
    ("GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", ""),
    ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", ""),
    ("GET / HTTP/9.9\r\nHost: h\r\n\r\n", ""),
    ("G\u{7f}T / HTTP/1.1\r\nHost: h\r\n\r\n", ""),
    ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0", ""),
];

async fn counting(runs: &Runs) -> std::net::SocketAddr {
    let runs = runs.clone();
    upstream(move |request: Request<_>| {
        let runs = runs.clone();
        async move {
            let whole = request.into_body().collect().await;
            let run = runs.add();
            if whole.is_ok() { created(run) } else { answer(400) }
        }
    })
    .await
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_does_not_reach_the_upstream() {
    let runs = Runs::default();
    let proxy = proxy_to(counting(&runs).await).await;
    for (request, problem) in HOSTILE {
        let mut client = proxy.client().await;
        client.write(request).await;
        // Without this the server could wait for more of a request that is not complete.
        tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
        let answer = client.message().await;
        match (answer, *problem) {
            (Some(answer), "") => assert!((400..=505).contains(&answer.status()), "{request:?}"),
            (None, "") => {}
            (answer, problem) => {
                let answer = answer.unwrap_or_else(|| panic!("no answer to {request:?}"));
                assert_eq!(answer.problem(), *problem, "{request:?}");
                assert_eq!(answer.field("connection"), Some("close"), "{request:?}");
            }
        }
        let rest = client.rest().await;
        assert!(rest.is_empty(), "the connection must end after {request:?}");
    }
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn a_second_request_in_the_same_packet_is_served_unless_it_is_chunked() {
    let runs = Runs::default();
    let proxy = proxy_to(counting(&runs).await).await;
    let plain = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
    let chunked =
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let mut client = proxy.client().await;
    client.write(format!("{plain}{plain}{chunked}")).await;
    assert_eq!(client.message().await.unwrap().status(), 201);
    assert_eq!(client.message().await.unwrap().status(), 201);
    assert_eq!(client.message().await.unwrap().problem(), "bad-framing");
    assert_eq!(runs.count(), 2);
    let mut client = proxy.client().await;
    for _ in 0..3 {
        assert_eq!(client.ask(chunked).await.status(), 201, "one after the other is fine");
    }
}

#[tokio::test]
async fn a_body_that_looks_like_a_head_is_only_a_body() {
    let runs = Runs::default();
    let proxy = proxy_to(counting(&runs).await).await;
    let body = "\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let chunked = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{body}\r\n0\r\n\r\n",
            body.len()
        );
        assert_eq!(client.ask(chunked).await.status(), 201);
    }
    assert_eq!(runs.count(), 2);
}

async fn slow_limits(runs: &Runs) -> Running {
    let limits = |settings: &mut semel_http::proxy::Settings| {
        settings.header_read = Duration::from_millis(40);
        settings.client_idle = Duration::from_millis(120);
    };
    proxy_with(counting(runs).await, HOLD, limits, |_| {}).await
}

#[tokio::test]
async fn a_head_that_drips_in_is_cut_after_its_limit() {
    let runs = Runs::default();
    let proxy = slow_limits(&runs).await;
    let mut client = proxy.client().await;
    client.write("GET / HTTP/1.1\r\nHost: h\r\n").await;
    let started = tokio::time::Instant::now();
    // Each byte on its own must not win more time.
    let (mut reader, mut writer) = client.stream.into_split();
    let drip = tokio::spawn(async move {
        let clock = semel::SystemClock;
        while tokio::io::AsyncWriteExt::write_all(&mut writer, b"x").await.is_ok() {
            semel::Clock::sleep(&clock, Duration::from_millis(5)).await;
        }
    });
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut rest).await.ok();
    let cut_after = started.elapsed();
    drip.await.unwrap();
    assert!(rest.is_empty(), "{}", rest.escape_ascii());
    assert!(cut_after >= Duration::from_millis(35), "{cut_after:?}");
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn a_silent_client_is_let_go_and_a_busy_one_is_not() {
    let runs = Runs::default();
    let proxy = slow_limits(&runs).await;
    let mut silent = proxy.client().await;
    assert!(silent.message().await.is_none());
    let mut between = proxy.client().await;
    assert_eq!(between.ask(raw_post("k", "x")).await.status(), 201);
    assert!(between.message().await.is_none(), "idle after a request counts as well");
    let gate = Arc::new(Notify::new());
    let (waiting, entered) = (Arc::clone(&gate), Arc::new(Notify::new()));
    let told = Arc::clone(&entered);
    let slow = upstream(move |_| {
        let (gate, entered) = (Arc::clone(&waiting), Arc::clone(&told));
        async move {
            entered.notify_one();
            gate.notified().await;
            answer(200)
        }
    })
    .await;
    let limits = |settings: &mut semel_http::proxy::Settings| {
        settings.header_read = Duration::from_millis(10);
        settings.client_idle = Duration::from_millis(10);
    };
    let proxy = proxy_with(slow, HOLD, limits, |_| {}).await;
    let mut busy = proxy.client().await;
    busy.write("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    entered.notified().await;
    semel::Clock::sleep(&semel::SystemClock, Duration::from_millis(50)).await;
    gate.notify_one();
    assert_eq!(busy.message().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut() {
    let (told, mut ends) = mpsc::unbounded_channel();
    let endless = support::net::raw_upstream(move |mut raw: Raw| {
        let told = told.clone();
        async move {
            raw.until(b"\r\n\r\n").await;
            raw.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
            let chunk = vec![b'x'; 64 * 1024];
            while tokio::io::AsyncWriteExt::write_all(&mut raw.stream, &chunk).await.is_ok() {}
            told.send(()).unwrap();
        }
    })
    .await;
    let limits = |settings: &mut semel_http::proxy::Settings| {
        settings.client_write = Duration::from_millis(50);
    };
    let proxy = proxy_with(endless, HOLD, limits, |_| {}).await;
    let mut client = proxy.client().await;
    client.write("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    ends.recv().await.unwrap();
    drop(client);
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_waits_for_its_place() {
    let runs = Runs::default();
    let limits = |settings: &mut semel_http::proxy::Settings| settings.connections_max = 1;
    let proxy = proxy_with(counting(&runs).await, HOLD, limits, |_| {}).await;
    let mut first = proxy.client().await;
    assert_eq!(first.ask(raw_post("a", "x")).await.status(), 201);
    let mut second = proxy.client().await;
    second.write(raw_post("b", "x")).await;
    assert_eq!(first.ask(raw_post("c", "x")).await.status(), 201);
    assert_eq!(runs.count(), 2, "the second client is not served yet");
    drop(first);
    assert_eq!(second.message().await.unwrap().status(), 201);
}

/// An upstream that tells how many requests it has finished.
async fn telling(done: &Arc<AtomicUsize>) -> std::net::SocketAddr {
    let done = Arc::clone(done);
    upstream(move |request: Request<_>| {
        let done = Arc::clone(&done);
        async move {
            request.into_body().collect().await.unwrap();
            created(done.fetch_add(1, Ordering::SeqCst) + 1)
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_disconnects_at_any_byte_of_its_request_gets_its_answer_on_retry() {
    let done = Arc::new(AtomicUsize::new(0));
    let proxy = proxy_to(telling(&done).await).await;
    let length = raw_post("cut-000", "{\"item\":\"book\"}").len();
    for cut in 0..=length {
        let request = raw_post(&format!("cut-{cut:03}"), "{\"item\":\"book\"}");
        let before = done.load(Ordering::SeqCst);
        let mut client = proxy.client().await;
        client.write(&request.as_bytes()[..cut]).await;
        drop(client);
        let retry = loop {
            let answer = proxy.client().await.ask(&request).await;
            // A whole request may still be executing for the client that is gone.
            if answer.status() != 409 {
                break answer;
            }
            assert_eq!(answer.problem(), "in-flight");
        };
        assert_eq!(retry.status(), 201, "cut at {cut}");
        let runs = done.load(Ordering::SeqCst) - before;
        assert_eq!(runs, 1, "cut at {cut}: the operation must take effect once");
        assert!(!retry.is_replayed() || cut == length, "cut at {cut}: half a request was claimed");
    }
}

#[tokio::test]
async fn a_client_that_disconnects_at_any_byte_of_the_answer_gets_it_on_retry() {
    let done = Arc::new(AtomicUsize::new(0));
    let proxy = proxy_to(telling(&done).await).await;
    let mut whole = proxy.client().await;
    let answer = whole.ask(raw_post("whole-000", "x")).await;
    let length = answer.head.len() + answer.body.len();
    for cut in 0..=length {
        let request = raw_post(&format!("answer-{cut:03}"), "x");
        let mut client = proxy.client().await;
        client.write(&request).await;
        if cut > 0 {
            client.exactly(cut.min(length - 3)).await.unwrap();
        }
        drop(client);
        let retry = loop {
            let answer = proxy.client().await.ask(&request).await;
            if answer.status() != 409 {
                break answer;
            }
        };
        assert_eq!(retry.status(), 201, "cut at {cut}");
        assert!(cut == 0 || retry.is_replayed(), "cut at {cut}");
    }
    assert_eq!(done.load(Ordering::SeqCst), length + 2);
}

#[tokio::test]
async fn a_storm_of_duplicates_over_sockets_executes_once() {
    let done = Arc::new(AtomicUsize::new(0));
    let proxy = proxy_to(telling(&done).await).await;
    for round in 0..5 {
        let address = proxy.address;
        let clients: Vec<_> = (0..50)
            .map(|_| {
                tokio::spawn(async move {
                    let request = raw_post(&format!("storm-{round}"), "x");
                    Raw::connect(address).await.ask(request).await
                })
            })
            .collect();
        let mut bodies = Vec::new();
        for client in clients {
            let answer = client.await.unwrap();
            match answer.status() {
                201 => bodies.push(answer.body),
                409 => assert_eq!(answer.problem(), "in-flight"),
                other => panic!("{other}"),
            }
        }
        assert!(!bodies.is_empty() && bodies.iter().all(|body| *body == bodies[0]));
    }
    assert_eq!(done.load(Ordering::SeqCst), 5);
}
