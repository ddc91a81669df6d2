//! kill -9 of a proxy, with another one on the same store that goes on.
//!
//! The crash tests die at every point on SQLite; here are the three points between which the store
//! learns something, on stores whose leases are measured by a server.

use super::servers;
use super::support::{Answer, Proxy, Site, proxy_command};

/// Leases that run out soon, and that a busy machine can still keep alive.
const LEASE: [&str; 2] = ["--lease", "2s"];

/// Points, and whether the effect has happened and the outcome is stored there.
const POINTS: [(&str, bool, bool); 3] = [
    ("after_claim", false, false),
    ("before_complete", true, false),
    ("after_complete", true, true),
];

#[test]
fn on_postgresql_a_killed_proxy_leaves_the_truth_or_an_unknown_outcome() {
    for (point, has_effect, is_stored) in POINTS {
        let Some(url) = servers::postgres(&format!("hold_{point}")) else { return };
        under_hold(&url, point, has_effect, is_stored);
    }
}

#[test]
fn on_redis_a_killed_proxy_leaves_the_truth_or_an_unknown_outcome() {
    for (point, has_effect, is_stored) in POINTS {
        let Some(redis) = servers::redis() else { return };
        under_hold(&redis.url(), point, has_effect, is_stored);
    }
}

#[test]
fn on_a_redis_cluster_a_killed_proxy_leaves_the_truth_or_an_unknown_outcome() {
    let Some(cluster) = servers::redis_cluster() else { return };
    let (point, has_effect, is_stored) = POINTS[1];
    under_hold(&cluster.url(), point, has_effect, is_stored);
}

#[test]
fn on_postgresql_a_lost_execution_runs_again_under_retry() {
    for (point, has_effect, is_stored) in POINTS {
        let Some(url) = servers::postgres(&format!("retry_{point}")) else { return };
        under_retry(&url, point, has_effect, is_stored);
    }
}

#[test]
fn on_redis_a_lost_execution_runs_again_under_retry() {
    for (point, has_effect, is_stored) in POINTS {
        let Some(redis) = servers::redis() else { return };
        under_retry(&redis.url(), point, has_effect, is_stored);
    }
}

fn under_hold(url: &str, point: &str, has_effect: bool, is_stored: bool) {
    let site = Site::on(url);
    let (other, answer) = kill_and_ask_the_other(&site, "hold", point);
    let effects = || site.upstream.effects("k");
    assert_eq!(effects(), usize::from(has_effect), "{point}: it ran again under hold");
    if is_stored {
        assert_eq!((answer.status, answer.is_replayed()), (201, true), "{point}: {answer:?}");
        assert_eq!(answer.body, "{\"execution\":1}", "{point}");
        return;
    }
    assert_eq!(answer.status, 409, "{point}: {answer:?}");
    assert!(answer.is("outcome-unknown"), "{point}: {answer:?}");
    let held = site.records_ok(&["ls", "--state", "held", "--json"]);
    assert_eq!(held.lines().count(), 1, "{point}: {held}");
    assert!(held.contains("\"key\":\"k\"") && held.contains("\"cause\":\"lease-lost\""), "{held}");
    if has_effect {
        let decide = ["complete", "k", "--status", "201", "--body", "decided"];
        site.records_ok(&[&decide[..], &["--reason", "order 1 is there"]].concat());
        let told = other.ask("k");
        assert_eq!((told.status, told.body.as_str()), (201, "decided"), "{point}");
        assert!(told.is_replayed(), "{point}");
    } else {
        site.records_ok(&["release", "k", "--reason", "no order is there"]);
        let told = other.ask("k");
        assert_eq!((told.status, told.is_replayed()), (201, false), "{point}: {told:?}");
    }
    assert_eq!(effects(), 1, "{point}");
    assert_eq!(site.records_ok(&["ls", "--state", "held", "--json"]), "", "{point}");
}

fn under_retry(url: &str, point: &str, has_effect: bool, is_stored: bool) {
    let site = Site::on(url);
    let (other, answer) = kill_and_ask_the_other(&site, "retry", point);
    assert_eq!((answer.status, answer.is_replayed()), (201, is_stored), "{point}: {answer:?}");
    let lost = usize::from(has_effect && !is_stored);
    assert_eq!(site.upstream.effects("k"), 1 + lost, "{point}");
    let again = other.ask("k");
    assert!(again.is_replayed(), "{point}: {again:?}");
    assert_eq!(again.body, answer.body, "{point}");
}

/// Kills a proxy at the point and asks the other one, which was there all the time, until it says
/// something about the key.
fn kill_and_ask_the_other(site: &Site, mode: &str, point: &str) -> (Proxy, Answer) {
    let flags = [&LEASE[..], &["--on-unknown", mode]].concat();
    let mut doomed = proxy_command(site, &flags);
    doomed.env("SEMEL_FAILPOINT", format!("{point}=halt"));
    let (doomed, other) = (Proxy::start(doomed), site.proxy_with(&flags));
    let sent = doomed.send("k");
    doomed.wait_for_point(point);
    doomed.kill();
    assert!(sent.was_cut(), "{point}: an answer came out of a killed process");
    let answer = other.ask_until_told("k");
    (other, answer)
}
