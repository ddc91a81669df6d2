//! The operators' listener, and stopping.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::{Ask, Site, post};

#[test]
fn operators_see_life_readiness_metrics_and_change_the_log() {
    let site = Site::new();
    let proxy = site.proxy_with(&["--admin", "127.0.0.1:0"]);
    let admin = proxy.admin();
    let get = |path: &str| post(admin, &Ask::get(path)).unwrap();
    assert_eq!(get("/live").status, 200);
    assert_eq!(get("/ready").status, 200);
    proxy.ask("k");
    proxy.ask("k");
    proxy.ask_for(&Ask::order("held").path("/fail"));
    let metrics = get("/metrics").body;
    for part in [
        "semel_http_requests_total{decision=\"executed\",status=\"2xx\"} 1",
        "semel_http_requests_total{decision=\"replayed\",status=\"2xx\"} 1",
        "semel_guard_events_total{event=\"claimed\"} 2",
        "semel_store_records{state=\"held\"} 1",
    ] {
        assert!(metrics.contains(part), "no `{part}` in\n{metrics}");
    }
    assert!(!metrics.contains("\"k\""), "a key is in the metrics");
    let level = |body: &str| {
        let ask = Ask { method: "PUT", ..Ask::get("/log-level") };
        post(admin, &ask.body(body)).unwrap()
    };
    assert_eq!(level("semel::http=debug,warn").status, 200);
    assert!(get("/log-level").body.contains("semel::http=debug"));
    assert_eq!(level("a=b=c").status, 400);
    assert_eq!(get("/nothing").status, 404);
}

#[test]
fn sigterm_lets_requests_in_flight_end_and_refuses_new_ones() {
    let site = Site::new();
    site.upstream.gate(1);
    let mut proxy = site.proxy_with(&["--admin", "127.0.0.1:0"]);
    let admin = proxy.admin();
    let sent = proxy.send("k");
    site.upstream.wait_for_effects("k", 1);
    proxy.signal(Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(proxy.address).is_ok() {
        assert!(Instant::now() < deadline, "it still accepts");
    }
    assert_eq!(post(admin, &Ask::get("/ready")).unwrap().status, 503);
    site.upstream.let_go();
    assert_eq!(sent.answer().status, 201);
    assert_eq!(proxy.wait(), Some(0));
}

#[test]
fn an_execution_outlives_the_client_and_the_order_to_stop() {
    let site = Site::new();
    site.upstream.gate(1);
    let mut proxy = site.proxy_with(&[]);
    drop(proxy.send("k"));
    site.upstream.wait_for_effects("k", 1);
    proxy.signal(Signal::SIGTERM);
    site.upstream.let_go();
    assert_eq!(proxy.wait(), Some(0));
    assert!(site.proxy_with(&[]).ask("k").is_replayed());
}

#[test]
fn a_second_signal_stops_at_once() {
    let site = Site::new();
    site.upstream.gate(1);
    let mut proxy = site.proxy_with(&["--admin", "127.0.0.1:0"]);
    let admin = proxy.admin();
    let sent = proxy.send("k");
    site.upstream.wait_for_effects("k", 1);
    proxy.signal(Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(20);
    while post(admin, &Ask::get("/ready")).is_some_and(|answer| answer.status == 200) {
        assert!(Instant::now() < deadline, "it does not drain");
    }
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.wait(), Some(1));
    assert!(sent.was_cut());
}
