//! The proxy over real sockets: what passes, what is refused, what is known about what was sent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use semel_http::{Body, UnknownPolicy};
use support::net::{Raw, http2, nobody, proxy_to, proxy_with, raw_post, raw_upstream, upstream};
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

/// An upstream that makes orders and counts them.
async fn orders_upstream(runs: &Runs) -> std::net::SocketAddr {
    let runs = runs.clone();
    upstream(move |request: Request<_>| {
        let runs = runs.clone();
        async move {
            request.into_body().collect().await.ok();
            created(runs.add())
        }
    })
    .await
}

#[tokio::test]
async fn a_keyed_request_is_executed_once_and_replayed_over_the_wire() {
    let runs = Runs::default();
    let proxy = proxy_to(orders_upstream(&runs).await).await;
    let mut client = proxy.client().await;
    let first = client.ask(raw_post("k", "x")).await;
    let retry = client.ask(raw_post("\"k\"", "x")).await;
    assert_eq!((first.status(), retry.status(), runs.count()), (201, 201, 1));
    assert_eq!(first.body, retry.body);
    assert!(retry.is_replayed());
    assert_eq!(retry.field("location"), Some("/orders/1"));
    assert_eq!((first.field("set-cookie").is_some(), retry.field("set-cookie")), (true, None));
    let other = client.ask(raw_post("k", "y")).await;
    assert_eq!((other.status(), other.problem().as_str()), (422, "key-reused"));
}

#[tokio::test]
async fn what_passes_without_a_key_is_not_touched() {
    let seen = upstream(|request: Request<_>| async move {
        let (parts, body): (_, hyper::body::Incoming) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut fields: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        let text = format!("{} {}\n{}\n{}", parts.method, parts.uri, fields.join("\n"), body.len());
        Response::builder()
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("x-end", "1")
            .body(Body::from(text))
            .unwrap()
    })
    .await;
    let proxy = proxy_to(seen).await;
    let mut client = proxy.client().await;
    let answer = client
        .ask(
            "PUT /a%20b?c=d HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, x-mine\r\n\
             X-Mine: 1\r\nTraceparent: 00-1\r\nX-Forwarded-For: spoofed\r\n\
             Content-Length: 3\r\n\r\nabc",
        )
        .await;
    assert_eq!(
        answer.text(),
        "PUT /a%20b?c=d\ncontent-length: 3\nhost: shop.example\ntraceparent: 00-1\n\
         x-forwarded-for: 127.0.0.1\nx-forwarded-host: shop.example\nx-forwarded-proto: http\n3"
    );
    assert_eq!((answer.field("x-hop"), answer.field("x-end")), (None, Some("1")));
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert!(client.ask(chunked).await.text().ends_with("\n5"));
    let head = "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n";
    client.write(head).await;
    let head = String::from_utf8(client.until(b"\r\n\r\n").await.unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: "), "{head}");
    assert!(client.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.text().starts_with("GET /"));
}

#[tokio::test]
async fn a_large_body_streams_through_both_ways() {
    let echo = upstream(|request: Request<hyper::body::Incoming>| async move {
        Response::new(Body::new(request.into_body()))
    })
    .await;
    let proxy = proxy_to(echo).await;
    let client = proxy.client().await;
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|at| (at % 251) as u8).collect();
    let (reader, mut writer) = client.stream.into_split();
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            sent.len()
        );
        writer.write_all(head.as_bytes()).await.unwrap();
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let mut received = Vec::new();
    let mut reader = reader;
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut received).await.unwrap();
    sending.await.unwrap();
    let start = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(received[start..] == bytes, "{} of {}", received.len() - start, bytes.len());
}

#[tokio::test]
async fn an_event_stream_passes_event_by_event() {
    let (events, source) = mpsc::unbounded_channel::<&'static str>();
    let source = Arc::new(std::sync::Mutex::new(Some(source)));
    let streaming = upstream(move |_| {
        let mut source = source.lock().unwrap().take().unwrap();
        let stream = futures_util::stream::poll_fn(move |context| {
            source.poll_recv(context).map(|event| {
                let event = event?;
                Some(Ok::<_, semel::Error>(Frame::data(Bytes::from_static(event.as_bytes()))))
            })
        });
        async move {
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(Body::new(StreamBody::new(stream)))
                .unwrap()
        }
    })
    .await;
    let proxy = proxy_to(streaming).await;
    let mut client = proxy.client().await;
    client.write("GET /events HTTP/1.1\r\nHost: h\r\n\r\n").await;
    client.until(b"\r\n\r\n").await.unwrap();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(event).unwrap();
        client.until(event.as_bytes()).await.unwrap();
    }
    drop(events);
    client.until(b"0\r\n\r\n").await.unwrap();
}

#[tokio::test]
async fn a_web_socket_s_bytes_go_both_ways() {
    let echo = raw_upstream(|mut raw: Raw| async move {
        let head = String::from_utf8(raw.until(b"\r\n\r\n").await.unwrap()).unwrap();
        let lower = head.to_lowercase();
        assert!(lower.contains("upgrade: websocket") && lower.contains("connection: upgrade"));
        raw.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: x\r\n\r\nhello",
        )
        .await;
        while let Some(byte) = raw.exactly(1).await {
            raw.write(byte).await;
        }
    })
    .await;
    let mut proxy = proxy_to(echo).await;
    let mut client = proxy.client().await;
    client
        .write(
            "GET /socket HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
        )
        .await;
    let head = String::from_utf8(client.until(b"\r\n\r\n").await.unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: x"), "{head}");
    assert_eq!(client.exactly(5).await.unwrap(), b"hello");
    for text in ["ping", "pong"] {
        client.write(text).await;
        assert_eq!(client.exactly(4).await.unwrap(), text.as_bytes());
    }
    proxy.stop();
    client.write("more").await;
    assert_eq!(client.exactly(4).await.unwrap(), b"more", "a tunnel lives on while draining");
    drop(client);
    assert_eq!(proxy.drained().await.connections_cut, 0);
}

#[tokio::test]
async fn informational_answers_do_not_confuse_the_final_one() {
    let early = raw_upstream(|mut raw: Raw| async move {
        while raw.until(b"\r\n\r\n").await.is_some() {
            raw.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await;
            raw.exactly(1).await.unwrap();
            raw.write("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let proxy = proxy_to(early).await;
    let mut client = proxy.client().await;
    for expected in [false, true] {
        let answer = client.ask(raw_post("k", "x")).await;
        assert_eq!((answer.status(), answer.text()), (201, "ok"));
        assert_eq!(answer.is_replayed(), expected);
    }
    let mut client = proxy.client().await;
    client
        .write("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        .await;
    let head = String::from_utf8(client.until(b"\r\n\r\n").await.unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 100"), "{head}");
    assert_eq!(client.ask("x").await.text(), "ok");
}

#[tokio::test]
async fn http_2_clients_are_served_like_the_others() {
    let runs = Runs::default();
    let counted = runs.clone();
    let seen = upstream(move |request: Request<hyper::body::Incoming>| {
        let run = counted.add();
        async move {
            let (parts, body) = request.into_parts();
            body.collect().await.ok();
            let field = |name: &str| parts.headers.get(name).map(|it| it.to_str().unwrap());
            let text = format!("{run} {:?} {:?}", field("host"), field("cookie"));
            Response::builder().status(201).body(Body::from(text)).unwrap()
        }
    })
    .await;
    let proxy = proxy_to(seen).await;
    let mut client = http2(proxy.address).await;
    let request = |key: &str| {
        Request::post("http://shop.example/orders")
            .header("idempotency-key", key)
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Body::from("x"))
            .unwrap()
    };
    let concurrent: Vec<_> =
        (0..20).map(|at| client.send_request(request(&format!("k{at}")))).collect();
    for answer in futures_util::future::join_all(concurrent).await {
        assert_eq!(answer.unwrap().status(), 201);
    }
    assert_eq!(runs.count(), 20);
    let retry = client.send_request(request("k0")).await.unwrap();
    assert_eq!(retry.headers()["idempotent-replayed"], "true");
    let body = retry.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.into()).unwrap();
    assert!(body.ends_with("Some(\"shop.example\") Some(\"a=1; b=2\")"), "{body}");
    assert_eq!(runs.count(), 20);
    let unkeyed = Request::get("http://shop.example/").body(Body::empty()).unwrap();
    assert_eq!(client.send_request(unkeyed).await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_key_of_an_unreachable_upstream_stays_free() {
    let address = nobody().await;
    let proxy = proxy_to(address).await;
    let mut client = proxy.client().await;
    for _ in 0..2 {
        let refused = client.ask(raw_post("k", "x")).await;
        assert_eq!((refused.status(), refused.problem().as_str()), (502, "upstream-unreachable"));
    }
}

/// An upstream that reads one request, counts it, writes `answer` and closes.
async fn closing_upstream(runs: &Runs, answer: &'static str) -> std::net::SocketAddr {
    let runs = runs.clone();
    raw_upstream(move |mut raw: Raw| {
        let runs = runs.clone();
        async move {
            raw.until(b"\r\n\r\n").await;
            raw.exactly(1).await;
            runs.add();
            raw.write(answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_lost_after_sending_is_unknown_and_never_sent_again() {
    let cut = "HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nhalf";
    for (answer, first_problem) in [("", "upstream-lost"), (cut, "answer-broken")] {
        let runs = Runs::default();
        let proxy = proxy_to(closing_upstream(&runs, answer).await).await;
        let mut client = proxy.client().await;
        let first = client.ask(raw_post("k", "x")).await;
        assert_eq!((first.status(), first.problem().as_str()), (502, first_problem));
        let retry = client.ask(raw_post("k", "x")).await;
        assert_eq!((retry.status(), retry.problem().as_str()), (409, "outcome-unknown"));
        assert_eq!((retry.field("retry-after"), runs.count()), (None, 1));
    }
    let runs = Runs::default();
    let retry = UnknownPolicy::Retry.effect();
    let proxy = proxy_with(closing_upstream(&runs, "").await, retry, |_| {}, |_| {}).await;
    for expected in 1..=2 {
        let lost = proxy.client().await.ask(raw_post("k", "x")).await;
        assert_eq!((lost.problem().as_str(), runs.count()), ("upstream-lost", expected));
    }
    let runs = Runs::default();
    let address = closing_upstream(&runs, "").await;
    let proxy = proxy_with(address, HOLD, |_| {}, |it| it.store_unknown = true).await;
    for replayed in [false, true] {
        let lost = proxy.client().await.ask(raw_post("k", "x")).await;
        assert_eq!((lost.problem().as_str(), lost.is_replayed()), ("upstream-lost", replayed));
    }
    assert_eq!(runs.count(), 1);
}

/// An upstream that keeps connections open for one answer and then closes them silently.
#[tokio::test]
async fn a_kept_connection_that_the_upstream_closed_costs_no_request() {
    let runs = Runs::default();
    let (counted, closed) = (runs.clone(), Arc::new(Notify::new()));
    let told = Arc::clone(&closed);
    let address = raw_upstream(move |mut raw: Raw| {
        let (runs, closed) = (counted.clone(), Arc::clone(&told));
        async move {
            raw.until(b"\r\n\r\n").await;
            raw.exactly(1).await;
            runs.add();
            raw.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            raw.stream.shutdown().await.unwrap();
            // The other side closes as well once it has seen the end.
            raw.rest().await;
            closed.notify_one();
        }
    })
    .await;
    let proxy = proxy_to(address).await;
    let mut client = proxy.client().await;
    for run in 1..=20 {
        let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx";
        let answer = client.ask(request).await;
        assert_eq!((answer.status(), answer.text(), runs.count()), (200, "ok", run));
        // Nothing but the arrival of the close makes the next request safe; wait for it.
        while !is_closed_at(&proxy, &mut client).await {}
    }
    drop(closed);
}

/// Gives the proxy's reactor the chance to see what has arrived.
async fn is_closed_at(proxy: &support::net::Running, _client: &mut Raw) -> bool {
    let link = format!("{}in-flight", semel_http::PROBLEMS_PATH);
    let asked = format!("GET {link} HTTP/1.1\r\nHost: h\r\n\r\n");
    proxy.client().await.ask(asked).await.status() == 200
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_in_time_is_unknown() {
    let runs = Runs::default();
    let counted = runs.clone();
    let silent = upstream(move |_| {
        counted.add();
        std::future::pending::<Response<Body>>()
    })
    .await;
    let short = |settings: &mut semel_http::proxy::Settings| {
        settings.response_head = Duration::from_millis(30);
    };
    let proxy = proxy_with(silent, HOLD, short, |_| {}).await;
    let mut client = proxy.client().await;
    let late = client.ask(raw_post("k", "x")).await;
    assert_eq!((late.status(), late.problem().as_str()), (504, "upstream-timeout"));
    assert_eq!(client.ask(raw_post("k", "x")).await.problem(), "outcome-unknown");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_a_body_is_told_and_the_upstream_let_go() {
    let (told, mut ends) = mpsc::unbounded_channel();
    let reading = raw_upstream(move |mut raw: Raw| {
        let told = told.clone();
        async move {
            raw.rest().await;
            told.send(()).unwrap();
        }
    })
    .await;
    let short = |settings: &mut semel_http::proxy::Settings| {
        settings.body_idle = Duration::from_millis(30);
    };
    let proxy = proxy_with(reading, HOLD, short, |it| {
        it.request_read_max = Duration::from_millis(30);
    })
    .await;
    let half = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf";
    let mut client = proxy.client().await;
    let refused = client.ask(half).await;
    assert_eq!((refused.status(), refused.problem().as_str()), (408, "body-timeout"));
    ends.recv().await.unwrap();
    let keyed = half.replace("Host: h", "Host: h\r\nIdempotency-Key: k");
    let refused = proxy.client().await.ask(keyed).await;
    assert_eq!((refused.status(), refused.problem().as_str()), (408, "body-timeout"));
}

#[tokio::test]
async fn requests_at_the_upstream_are_bounded() {
    let gate = Arc::new(Notify::new());
    let (entered, waiting) = (Arc::new(Notify::new()), Arc::clone(&gate));
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
    let bounded = |settings: &mut semel_http::proxy::Settings| {
        settings.upstream_in_flight_max = 1;
        settings.connect = Duration::from_millis(30);
    };
    let proxy = proxy_with(slow, HOLD, bounded, |_| {}).await;
    let mut first = proxy.client().await;
    first.write("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    entered.notified().await;
    let refused = proxy.client().await.ask("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!((refused.status(), refused.problem().as_str()), (503, "overloaded"));
    assert_eq!(refused.field("retry-after"), Some("1"));
    gate.notify_one();
    assert_eq!(first.message().await.unwrap().status(), 200);
}

#[tokio::test]
async fn draining_ends_what_is_in_flight_and_takes_nothing_new() {
    let runs = Runs::default();
    let gate = Arc::new(Notify::new());
    let (entered, waiting, counted) = (Arc::new(Notify::new()), Arc::clone(&gate), runs.clone());
    let told = Arc::clone(&entered);
    let slow = upstream(move |_| {
        let (gate, entered) = (Arc::clone(&waiting), Arc::clone(&told));
        let run = counted.add();
        async move {
            entered.notify_one();
            gate.notified().await;
            created(run)
        }
    })
    .await;
    let mut proxy = proxy_to(slow).await;
    let mut idle = proxy.client().await;
    let mut waiting = proxy.client().await;
    waiting.write(raw_post("waits", "x")).await;
    entered.notified().await;
    let mut gone = proxy.client().await;
    gone.write(raw_post("gone", "x")).await;
    entered.notified().await;
    drop(gone);
    proxy.stop();
    assert!(idle.message().await.is_none(), "an idle connection is closed at once");
    let refused = tokio::net::TcpStream::connect(proxy.address).await;
    assert!(refused.is_err(), "nothing new is accepted");
    assert_eq!(proxy.layer.executing(), 2);
    gate.notify_one();
    gate.notify_one();
    let answer = waiting.message().await.unwrap();
    assert_eq!((answer.status(), answer.field("connection")), (201, Some("close")));
    let drained = proxy.drained().await;
    assert_eq!((drained.connections_cut, drained.executions_left), (0, 0));
}

#[tokio::test]
async fn draining_is_bounded_and_says_what_it_left() {
    let (told, entered) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let tell = Arc::clone(&told);
    let hung = upstream(move |_| {
        tell.notify_one();
        std::future::pending::<Response<Body>>()
    })
    .await;
    drop(entered);
    let short = |settings: &mut semel_http::proxy::Settings| {
        settings.drain_max = Duration::from_millis(30);
    };
    let proxy = proxy_with(hung, HOLD, short, |_| {}).await;
    let mut client = proxy.client().await;
    client.write(raw_post("k", "x")).await;
    told.notified().await;
    let drained = proxy.drained().await;
    assert_eq!((drained.connections_cut, drained.executions_left), (1, 1));
    assert!(client.message().await.is_none(), "the client is not left waiting");
}
