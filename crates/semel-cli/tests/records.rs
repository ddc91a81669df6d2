//! Decisions about records, seen from both sides: the operator's terminal and the client's retry.
//!
//! Goal: a decision touches the one record that it names, is what every retry hears from then on,
//! is kept with its reason, and is refused while it could do harm. `operating/records.rs` has the
//! listings and the plain decisions; here are tenants, executions in flight and damage.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and real processes are watched with the real clock"
)]
#![allow(dead_code, clippy::print_stdout, reason = "the support is shared with other tests")]

mod support;

use rusqlite::Connection;
use serde_json::Value;

use self::support::{Ask, Site, semel, until, url};

fn order_of(tenant: &str, path: &str) -> Ask {
    Ask::order("k").path(path).field(&format!("Authorization: Bearer {tenant}"))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_decision_about_one_tenants_key_leaves_the_others_alone() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    proxy.ask_for(&order_of("alice", "/fail"));
    proxy.ask_for(&order_of("bob", "/fail"));
    let decide = ["release", "k", "--reason", "no such order"];
    let ambiguous = site.records(&decide);
    let said = String::from_utf8(ambiguous.stderr).unwrap();
    assert_eq!(ambiguous.status.code(), Some(2), "{said}");
    assert_eq!(site.records_ok(&["ls", "--state", "held", "--json"]).lines().count(), 2);
    // The message offers the very flags that choose.
    let (_, choice) = said.split_once("choose one: ").unwrap();
    let chosen: Vec<&str> = choice.split('|').next().unwrap().split_whitespace().collect();
    let told = site.records_ok(&[&decide[..], &chosen, &["--json"]].concat());
    assert_eq!(json(&told)["done"], "released");
    assert_eq!(json(&told)["tenant"], chosen[1]);
    let again = [order_of("alice", "/fail"), order_of("bob", "/fail")];
    let mut statuses = again.map(|ask| proxy.ask_for(&ask).status);
    statuses.sort_unstable();
    assert_eq!(statuses, [409, 500], "one runs again, the other one is still held");
    assert_eq!(site.upstream.effects("k"), 3);
}

#[test]
fn an_execution_in_flight_cannot_be_decided_about() {
    let site = Site::new();
    site.upstream.gate(1);
    let proxy = site.proxy_with(&[]);
    let sent = proxy.send("k");
    site.upstream.wait_for_effects("k", 1);
    for decision in [&["release"][..], &["complete", "--status", "201"], &["purge"]] {
        let output = site.records(&[decision, &["k", "--reason", "impatience"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{decision:?}: {said}");
        assert!(said.contains("E0108") && said.contains("executing"), "{decision:?}: {said}");
    }
    let shown = json(&site.records_ok(&["get", "k", "--json"]));
    assert_eq!((&shown["state"], &shown["audit"]), (&"in-progress".into(), &Value::Array(vec![])));
    site.upstream.let_go();
    assert_eq!(sent.answer().status, 201);
    assert!(proxy.ask("k").is_replayed());
}

#[test]
fn a_decision_is_kept_with_its_reason_and_the_body_stays_hidden() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    proxy.ask_for(&Ask::order("k").path("/fail"));
    let (body, reason) = ("{\"card\":\"4242\"}", "order 17 is in the table");
    let decide = ["complete", "k", "--status", "201", "--body", body, "--reason", reason];
    site.records_ok(&[&decide[..], &["--actor", "ada"]].concat());
    let shown = json(&site.records_ok(&["get", "k", "--json"]));
    assert_eq!(shown["state"], "completed");
    assert_eq!((&shown["answer"]["status"], &shown["answer"]["body"]), (&201.into(), &Value::Null));
    assert_eq!(shown["answer"]["body_bytes"], body.len());
    let entry = &shown["audit"][0];
    assert_eq!((&entry["action"], &entry["actor"]), (&"complete".into(), &"ada".into()));
    assert_eq!(entry["reason"], reason);
    for hidden in [&["get", "k"][..], &["get", "k", "--json"], &["ls"], &["ls", "--json"]] {
        assert!(!site.records_ok(hidden).contains("4242"), "{hidden:?} shows the body");
    }
    let open = json(&site.records_ok(&["get", "k", "--json", "--show-body"]));
    assert_eq!(open["answer"]["body"], body);
    assert!(site.records_ok(&["get", "k", "--show-body"]).contains(body));
}

#[test]
fn whoever_decides_is_named_even_without_the_variable_user() {
    let uid = std::process::Command::new("id").arg("-un").output().unwrap();
    let by_uid = String::from_utf8(uid.stdout).unwrap();
    let variables: [(&[(&str, &str)], &str); 4] = [
        (&[("USER", "ada"), ("LOGNAME", "eve")], "ada"),
        (&[("LOGNAME", "eve")], "eve"),
        (&[("USER", ""), ("LOGNAME", "eve")], "eve"),
        (&[], by_uid.trim()),
    ];
    for (variables, name) in variables {
        let site = Site::new();
        site.proxy_with(&[]).ask_for(&Ask::order("k").path("/fail"));
        let mut release = semel();
        release
            .args(["records", "release", "k", "--reason", "a test"])
            .args(["--store", site.url()]);
        release.env_remove("USER").env_remove("LOGNAME").envs(variables.iter().copied());
        assert!(release.status().unwrap().success());
        let shown = json(&site.records_ok(&["get", "k", "--json"]));
        assert_eq!(shown["audit"][0]["actor"], name, "{variables:?}");
    }
}

#[test]
fn a_claim_whose_owner_is_gone_is_shown_as_silent_once_its_lease_is_over() {
    let site = Site::new();
    site.upstream.gate(1);
    let proxy = site.proxy_with(&["--lease", "1s"]);
    let sent = proxy.send("k");
    site.upstream.wait_for_effects("k", 1);
    assert!(site.records_ok(&["get", "k"]).contains("lease until"));
    proxy.kill();
    assert!(sent.was_cut());
    until("the lease is over", || {
        site.records_ok(&["ls", "--state", "silent"]).contains("its owner fell silent")
    });
    let shown = site.records_ok(&["get", "k"]);
    assert!(shown.contains("silent since") && shown.contains("a retry settles it"), "{shown}");
    let told = json(&site.records_ok(&["get", "k", "--json"]));
    assert_eq!((&told["state"], &told["silent"]), (&"in-progress".into(), &true.into()));
    site.records_ok(&["release", "k", "--reason", "the proxy was killed"]);
}

#[test]
fn an_answer_from_a_file_and_a_store_from_the_environment_are_the_same_decision() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    let ask = Ask::order("k").path("/fail");
    proxy.ask_for(&ask);
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("answer.json");
    std::fs::write(&body, "{\"order\":17}").unwrap();
    let decided = semel()
        .args(["records", "complete", "k", "--status", "201", "--reason", "it is there"])
        .arg("--body-file")
        .arg(&body)
        .env("SEMEL_STORE", url(&site.store()))
        .output()
        .unwrap();
    assert!(decided.status.success(), "{}", String::from_utf8_lossy(&decided.stderr));
    let answer = proxy.ask_for(&ask);
    assert_eq!((answer.status, answer.body.as_str()), (201, "{\"order\":17}"));
    assert_eq!(site.upstream.effects("k"), 1);
}

/// The way out that the page of E0103 prints.
#[test]
fn a_damaged_record_that_is_deleted_by_hand_runs_again_with_a_higher_fence() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    proxy.ask("k");
    let fence = |text: &Value| {
        let fence = text["fence"].as_str().unwrap().to_owned();
        fence.split('-').next().unwrap().parse::<u64>().unwrap()
    };
    let before = fence(&json(&site.records_ok(&["get", "k", "--json"])));
    let file = Connection::open(site.store()).unwrap();
    file.execute("UPDATE semel_record SET outcome = x'00' WHERE key = 'k'", ()).unwrap();
    assert!(proxy.ask("k").is("record-unreadable"));
    for decision in ["release", "purge"] {
        let refused = site.records(&[decision, "k", "--reason", "damaged"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("E0103"), "{said}");
    }
    file.execute("DELETE FROM semel_record WHERE key = 'k'", ()).unwrap();
    let again = proxy.ask("k");
    assert_eq!((again.status, again.is_replayed()), (201, false));
    assert!(fence(&json(&site.records_ok(&["get", "k", "--json"]))) > before);
}
