//! Looking at records and deciding about them.

use super::support::{Ask, Site};

/// A site with a finished, a held and a used-twice key.
fn site() -> Site {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    proxy.ask("done");
    proxy.ask_for(&Ask::order("held").path("/fail"));
    for tenant in ["alice", "bob"] {
        proxy.ask_for(&Ask::order("twice").field(&format!("Authorization: Bearer {tenant}")));
    }
    site
}

#[test]
fn records_are_listed_for_people_and_for_programs() {
    let site = site();
    let table = site.records_ok(&["ls"]);
    assert!(table.starts_with("KEY"), "{table}");
    assert_eq!(table.lines().count(), 5, "{table}");
    let held = site.records_ok(&["ls", "--state", "held"]);
    assert!(held.contains("held") && held.contains("reported"), "{held}");
    let json = site.records_ok(&["ls", "--json"]);
    let records: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 4);
    let states: Vec<_> = records.iter().filter(|it| it["state"] == "completed").collect();
    assert_eq!(states.len(), 3, "{json}");
    let limited = site.records_ok(&["ls", "--limit", "2"]);
    assert!(limited.contains("and more"), "{limited}");
}

#[test]
fn a_key_is_shown_with_everything_but_its_body() {
    let site = site();
    let shown = site.records_ok(&["get", "done"]);
    for part in ["completed", "201", "location: /orders/1", "attempts     1", "15 bytes"] {
        assert!(shown.contains(part), "no `{part}` in {shown}");
    }
    assert!(!shown.contains("execution"), "the body is shown unasked: {shown}");
    assert!(site.records_ok(&["get", "done", "--show-body"]).contains("{\"execution\":1}"));
    assert_eq!(site.records_ok(&["get", "twice", "--json"]).lines().count(), 2);
    let absent = site.records(&["get", "nobody"]);
    assert_eq!(absent.status.code(), Some(1));
    let said = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(said.contains("no record of the key `nobody`") && said.contains("help:"), "{said}");
}

#[test]
fn a_decision_is_what_clients_hear_from_then_on() {
    let site = site();
    let proxy = site.proxy_with(&[]);
    let ask = Ask::order("held").path("/fail");
    assert!(proxy.ask_for(&ask).is("outcome-unknown"));
    site.records_ok(&[
        "complete",
        "held",
        "--status",
        "201",
        "--header",
        "X-Decided: yes",
        "--body",
        "decided",
        "--reason",
        "order 17 is in the table",
        "--actor",
        "ada",
    ]);
    let answer = proxy.ask_for(&ask);
    assert_eq!((answer.status, answer.body.as_str()), (201, "decided"));
    assert_eq!(answer.header("x-decided").as_deref(), Some("yes"));
    assert!(answer.is_replayed());
    let shown = site.records_ok(&["get", "held"]);
    assert!(shown.contains("complete by ada: order 17 is in the table"), "{shown}");
    site.records_ok(&["purge", "held", "--reason", "a test"]);
    assert_eq!(proxy.ask_for(&ask).status, 500, "a purged key did not run again");
    assert_eq!(site.upstream.effects("held"), 2);
    site.records_ok(&["release", "held", "--reason", "rolled back"]);
    assert_eq!(proxy.ask_for(&ask).status, 500, "a released key did not run again");
    assert_eq!(site.upstream.effects("held"), 3);
}

#[test]
fn a_decision_needs_a_reason_and_something_to_decide() {
    let site = site();
    let refused = |arguments: &[&str], part: &str| {
        let output = site.records(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: no `{part}` in {said}");
    };
    refused(&["release", "held"], "--reason");
    refused(&["release", "held", "--reason", " "], "reason must have");
    refused(&["release", "done", "--reason", "x"], "finished");
    refused(&["purge", "held", "--reason", "x"], "held, not finished");
    refused(&["purge"], "required");
    refused(&["release", "twice", "--reason", "x"], "choose one: --tenant");
    refused(&["complete", "held", "--reason", "x", "--status", "99"], "no final HTTP status");
    refused(&["complete", "held", "--reason", "x", "--header", "nonsense"], "NAME: VALUE");
    refused(&["complete", "held", "--reason", "x", "--body-file", "/no/such"], "cannot be read");
    let complete = |more: &[&str], part: &str| {
        refused(&[&["complete", "held", "--reason", "x"], more].concat(), part);
    };
    complete(&["--retention", "0s"], "--retention is zero");
    complete(&["--header", "Set-Cookie: session=1"], "`set-cookie` cannot be part");
    complete(&["--header", "Content-Length: 9"], "`content-length` cannot be part");
    complete(&["--status", "204", "--body", "x"], "204 No Content has no body");
    let large = tempfile::NamedTempFile::new().unwrap();
    large.as_file().set_len((4 << 20) + 1).unwrap();
    complete(&["--body-file", large.path().to_str().unwrap()], "at most 4194304");
    // After all of it, nothing was decided.
    assert!(site.records_ok(&["ls", "--state", "held"]).contains("held"));
}

#[test]
fn the_doctor_says_what_waits_and_what_to_do() {
    let site = site();
    let doctor = |arguments: &[&str]| {
        let store = super::support::url(&site.store());
        let mut command = super::support::semel();
        command.args(["doctor", "--store", &store]).args(arguments).output().unwrap()
    };
    let sick = doctor(&[]);
    let said = String::from_utf8_lossy(&sick.stdout).into_owned();
    assert_eq!(sick.status.code(), Some(1), "{said}");
    assert!(said.contains("!!  held") && said.contains("semel records ls --state held"), "{said}");
    site.records_ok(&["release", "held", "--reason", "a test"]);
    let well = doctor(&["--json"]);
    assert_eq!(well.status.code(), Some(0));
    let told: serde_json::Value = serde_json::from_slice(&well.stdout).unwrap();
    assert_eq!(told["safe"], true);
    assert!(told["findings"].as_array().unwrap().iter().any(|it| it["what"] == "durable write"));
    assert!(site.records_ok(&["ls", "--json"]).lines().count() == 3, "the probe left a record");
}

/// One operation started another in a step, and that one a third.
fn a_chain(site: &Site) {
    use semel::{Effect, FingerprintKey, Guard, Key, Tenant};
    let store = std::sync::Arc::new(semel_stores::sqlite::SqliteStore::open(site.store()).unwrap());
    let guard = |operation: &str| {
        let builder = Guard::builder(store.clone()).operation(operation).unwrap();
        builder.effect(Effect::Keyed).build().unwrap()
    };
    let meaning = FingerprintKey::from_secret(b"sixteen bytes or more").unwrap();
    let meaning = meaning.fingerprint().finish();
    let tenant = Tenant::single();
    let run = async {
        let (orders, root) = (guard("orders"), Key::parse("root").unwrap());
        orders.run(&tenant, &root, meaning, |_| async { Ok(()) }).await.unwrap();
        let (charges, charge) =
            (guard("charges"), Key::derived(&orders.record_id(&tenant, &root), "charge"));
        charges.run(&tenant, &charge, meaning, |_| async { Ok(()) }).await.unwrap();
        let mail = Key::derived(&charges.record_id(&tenant, &charge), "mail");
        guard("mails").run(&tenant, &mail, meaning, |_| async { Ok(()) }).await.unwrap();
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run);
}

#[test]
fn a_key_is_traced_to_everything_that_was_started_under_it() {
    let site = site();
    a_chain(&site);
    let alone = site.records_ok(&["trace", "root"]);
    assert!(alone.starts_with("root  orders  completed") && alone.lines().count() == 1, "{alone}");
    let steps = ["trace", "root", "--step", "charge", "--step", "mail"];
    let all = site.records_ok(&steps);
    let lines: Vec<_> = all.lines().collect();
    assert_eq!(lines.len(), 3, "{all}");
    assert!(lines[1].starts_with("└─ charge: ") && lines[1].contains("charges"), "{all}");
    assert!(lines[2].starts_with("   └─ mail: ") && lines[2].contains("mails  comp"), "{all}");
    let json = site.records_ok(&[&steps[..], &["--json"]].concat());
    let told: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(told["started"][0]["step"], "charge");
    assert_eq!(told["started"][0]["started"][0]["operation"], "mails");
    let absent = site.records(&["trace", "nobody"]);
    assert_eq!(absent.status.code(), Some(1));
}

#[test]
fn a_trace_goes_on_in_the_ledger_of_consumers() {
    use semel_kafka::ledger::{Ledger, Sighting};
    let site = site();
    a_chain(&site);
    let orders = semel::RecordId {
        tenant: semel::Tenant::single(),
        operation: semel::Operation::new("orders").unwrap(),
        key: semel::Key::parse("root").unwrap(),
    };
    let id = semel::Key::derived(&orders, "order-placed").as_str().to_owned();
    let path = site.store().with_file_name("ledger.db");
    let run = async {
        let ledger = semel_kafka::SqliteLedger::open(&path).unwrap();
        let partition = semel_kafka::log::TopicPartition::new("orders", 2);
        ledger.take("billing", std::slice::from_ref(&partition)).await.unwrap();
        let mut transaction = ledger.begin().await.unwrap();
        let window = semel_kafka::Window::endless();
        let seen = [Sighting { id, partition, timestamp: None }];
        ledger.remember(&mut transaction, "billing", &window, &seen).await.unwrap();
        ledger.commit(transaction).await.unwrap();
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run);
    let ledger = super::support::url(&path);
    let told = site.records_ok(&["trace", "root", "--step", "order-placed", "--ledger", &ledger]);
    let last = told.lines().last().unwrap();
    assert!(last.starts_with("└─ order-placed: ") && last.contains("billing  consumed"), "{told}");
    let absent = site.records(&["trace", "root", "--ledger", "sqlite:/nowhere/ledger.db"]);
    assert_eq!(absent.status.code(), Some(1));
    let wrong = site.records(&["trace", "root", "--ledger", "mysql://h"]);
    assert_eq!(wrong.status.code(), Some(2));
}
