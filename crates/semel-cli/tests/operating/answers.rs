//! What clients hear.

use super::support::{Ask, Site, post};

#[test]
fn a_created_order_is_replayed_as_created_with_its_fields_and_bytes() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    let ask = Ask::order("k").path("/cookie");
    let (first, retry) = (proxy.ask_for(&ask), proxy.ask_for(&ask));
    assert_eq!((first.status, first.is_replayed()), (201, false));
    assert_eq!((retry.status, retry.is_replayed()), (201, true));
    assert_eq!(first.body, retry.body);
    for name in ["content-type", "location", "idempotency-expires"] {
        assert_eq!(first.header(name), retry.header(name), "{name}");
        assert!(first.header(name).is_some(), "{name}");
    }
    assert_eq!(retry.headers("x-many"), ["a", "b"]);
    assert_eq!(first.headers("set-cookie"), ["session=1"]);
    assert_eq!(retry.header("set-cookie"), None, "a cookie was replayed");
    assert_eq!(site.upstream.effects("k"), 1);
}

#[test]
fn quoted_and_bare_keys_are_one_key_and_another_payload_is_refused() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    proxy.ask("k");
    assert!(proxy.ask_for(&Ask::order("\"k\"")).is_replayed());
    for other in [Ask::order("k").body("{\"item\":\"car\"}"), Ask::order("k").path("/refunds")] {
        let answer = proxy.ask_for(&other);
        assert_eq!(answer.status, 422);
        assert!(answer.is("key-reused"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), None);
    }
    assert_eq!(site.upstream.effects("k"), 1);
}

#[test]
fn another_tenants_key_is_an_unused_one() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    for tenant in ["alice", "bob"] {
        let ask = Ask::order("k").field(&format!("Authorization: Bearer {tenant}"));
        let answer = proxy.ask_for(&ask);
        assert_eq!((answer.status, answer.is_replayed()), (201, false), "{tenant}");
    }
    assert_eq!(site.upstream.effects("k"), 2);
}

#[test]
fn a_duplicate_is_refused_at_once_or_waits_for_the_same_answer() {
    for wait in [false, true] {
        let site = Site::new();
        site.upstream.gate(1);
        let proxy = site.proxy_with(if wait { &["--wait", "20s"] } else { &[] });
        let first = proxy.send("k");
        site.upstream.wait_for_effects("k", 1);
        let second = proxy.send("k");
        if wait {
            site.upstream.let_go();
            let (first, second) = (first.answer(), second.answer());
            assert_eq!((first.status, &first.body), (201, &second.body));
            assert!(second.is_replayed());
        } else {
            let refused = second.answer();
            assert_eq!(refused.status, 409);
            assert!(refused.is("in-flight") && refused.header("retry-after").is_some());
            site.upstream.let_go();
            assert_eq!(first.answer().status, 201);
        }
        assert_eq!(site.upstream.effects("k"), 1);
    }
}

#[test]
fn a_failure_follows_the_mode_unless_the_service_knows_better() {
    let site = Site::new();
    let ask = |key: &str| Ask::order(key).path("/fail");
    let hold = site.proxy_with(&[]);
    assert_eq!(hold.ask_for(&ask("held")).status, 500);
    assert!(hold.ask_for(&ask("held")).is("outcome-unknown"));
    assert_eq!(site.upstream.effects("held"), 1);
    let retry = site.proxy_with(&["--on-unknown", "retry"]);
    retry.ask_for(&ask("retried"));
    retry.ask_for(&ask("retried"));
    assert_eq!(site.upstream.effects("retried"), 2);
    let store = site.proxy_with(&["--on-unknown", "store"]);
    store.ask_for(&ask("stored"));
    let replayed = store.ask_for(&ask("stored"));
    assert_eq!((replayed.status, replayed.is_replayed()), (500, true));
    assert_eq!(site.upstream.effects("stored"), 1);
    for times in 1..=2 {
        let answer = hold.ask_for(&Ask::order("free").path("/rolled-back"));
        assert_eq!((answer.status, answer.header("semel-outcome")), (500, None));
        assert_eq!(site.upstream.effects("free"), times, "a rolled-back 500 did not free the key");
    }
}

#[test]
fn every_problem_leads_to_a_page() {
    let site = Site::new();
    let proxy = site.proxy_with(&["--require-key"]);
    let mut missing = Ask::order("k");
    missing.fields.remove(0);
    let answer = proxy.ask_for(&missing);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("content-type").unwrap(), "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let page = proxy.ask_for(&Ask::get(problem["type"].as_str().unwrap()));
    assert_eq!(page.status, 200);
    assert!(page.body.starts_with("# Idempotency-Key is missing"), "{}", page.body);
    assert!(proxy.ask_for(&Ask::order("two words")).is("key-malformed"));
    assert!(proxy.ask_for(&Ask::order(&"k".repeat(256))).is("key-malformed"));
    // A key of 2022: whatever record it had has expired.
    let old = proxy.ask_for(&Ask::order("017F22E2-79B0-7CC3-98C4-DC0C0C07398F"));
    assert_eq!(old.status, 412);
    assert!(old.is("key-too-old"), "{old:?}");
}

#[test]
fn an_upstream_that_is_not_there_frees_the_key() {
    let site = Site::new();
    // A port that was free a moment ago and that nobody listens on.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = site.proxy_with(&["--upstream", &format!("http://{nobody}")]);
    let answer = away.ask("k");
    assert_eq!(answer.status, 502);
    assert!(answer.is("upstream-unreachable"), "{answer:?}");
    let back = site.proxy_with(&[]).ask("k");
    assert_eq!((back.status, back.is_replayed()), (201, false));
}

#[test]
fn a_body_over_the_limit_runs_nothing_and_an_answer_over_it_leaves_a_tombstone() {
    let site = Site::new();
    let proxy = site.proxy_with(&["--request-bytes-max", "100", "--response-bytes-max", "5"]);
    let large = Ask::order("large").body(&"x".repeat(101));
    assert!(proxy.ask_for(&large).is("body-too-large"));
    assert_eq!(site.upstream.effects("large"), 0);
    let first = proxy.ask("k");
    assert_eq!((first.status, first.body.as_str()), (201, "{\"execution\":1}"));
    let retry = proxy.ask("k");
    assert_eq!(retry.status, 409);
    assert!(retry.is("answer-not-kept"), "{retry:?}");
    assert_eq!(site.upstream.effects("k"), 1);
}

#[test]
fn a_client_that_hangs_up_gets_its_answer_at_the_retry() {
    let site = Site::new();
    site.upstream.gate(1);
    let proxy = site.proxy_with(&[]);
    {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(proxy.address).unwrap();
        let body = "{\"item\":\"book\"}";
        let request = format!(
            "POST /orders HTTP/1.1\r\nHost: shop\r\nIdempotency-Key: k\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        site.upstream.wait_for_effects("k", 1);
    }
    site.upstream.let_go();
    let answer = proxy.ask_until_told("k");
    assert_eq!((answer.status, answer.is_replayed()), (201, true));
    assert!(post(proxy.address, &Ask::order("k")).unwrap().is_replayed());
    assert_eq!(site.upstream.effects("k"), 1);
}

#[test]
fn an_answer_that_ends_with_its_head_is_broken_and_never_an_empty_success() {
    use std::io::{Read, Write};

    let site = Site::new();
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    std::thread::spawn(move || {
        for (at, stream) in upstream.incoming().map_while(Result::ok).enumerate() {
            let mut stream = stream;
            // The whole request is small and comes at once.
            drop(stream.read(&mut [0; 4096]));
            let framing = ["Content-Length: 10", "Transfer-Encoding: chunked"][at % 2];
            let bad = if at % 4 == 3 { "ZZ\r\n" } else { "" };
            drop(write!(stream, "HTTP/1.1 201 Created\r\n{framing}\r\n\r\n{bad}"));
        }
    });
    let proxy = site.proxy_with(&["--upstream", &format!("http://{address}")]);
    for round in 0..40 {
        let key = format!("k{round}");
        let first = proxy.ask(&key);
        assert!(first.is("answer-broken"), "{round}: {first:?}");
        let retry = proxy.ask(&key);
        assert!(retry.is("outcome-unknown"), "{round}: a broken answer was kept: {retry:?}");
    }
}
