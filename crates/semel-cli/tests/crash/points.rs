//! kill -9 at every point.

use super::support::{Answer, Site, semel};

/// The points that a proxied operation passes, with what is true when it dies there.
const PASSED: [(&str, Died); 8] = [
    ("before_claim", Died::Unclaimed),
    ("after_claim", Died::WithoutEffect),
    ("before_effect", Died::WithoutEffect),
    ("during_heartbeat", Died::WithEffect),
    ("after_effect", Died::WithEffect),
    ("before_complete", Died::WithEffect),
    ("after_complete", Died::Stored),
    ("before_answer", Died::Stored),
];

/// Points of handlers that bring their own transaction; the SQLite store's own tests die there.
const TRANSACTIONAL: [&str; 2] = ["in_tx_before_commit", "after_commit"];

#[derive(Clone, Copy, PartialEq)]
enum Died {
    /// Nothing was written.
    Unclaimed,
    /// The claim is there, the effect is not.
    WithoutEffect,
    /// Claim and effect are there, the outcome is not.
    WithEffect,
    /// The outcome is there, the client has not heard of it.
    Stored,
}

#[test]
fn no_point_is_left_out() {
    let mut tested: Vec<_> = PASSED.iter().map(|(point, _)| *point).chain(TRANSACTIONAL).collect();
    let mut known = semel::failpoint::POINTS.to_vec();
    tested.sort_unstable();
    known.sort_unstable();
    assert_eq!(tested, known);
}

#[test]
fn under_hold_a_killed_proxy_leaves_the_truth_or_an_unknown_outcome() {
    for (point, died) in PASSED {
        let site = Site::new();
        let answer = kill_and_ask_again(&site, "hold", point);
        match died {
            Died::Unclaimed => {
                assert_eq!((answer.status, answer.is_replayed()), (201, false), "{point}");
                assert_eq!(site.upstream.effects("k"), 1, "{point}");
            }
            Died::Stored => {
                assert_eq!((answer.status, answer.is_replayed()), (201, true), "{point}");
                assert_eq!(answer.body, "{\"execution\":1}", "{point}");
                assert_eq!(answer.header("location").as_deref(), Some("/orders/1"), "{point}");
                assert_eq!(site.upstream.effects("k"), 1, "{point}");
            }
            Died::WithEffect | Died::WithoutEffect => {
                assert_eq!(answer.status, 409, "{point}: {answer:?}");
                assert!(answer.is("outcome-unknown"), "{point}: {answer:?}");
                assert_eq!(answer.header("retry-after"), None, "{point}");
                assert_eq!(answer.header("content-type").unwrap(), "application/problem+json");
                resolve(&site, point, died == Died::WithEffect);
            }
        }
    }
}

/// What an operator does: look, compare with the service, decide.
fn resolve(site: &Site, point: &str, is_done: bool) {
    let listed = site.records_ok(&["ls", "--state", "held", "--json"]);
    let held: Vec<&str> = listed.lines().collect();
    assert_eq!(held.len(), 1, "{point}: {listed}");
    assert!(held[0].contains("\"cause\":\"lease-lost\""), "{point}: {listed}");
    assert_eq!(site.upstream.effects("k"), usize::from(is_done), "{point}: ran again under hold");
    let proxy = site.proxy("hold", None);
    if is_done {
        let complete = ["complete", "k", "--status", "201", "--body", "decided"];
        site.records_ok(
            &[&complete[..], &["--reason", "order 1 is there", "--actor", "me"]].concat(),
        );
        let answer = proxy.ask("k");
        assert_eq!((answer.status, answer.body.as_str()), (201, "decided"), "{point}");
        assert!(answer.is_replayed(), "{point}");
    } else {
        site.records_ok(&["release", "k", "--reason", "no order is there", "--actor", "me"]);
        let answer = proxy.ask("k");
        assert_eq!((answer.status, answer.is_replayed()), (201, false), "{point}");
    }
    assert_eq!(site.upstream.effects("k"), 1, "{point}");
    let shown = site.records_ok(&["get", "k", "--json"]);
    assert!(shown.contains("\"actor\":\"me\""), "{point}: no audit entry in {shown}");
    let again = site.records(&["release", "k", "--reason", "by mistake"]);
    assert_eq!(again.status.code(), Some(2), "{point}: a finished record was released");
}

#[test]
fn under_retry_a_killed_proxy_is_made_up_for() {
    for (point, died) in PASSED {
        let site = Site::new();
        let answer = kill_and_ask_again(&site, "retry", point);
        assert_eq!(answer.status, 201, "{point}: {answer:?}");
        assert_eq!(answer.is_replayed(), died == Died::Stored, "{point}");
        let expected = if died == Died::WithEffect { 2 } else { 1 };
        assert_eq!(site.upstream.effects("k"), expected, "{point}");
        let retry = site.proxy("retry", None).ask("k");
        assert!(retry.is_replayed(), "{point}: a finished key did not replay after a restart");
        assert_eq!(retry.body, answer.body, "{point}");
    }
}

/// Kills a proxy at the point, and asks a new one about the same key until it says something.
fn kill_and_ask_again(site: &Site, mode: &str, point: &str) -> Answer {
    let doomed = site.proxy(mode, Some(point));
    // The heartbeat needs an execution that lasts.
    if point == "during_heartbeat" {
        site.upstream.gate(1);
    }
    let sent = doomed.send("k");
    doomed.wait_for_point(point);
    doomed.kill();
    site.upstream.let_go();
    assert!(sent.was_cut(), "{point}: an answer came out of a killed process");
    site.proxy(mode, None).ask_until_told("k")
}

#[test]
fn a_handler_that_panics_leaves_an_unknown_outcome_and_the_proxy_goes_on() {
    let site = Site::new();
    let proxy = site.proxy_trapped("hold", "after_effect=panic@2");
    assert_eq!(proxy.ask("first").status, 201, "the first pass was not let through");
    drop(proxy.send("k"));
    proxy.wait_for_point("after_effect");
    let told = proxy.ask_until_told("k");
    assert!(told.is("outcome-unknown"), "{told:?}");
    assert_eq!(site.upstream.effects("k"), 1);
    assert!(proxy.ask("first").is_replayed());
    assert_eq!(proxy.ask("third").status, 201);
}

#[test]
fn a_misspelt_point_is_refused() {
    for wrong in ["after_efect=halt", "after_effect", "after_effect=stop", "after_effect=halt@0"] {
        let mut command = semel();
        let output = command.arg("man").env("SEMEL_FAILPOINT", wrong).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(wrong) && said.contains("after_claim"), "{said}");
    }
}

#[test]
fn many_keys_killed_at_once_are_each_told_the_truth() {
    // The process dies under load, not only alone with one request.
    let site = Site::new();
    let doomed = site.proxy("hold", Some("before_complete"));
    let keys: Vec<String> = (0..20).map(|it| format!("k{it}")).collect();
    let sent: Vec<_> = keys.iter().map(|key| doomed.send(key)).collect();
    doomed.wait_for_point("before_complete");
    doomed.kill();
    drop(sent);
    let proxy = site.proxy("hold", None);
    for key in &keys {
        let answer = proxy.ask_until_told(key);
        assert!(answer.status == 201 || answer.is("outcome-unknown"), "{key}: {answer:?}");
        assert!(site.upstream.effects(key) <= 1, "{key} took effect twice");
    }
}
