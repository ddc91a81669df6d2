//! What `semel doctor` says about a store.
//!
//! Goal: whoever is woken at night learns from the exit code whether something waits, and from the
//! text what to do; a program learns the same from `--json`. `operating/records.rs` shows the
//! doctor before and after a decision; here are the other findings and the exact shapes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and real processes are watched with the real clock"
)]
#![allow(dead_code, clippy::print_stdout, reason = "the support is shared with other tests")]

mod support;

use serde_json::Value;

use self::support::{Ask, Site, semel, until, url};

/// Exit code and output of the doctor.
fn doctor(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let store = url(&site.store());
    let output = semel().args(["doctor", "--store", &store]).args(arguments).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn advice<'a>(told: &'a Value, what: &str) -> &'a Value {
    let findings = told["findings"].as_array().unwrap();
    &findings.iter().find(|it| it["what"] == what).unwrap()["advice"]
}

#[test]
fn a_store_in_use_is_safe_and_the_probe_leaves_no_record() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    proxy.ask("k");
    let (exit, said) = doctor(&site, &[]);
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.ends_with("the store is safe\n") && !said.contains("!!"), "{said}");
    for line in ["journal mode         wal", "synchronous          2", "completed            1"] {
        assert!(said.contains(line), "no `{line}` in {said}");
    }
    assert_eq!(site.records_ok(&["ls", "--json"]).lines().count(), 1);
    assert!(proxy.ask("k").is_replayed());
}

#[test]
fn a_held_record_is_the_only_finding_with_an_advice_in_json() {
    let site = Site::new();
    site.proxy_with(&[]).ask_for(&Ask::order("held").path("/fail"));
    let (exit, said) = doctor(&site, &["--json"]);
    assert_eq!((exit, said.lines().count()), (Some(1), 1), "{said}");
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(told["safe"], false);
    for finding in told["findings"].as_array().unwrap() {
        let names: Vec<_> = finding.as_object().unwrap().keys().collect();
        assert_eq!(names, ["advice", "seen", "warning", "what"]);
        assert_eq!(finding["advice"].is_null(), finding["what"] != "held", "{finding}");
    }
    let way_out = advice(&told, "held").as_str().unwrap();
    assert!(way_out.contains("semel records ls --state held"), "{way_out}");
}

#[test]
fn a_claim_whose_owner_was_killed_is_found_once_its_lease_is_over() {
    let site = Site::new();
    site.upstream.gate(1);
    let proxy = site.proxy_with(&["--lease", "300ms", "--on-unknown", "retry"]);
    let sent = proxy.send("k");
    site.upstream.wait_for_effects("k", 1);
    let (exit, said) = doctor(&site, &[]);
    assert_eq!(exit, Some(0), "a claim that is alive is no finding: {said}");
    proxy.kill();
    assert!(sent.was_cut());
    until("the doctor finds the silent claim", || doctor(&site, &[]).0 == Some(1));
    let told: Value = serde_json::from_str(&doctor(&site, &["--json"]).1).unwrap();
    let way_out = advice(&told, "silent claims").as_str().unwrap();
    assert!(way_out.contains("semel records ls --state silent"), "{way_out}");
    // The way out works: a retry settles it.
    site.upstream.let_go();
    assert_eq!(site.proxy_with(&["--on-unknown", "retry"]).ask_until_told("k").status, 201);
    assert_eq!(doctor(&site, &[]).0, Some(0));
}

#[test]
fn a_file_whose_log_was_turned_off_is_mended_when_it_is_opened() {
    let site = Site::new();
    drop(site.proxy_with(&[]));
    let file = rusqlite::Connection::open(site.store()).unwrap();
    file.pragma_update(None, "journal_mode", "delete").unwrap();
    drop(file);
    let (exit, said) = doctor(&site, &[]);
    // The program asks for the log when it opens the file, so what was changed is mended.
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("journal mode         wal"), "{said}");
}
