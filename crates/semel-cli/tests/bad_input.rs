//! What wrong calls of the program say.
//!
//! Goal: a message names the thing, the rule and the way out, carries the right exit code, tells no
//! secret, and leaves the folder exactly as it was. `operating/mistakes.rs` has the common
//! mistakes; here are the ones that cost an operator something: a secret, a file, a night.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and real processes are watched with the real clock"
)]
#![allow(dead_code, clippy::print_stdout, reason = "the support is shared with other tests")]

mod support;

use std::net::TcpListener;

use rusqlite::Connection;
use tempfile::tempdir;

use self::support::{contents, document, run_in};

const UPSTREAM: [&str; 3] = ["proxy", "--upstream", "http://127.0.0.1:1"];

/// Calls `semel proxy` with these flags in an empty folder, which has to stay empty.
fn refused(flags: &[&str], code: i32, parts: &[&str]) {
    let folder = tempdir().unwrap();
    let arguments = [&UPSTREAM[..], flags].concat();
    let (exit, said) = run_in(folder.path(), &arguments);
    assert_eq!(exit, Some(code), "{flags:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{flags:?}: no `{part}` in {said}");
    }
    assert_eq!(contents(folder.path()), [], "{flags:?} left something behind");
}

#[test]
fn settings_that_contradict_each_other_stop_the_proxy_before_it_makes_a_store() {
    refused(&["--retention", "10s"], 2, &["retention (10s)", "lease (30s)", "E0101"]);
    refused(&["--wait", "24h"], 2, &["wait", "retention", "E0101"]);
    refused(&["--retry-window", "48h"], 2, &["retention", "retry_window", "E0101"]);
    refused(&["--tenant-header", "X-Who", "--single-tenant"], 2, &["cannot be used with"]);
}

#[test]
fn a_value_that_is_none_is_named_with_its_rule() {
    refused(&["--methods", "PO ST"], 2, &["`PO ST`", "no method"]);
    refused(&["--key-header", "a b"], 2, &["`a b`", "no field name"]);
    refused(&["--listen", "nonsense"], 2, &["--listen `nonsense`", "write HOST:PORT"]);
    refused(&["--store", "memory:", "--log", "a=b=c"], 2, &["`a=b=c`", "write a level"]);
    refused(&["--config", "no.toml"], 2, &["no.toml cannot be read", "No such file"]);
    refused(&["--store-file", "nope"], 2, &["the file nope cannot be read"]);
}

#[test]
fn a_port_that_is_taken_stops_the_proxy_before_it_makes_a_store() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let way_out = "another program uses the port";
    refused(&["--listen", &address], 1, &["--listen", &address, way_out]);
    let admin = ["--listen", "127.0.0.1:0", "--admin", &address];
    refused(&admin, 1, &["--admin", &address, way_out]);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_at_the_start() {
    // Even root makes no files in /proc.
    refused(
        &["--store", "sqlite:/proc/semel.db"],
        1,
        &["/proc/semel.db", "E0102", "read and write"],
    );
    refused(&["--store", "sqlite:."], 1, &["cannot be opened", "E0102"]);
}

#[test]
fn a_secret_that_is_none_is_refused_without_being_told() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("secret");
    for (secret, rule) in [("", "is empty"), ("hunter2", "at least 16")] {
        std::fs::write(&path, secret).unwrap();
        let before = contents(folder.path());
        let arguments = [&UPSTREAM[..], &["--secret-file", "secret"]].concat();
        let (exit, said) = run_in(folder.path(), &arguments);
        assert_eq!(exit, Some(2), "{said}");
        assert!(said.contains(rule) && !said.contains("hunter2"), "{said}");
        assert_eq!(contents(folder.path()), before);
    }
}

/// Each of these calls fails with this code, and none of them may say the password in its URL.
fn keeps_the_password(code: i32, calls: &[&[&str]]) {
    let folder = tempdir().unwrap();
    for arguments in calls {
        let (exit, said) = run_in(folder.path(), arguments);
        assert_eq!(exit, Some(code), "{said}");
        assert!(!said.contains("hunter2"), "a password is told: {said}");
    }
    assert_eq!(contents(folder.path()), []);
}

#[test]
fn the_password_of_a_store_is_not_told() {
    // The first scheme has no store, and behind the second one there is no server.
    for (code, store) in [(2, "mysql://semel:hunter2@db/x"), (1, "redis://:hunter2@127.0.0.1:1")] {
        let proxy = ["proxy", "--upstream", "http://a:8000", "--listen", "127.0.0.1:0"];
        keeps_the_password(
            code,
            &[
                &["doctor", "--store", store],
                &["records", "ls", "--store", store],
                &[&proxy[..], &["--store", store]].concat(),
            ],
        );
    }
}

#[test]
fn a_part_of_a_password_that_is_not_escaped_is_not_told_and_the_way_out_is() {
    for store in [
        "postgres://semel:secret@hunter2@127.0.0.1:1/semel",
        "postgres://semel:secret?hunter2@127.0.0.1:1/semel",
        "redis://semel:secret?hunter2@127.0.0.1:1",
        "redis://semel:hunter2",
    ] {
        for arguments in [&["doctor", "--store", store][..], &["records", "ls", "--store", store]] {
            keeps_the_password(2, &[arguments]);
            let (_, said) = run_in(tempdir().unwrap().path(), arguments);
            assert!(said.contains("%40") && !said.contains("secret"), "{store}: {said}");
        }
    }
}

#[test]
fn the_password_of_an_upstream_is_not_told() {
    keeps_the_password(
        2,
        &[
            &["proxy", "--upstream", "http://semel:hunter2@a:8000"],
            &["proxy", "--upstream", "https://semel:hunter2@a:8000"],
            &["proxy", "--upstream", "http://semel:hunter2@a:8000/path"],
        ],
    );
}

#[test]
fn a_file_that_is_another_programs_or_a_newer_ones_is_left_as_it_is() {
    let folder = tempdir().unwrap();
    let store = ["--store", "sqlite:semel.db", "--listen", "127.0.0.1:0"];
    let path = folder.path().join("semel.db");
    std::fs::write(&path, "no database\n".repeat(500)).unwrap();
    let before = contents(folder.path());
    let (exit, said) = run_in(folder.path(), &[&UPSTREAM[..], &store].concat());
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("no SQLite database") && said.contains("E0103"), "{said}");
    assert_eq!(contents(folder.path()), before);

    std::fs::remove_file(&path).unwrap();
    let file = Connection::open(&path).unwrap();
    file.execute_batch(
        "CREATE TABLE semel_meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
         INSERT INTO semel_meta VALUES ('schema', 99), ('counter', 0), ('secret', zeroblob(32));",
    )
    .unwrap();
    drop(file);
    let rows = || {
        let file = Connection::open(&path).unwrap();
        let all = "SELECT group_concat(name || quote(value)) FROM semel_meta";
        let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'";
        let text = file.query_row(all, (), |row| row.get::<_, String>(0)).unwrap();
        (text, file.query_row(tables, (), |row| row.get::<_, i64>(0)).unwrap())
    };
    let before = rows();
    let (exit, said) = run_in(folder.path(), &[&UPSTREAM[..], &store].concat());
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("schema 99") && said.contains("upgrade this program"), "{said}");
    assert_eq!(rows(), before, "a newer store was changed");
}

#[test]
fn every_number_that_a_message_carries_has_a_page() {
    for number in 101..=113 {
        let page = document(&format!("docs/errors/E0{number}.md"));
        assert!(page.starts_with(&format!("# E0{number}: ")), "{number}: {page}");
        for part in ["## What happened", "## Why", "## What to do"] {
            assert!(page.contains(part), "E0{number} lacks `{part}`");
        }
        assert!(page.contains("\n$ "), "E0{number} shows no command");
    }
}
