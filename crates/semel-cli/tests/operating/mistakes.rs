//! Wrong calls: the thing, the rule and the way out; the right exit code; nothing changed.

use std::net::TcpListener;

use super::support::semel;

/// Runs `semel` in an empty folder and looks at how it refuses.
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = semel().args(arguments).current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{arguments:?}: no `{part}` in {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "{arguments:?} left something behind");
}

#[test]
fn a_wrong_word_is_answered_with_the_right_one() {
    refused(&["prxy"], 2, &["prxy", "'proxy'"]);
    refused(&["proxy", "--upstraem", "http://a"], 2, &["--upstraem", "'--upstream'"]);
    refused(&["records", "list"], 2, &["list"]);
    refused(&["proxy"], 2, &["--upstream"]);
    refused(&["proxy", "--upstream", "http://a", "--on-unknown", "ignore"], 2, &["hold, retry"]);
    refused(&["proxy", "--upstream", "http://a", "--lease", "1 week"], 2, &["`30s`"]);
    refused(&["proxy", "--upstream", "http://a", "--status", "5xx=store"], 2, &["500-599=store"]);
}

#[test]
fn a_wrong_upstream_is_named_with_its_rule() {
    let upstream = |url: &str, part: &str| {
        refused(&["proxy", "--upstream", url], 2, &[url, part, "http://HOST:PORT", "E0101"]);
    };
    upstream("https://app", "https");
    upstream("app:8000", "http://");
    upstream("http://app/api", "has a path");
    upstream("ftp://app", "http://");
}

#[test]
fn a_wrong_store_is_named_with_its_rule_and_no_password() {
    let proxy = |store: &str, code: i32, parts: &[&str]| {
        refused(&["proxy", "--upstream", "http://127.0.0.1:1", "--store", store], code, parts);
    };
    proxy("sqlite:/no/such/folder/semel.db", 1, &["/no/such/folder", "folder must exist", "E0102"]);
    proxy("semel.db", 2, &["no scheme", "use sqlite:PATH"]);
    proxy("mysql://root:hunter2@db", 2, &["`mysql:`", "sqlite:PATH"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "no database\n".repeat(500)).unwrap();
    proxy(&format!("sqlite:{}", path.display()), 1, &["no SQLite database", "E0103"]);
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("no database"));
    let output = semel()
        .args(["proxy", "--upstream", "http://127.0.0.1:1", "--store", "mysql://root:hunter2@db"])
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
}

#[test]
fn looking_at_a_store_that_is_not_there_makes_none() {
    for command in [&["records", "ls"][..], &["records", "get", "k"], &["doctor"]] {
        refused(command, 1, &["there is no store at ", "semel.db", "E0102"]);
    }
}

#[test]
fn a_port_in_use_is_told_as_that() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = semel()
        .args(["proxy", "--upstream", "http://127.0.0.1:1", "--store", "memory:"])
        .args(["--listen", &address])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&address) && said.contains("another program uses the port"), "{said}");
}

#[test]
fn every_flag_that_scripts_rely_on_is_there() {
    let help = |arguments: &[&str]| {
        String::from_utf8(semel().args(arguments).output().unwrap().stdout).unwrap()
    };
    let proxy = help(&["proxy", "--help"]);
    for flag in [
        "--upstream",
        "--listen",
        "--store",
        "--admin",
        "--on-unknown",
        "--wait",
        "--lease",
        "--retention",
        "--key-header",
        "--require-key",
    ] {
        assert!(proxy.contains(flag), "no {flag}");
    }
    let records = help(&["records", "--help"]);
    for command in ["ls", "get", "release", "complete", "purge", "--store"] {
        assert!(records.contains(command), "no {command}");
    }
    assert!(help(&["completions", "bash"]).contains("_semel"));
    assert!(help(&["man", "proxy"]).contains(".TH"));
    let page = help(&["man", "records", "complete"]);
    assert!(page.contains(".TH") && page.contains("\\-\\-reason"), "{page}");
    refused(&["man", "records", "list"], 2, &["no command `records list`"]);
    let commands = help(&["--help"]);
    for command in ["demo", "proxy", "records", "doctor", "check-config", "completions", "man"] {
        assert!(commands.contains(&format!("\n  {command} ")), "no {command}");
    }
}
