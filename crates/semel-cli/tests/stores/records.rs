//! Looking at records and deciding about them on stores that are shared, as it works on a file.

use serde_json::Value;

use super::servers;
use super::support::{Ask, Site};

#[test]
fn on_postgresql_records_are_listed_and_decided_about() {
    let Some(url) = servers::postgres("records") else { return };
    records_are_listed_and_decided_about(&url);
}

#[test]
fn on_redis_records_are_listed_and_decided_about() {
    let Some(redis) = servers::redis() else { return };
    records_are_listed_and_decided_about(&redis.url());
}

#[test]
fn on_a_redis_cluster_records_are_listed_and_decided_about() {
    let Some(cluster) = servers::redis_cluster() else { return };
    records_are_listed_and_decided_about(&cluster.url());
}

fn records_are_listed_and_decided_about(url: &str) {
    let site = Site::on(url);
    let proxies = [(); 2].map(|()| site.proxy_with(&[]));
    let order = |key: &str| {
        let path = if key == "done" { "/orders" } else { "/fail" };
        proxies.each_ref().map(|proxy| proxy.ask_for(&Ask::order(key).path(path)))
    };
    for key in ["done", "lost", "made"] {
        order(key);
    }
    listed(&site);
    shown(&site);

    // Nothing happened: whoever asks next runs it, and it fails again.
    decide(&site, &["release", "lost", "--reason", "no such order"], "released");
    assert_eq!(order("lost").map(|it| it.status), [500, 409]);
    assert_eq!(site.upstream.effects("lost"), 2);

    // It happened: everybody hears the decision.
    let made = ["complete", "made", "--status", "201", "--header", "Location: /orders/17"];
    let made = [&made[..], &["--body", "{\"id\":17}", "--reason", "order 17"]].concat();
    decide(&site, &made, "completed");
    for answer in order("made") {
        assert_eq!((answer.status, answer.body.as_str()), (201, "{\"id\":17}"));
        assert!(answer.is_replayed(), "{answer:?}");
        assert_eq!(answer.header("location").as_deref(), Some("/orders/17"));
    }
    assert_eq!(site.upstream.effects("made"), 1);
    let kept = json(&site.records_ok(&["get", "made", "--json"]));
    assert_eq!(kept["audit"][0]["reason"], "order 17");

    // A finished answer is forgotten on purpose: it runs again, once.
    decide(&site, &["purge", "done", "--reason", "a test order"], "purged");
    let again = order("done");
    assert_eq!(again.map(|it| (it.status, it.is_replayed())), [(201, false), (201, true)]);
    assert_eq!(site.upstream.effects("done"), 2);
    let swept = site.records_ok(&["purge", "--expired", "--json"]);
    assert_eq!(json(&swept)["expired_records_deleted"], 0);
    refused(&site);
}

fn listed(site: &Site) {
    let table = site.records_ok(&["ls"]);
    assert!(table.starts_with("KEY") && table.lines().count() == 4, "{table}");
    for (state, keys) in
        [("held", &["lost", "made"][..]), ("completed", &["done"]), ("silent", &[])]
    {
        let said = site.records_ok(&["ls", "--state", state, "--json"]);
        let mut found: Vec<String> =
            said.lines().map(|line| json(line)["key"].as_str().unwrap().to_owned()).collect();
        found.sort();
        assert_eq!(found, keys, "{state}");
    }
    let limited = site.records_ok(&["ls", "--limit", "2"]);
    assert!(limited.ends_with("and more; `--limit` is 2\n"), "{limited}");
    assert_eq!(site.records_ok(&["ls", "--key", "nobody"]), "no records\n");
}

fn shown(site: &Site) {
    let done = json(&site.records_ok(&["get", "done", "--json"]));
    assert_eq!((&done["state"], &done["answer"]["status"]), (&"completed".into(), &201.into()));
    assert_eq!(done["answer"]["body"], Value::Null, "the body is shown unasked");
    assert!(site.records_ok(&["get", "done", "--show-body"]).contains("{\"execution\":1}"));
    let lost = json(&site.records_ok(&["get", "lost", "--json"]));
    assert_eq!((&lost["state"], &lost["hold"]["cause"]), (&"held".into(), &"reported".into()));
    let absent = site.records(&["get", "nobody"]);
    assert_eq!(absent.status.code(), Some(1));
}

/// What there is nothing to decide about.
fn refused(site: &Site) {
    for (decision, code) in [
        (&["release", "done", "--reason", "by mistake"][..], 2),
        (&["purge", "lost", "--reason", "by mistake"], 2),
        (&["release", "nobody", "--reason", "by mistake"], 1),
    ] {
        let output = site.records(decision);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{decision:?}: {said}");
    }
}

fn decide(site: &Site, decision: &[&str], done: &str) {
    let said = site.records_ok(&[decision, &["--actor", "ada", "--json"]].concat());
    assert_eq!((&json(&said)["done"], &json(&said)["key"]), (&done.into(), &decision[1].into()));
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}
