//! The proxy as clients, operators and systemd meet it over the wire.
//!
//! Goal: it starts without its upstream, tells systemd when it is ready, leaves a load balancer
//! time to notice before it stops, and speaks HTTP/2 like HTTP/1.1. `operating/answers.rs` and
//! `operating/admin.rs` have the answers and the ends; here is what happens around them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and real processes are watched with the real clock"
)]
#![allow(dead_code, clippy::print_stdout, reason = "the support is shared with other tests")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;

use self::support::logged::Logged;
use self::support::{Ask, PATIENCE, Proxy, Site, document, late, post, proxy_command, until};

#[test]
fn a_proxy_starts_before_its_upstream_and_the_same_key_runs_once_it_is_there() {
    let upstream = late::Upstream::reserve();
    let site = Site::new();
    let proxy = Logged::start(proxy_command(&site, &["--upstream", &upstream.url()]));
    let log = proxy.log();
    assert!(log.contains(&upstream.url()) && log.contains("cannot be reached now"), "{log}");
    assert!(!log.contains('\u{1b}'), "colour codes in a file: {log}");
    let ask = || post(proxy.address, &Ask::order("k")).unwrap();
    for _ in 0..2 {
        let answer = ask();
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.is("upstream-unreachable"), "{answer:?}");
        assert_eq!(answer.header("content-type").unwrap(), "application/problem+json");
    }
    assert_eq!(site.records_ok(&["ls"]), "no records\n", "the key is not free");
    let requests = upstream.open();
    let answer = ask();
    assert_eq!((answer.status, answer.is_replayed()), (201, false));
    assert!(ask().is_replayed());
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[test]
fn systemd_is_told_when_it_is_ready_and_when_it_stops() {
    let site = Site::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut state = [0; 64];
        let length = socket.recv(&mut state).unwrap();
        String::from_utf8(state[..length].to_vec()).unwrap()
    };
    let mut command = proxy_command(&site, &[]);
    command.env("NOTIFY_SOCKET", &path);
    let mut proxy = Proxy::start(command);
    assert_eq!(told(), "READY=1");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(told(), "STOPPING=1");
    assert_eq!(proxy.wait(), Some(0));
}

#[test]
fn a_draining_proxy_says_so_while_it_still_serves_whoever_comes() {
    let site = Site::new();
    // Longer than the test: only a second signal ends this drain.
    let mut proxy = site.proxy_with(&["--admin", "127.0.0.1:0", "--drain-min", "10m"]);
    let admin = proxy.admin();
    let status = |path: &str| post(admin, &Ask::get(path)).unwrap().status;
    assert_eq!(status("/ready"), 200);
    assert_eq!(proxy.ask("k").status, 201);
    proxy.signal(Signal::SIGTERM);
    until("/ready says no", || status("/ready") == 503);
    assert_eq!(status("/live"), 200);
    assert!(proxy.ask("k").is_replayed());
    let new = proxy.ask("new");
    assert_eq!((new.status, new.is_replayed()), (201, false));
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait(), Some(1));
}

#[test]
fn the_guide_names_the_metrics_that_there_are() {
    let site = Site::new();
    let proxy = site.proxy_with(&["--admin", "127.0.0.1:0"]);
    proxy.ask("k");
    let admin = proxy.admin();
    let metrics = || post(admin, &Ask::get("/metrics")).unwrap().body;
    // The first sweep is made at the start, beside everything else.
    until("a sweep is counted", || metrics().contains("semel_sweep_records_total"));
    let text = metrics();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let there: BTreeSet<_> = types.map(|line| line.split(' ').next().unwrap()).collect();
    let guide = document("docs/operating.md");
    let rows = guide.lines().filter_map(|line| line.strip_prefix("| `semel_"));
    let named: Vec<_> =
        rows.map(|row| format!("semel_{}", row.split('`').next().unwrap())).collect();
    assert_eq!(there, named.iter().map(String::as_str).collect());
}

/// Sends the order on this connection and gives status, body and whether it is a replay.
async fn h2_order(
    client: &mut http2::SendRequest<Full<Bytes>>,
    path: &str,
    key: &str,
) -> (u16, Bytes, bool) {
    let request = Request::post(format!("http://shop{path}"))
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(b"{\"item\":\"book\"}")));
    let response = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let status = response.status().as_u16();
    let is_replayed = response.headers().contains_key("idempotent-replayed");
    (status, response.into_body().collect().await.unwrap().to_bytes(), is_replayed)
}

#[tokio::test]
async fn http2_with_prior_knowledge_hears_what_http1_hears() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    let stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let (mut client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let (status, body, is_replayed) = h2_order(&mut client, "/orders", "k").await;
    assert_eq!((status, is_replayed), (201, false));
    assert_eq!(h2_order(&mut client, "/orders", "k").await, (201, body.clone(), true));
    let (status, problem, _) = h2_order(&mut client, "/refunds", "k").await;
    assert_eq!(status, 422);
    assert!(String::from_utf8_lossy(&problem).contains("/problems/key-reused\""));
    // A key is one key, whichever version of HTTP brings it.
    let over_http1 = proxy.ask("k");
    assert!(over_http1.is_replayed());
    assert_eq!(over_http1.body.as_bytes(), body);
    assert_eq!(site.upstream.effects("k"), 1);
    drop(client);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn duplicates_on_one_http2_connection_run_once() {
    let site = Site::new();
    site.upstream.gate(1);
    let proxy = site.proxy_with(&["--wait", "20s"]);
    let stream = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    let (client, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let duplicates: Vec<_> = (0..20)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { h2_order(&mut client, "/orders", "k").await })
        })
        .collect();
    let upstream = site.upstream;
    let upstream = tokio::task::spawn_blocking(move || {
        upstream.wait_for_effects("k", 1);
        upstream.let_go();
        upstream
    });
    let upstream = upstream.await.unwrap();
    let mut executed = 0;
    for duplicate in duplicates {
        let (status, body, is_replayed) = duplicate.await.unwrap();
        assert_eq!((status, &body[..]), (201, &b"{\"execution\":1}"[..]));
        executed += usize::from(!is_replayed);
    }
    assert_eq!((executed, upstream.effects("k")), (1, 1));
}
