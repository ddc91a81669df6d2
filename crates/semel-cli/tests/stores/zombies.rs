//! A proxy that is frozen past its lease and then goes on, on a store that measures the lease by
//! the server's clock.

use nix::sys::signal::Signal;

use super::servers;
use super::support::{Proxy, Sent, Site};

#[test]
fn on_postgresql_a_late_owner_answers_with_the_winners_outcome() {
    let Some(url) = servers::postgres("late_retry") else { return };
    a_late_owner_answers_with_the_winners_outcome(&url);
}

#[test]
fn on_redis_a_late_owner_answers_with_the_winners_outcome() {
    let Some(redis) = servers::redis() else { return };
    a_late_owner_answers_with_the_winners_outcome(&redis.url());
}

#[test]
fn on_postgresql_a_late_owner_never_overwrites_a_decision() {
    let Some(url) = servers::postgres("late_hold") else { return };
    a_late_owner_never_overwrites_a_decision(&url);
}

#[test]
fn on_redis_a_late_owner_never_overwrites_a_decision() {
    let Some(redis) = servers::redis() else { return };
    a_late_owner_never_overwrites_a_decision(&redis.url());
}

fn a_late_owner_answers_with_the_winners_outcome(url: &str) {
    let site = Site::on(url);
    let (frozen, late) = freeze(&site, "retry");
    let other = proxy(&site, "retry");
    let winner = other.ask_until_told("k");
    assert_eq!((winner.status, winner.body.as_str()), (201, "{\"execution\":2}"));
    thaw(&site, &frozen);
    let late = late.answer();
    assert_eq!((late.status, late.body.as_str()), (201, "{\"execution\":2}"));
    assert!(late.is_replayed(), "{late:?}");
    for proxy in [&other, &frozen] {
        let again = proxy.ask("k");
        assert!(again.is_replayed(), "{again:?}");
        assert_eq!(again.body, "{\"execution\":2}", "the late owner overwrote the winner");
    }
    assert_eq!(site.upstream.effects("k"), 2);
}

fn a_late_owner_never_overwrites_a_decision(url: &str) {
    let site = Site::on(url);
    let (frozen, late) = freeze(&site, "hold");
    let other = proxy(&site, "hold");
    let unknown = other.ask_until_told("k");
    assert!(unknown.is("outcome-unknown"), "{unknown:?}");
    assert!(site.records_ok(&["ls", "--state", "held"]).contains("lease-lost"));
    let decide = ["complete", "k", "--status", "200", "--body", "decided", "--reason", "seen"];
    site.records_ok(&decide);
    thaw(&site, &frozen);
    let late = late.answer();
    assert_eq!((late.status, late.body.as_str()), (200, "decided"));
    for proxy in [&other, &frozen] {
        assert_eq!(proxy.ask("k").body, "decided", "the late owner overwrote the decision");
    }
    assert_eq!(site.upstream.effects("k"), 1);
}

fn proxy(site: &Site, mode: &str) -> Proxy {
    site.proxy_with(&["--lease", "2s", "--on-unknown", mode])
}

/// A proxy that is frozen while the upstream works for it, and the request it was frozen with.
fn freeze(site: &Site, mode: &str) -> (Proxy, Sent) {
    site.upstream.gate(1);
    let frozen = proxy(site, mode);
    let sent = frozen.send("k");
    site.upstream.wait_for_effects("k", 1);
    frozen.signal(Signal::SIGSTOP);
    (frozen, sent)
}

fn thaw(site: &Site, frozen: &Proxy) {
    site.upstream.let_go();
    frozen.signal(Signal::SIGCONT);
}
