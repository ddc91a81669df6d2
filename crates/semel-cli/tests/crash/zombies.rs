//! A proxy that is frozen longer than its lease and then goes on: the late owner.

use nix::sys::signal::Signal;

use super::support::{Proxy, Sent, Site};

/// A proxy that is frozen while the upstream works for it, and the request it was frozen with.
fn freeze(site: &Site, mode: &str) -> (Proxy, Sent) {
    site.upstream.gate(1);
    let frozen = site.proxy(mode, None);
    let sent = frozen.send("k");
    site.upstream.wait_for_effects("k", 1);
    frozen.signal(Signal::SIGSTOP);
    (frozen, sent)
}

fn thaw(site: &Site, frozen: &Proxy) {
    site.upstream.let_go();
    frozen.signal(Signal::SIGCONT);
}

#[test]
fn under_retry_a_late_owner_answers_with_the_winners_outcome() {
    let site = Site::new();
    let (frozen, late) = freeze(&site, "retry");
    let other = site.proxy("retry", None);
    let winner = other.ask_until_told("k");
    assert_eq!(winner.body, "{\"execution\":2}");
    thaw(&site, &frozen);
    let late = late.answer();
    assert_eq!((late.status, late.body.as_str()), (201, "{\"execution\":2}"));
    assert!(late.is_replayed());
    let retry = other.ask("k");
    assert_eq!(retry.body, "{\"execution\":2}", "the late owner overwrote the winner");
    assert_eq!(site.upstream.effects("k"), 2);
}

#[test]
fn under_hold_nobody_runs_it_again_and_its_late_owner_may_still_tell() {
    let site = Site::new();
    let (frozen, late) = freeze(&site, "hold");
    let other = site.proxy("hold", None);
    let unknown = other.ask_until_told("k");
    assert!(unknown.is("outcome-unknown"), "{unknown:?}");
    assert!(site.records_ok(&["ls", "--state", "held"]).contains("lease-lost"));
    thaw(&site, &frozen);
    let late = late.answer();
    assert_eq!((late.status, late.body.as_str()), (201, "{\"execution\":1}"));
    let retry = other.ask("k");
    assert_eq!((retry.body.as_str(), retry.is_replayed()), ("{\"execution\":1}", true));
    assert_eq!(site.upstream.effects("k"), 1);
}

#[test]
fn after_a_decision_the_late_owner_answers_with_the_decision() {
    let site = Site::new();
    let (frozen, late) = freeze(&site, "hold");
    let other = site.proxy("hold", None);
    assert!(other.ask_until_told("k").is("outcome-unknown"));
    let complete = ["complete", "k", "--status", "200", "--body", "decided", "--reason", "seen"];
    site.records_ok(&complete);
    thaw(&site, &frozen);
    let late = late.answer();
    assert_eq!((late.status, late.body.as_str()), (200, "decided"));
    assert_eq!(other.ask("k").body, "decided", "the late owner overwrote the decision");
    assert_eq!(site.upstream.effects("k"), 1);
}

#[test]
fn a_lease_that_is_kept_alive_outlasts_many_leases() {
    let site = Site::new();
    site.upstream.gate(1);
    let (owner, other) = (site.proxy("hold", None), site.proxy("hold", None));
    let sent = owner.send("k");
    site.upstream.wait_for_effects("k", 1);
    // Three leases long, seen from outside: in flight, never unknown.
    let until = std::time::Instant::now() + std::time::Duration::from_millis(900);
    while std::time::Instant::now() < until {
        assert!(other.ask("k").is("in-flight"));
    }
    site.upstream.let_go();
    assert_eq!(sent.answer().status, 201);
    assert!(other.ask("k").is_replayed());
    assert_eq!(site.upstream.effects("k"), 1);
}
