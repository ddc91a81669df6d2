//! Stores that break while the proxy runs.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use super::support::{Ask, Site};

#[test]
fn a_damaged_or_newer_record_is_refused_alone_and_runs_nothing() {
    let site = Site::new();
    let proxy = site.proxy_with(&[]);
    for key in ["damaged", "newer", "good"] {
        proxy.ask(key);
    }
    let file = Connection::open(site.store()).unwrap();
    file.execute("UPDATE semel_record SET outcome = x'00' WHERE key = 'damaged'", ()).unwrap();
    let newer = "UPDATE semel_record SET outcome = substr(outcome, 1, 4) || x'09' || \
        substr(outcome, 6) WHERE key = 'newer'";
    file.execute(newer, ()).unwrap();
    for key in ["damaged", "newer"] {
        let answer = proxy.ask(key);
        assert_eq!(answer.status, 500, "{answer:?}");
        assert!(answer.is("record-unreadable"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), None);
        assert_eq!(site.upstream.effects(key), 1, "{key} ran again");
        let shown = site.records(&["get", key]);
        assert_eq!(shown.status.code(), Some(1));
    }
    assert!(proxy.ask("good").is_replayed());
    let rows: i64 =
        file.query_row("SELECT count(*) FROM semel_record", (), |row| row.get(0)).unwrap();
    assert_eq!(rows, 3, "a damaged record was deleted");
}

#[test]
fn a_newer_schema_is_refused_at_the_start() {
    let site = Site::new();
    drop(site.proxy_with(&[]));
    let file = Connection::open(site.store()).unwrap();
    file.execute("UPDATE semel_meta SET value = 99 WHERE name = 'schema'", ()).unwrap();
    let output = site.records(&["ls"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("schema 99") && said.contains("upgrade this program"), "{said}");
}

#[test]
fn a_store_that_others_may_read_is_found_with_the_command_that_shuts_them_out() {
    let site = Site::new();
    site.proxy_with(&[]).ask("k");
    let store = site.store();
    let doctor = || {
        let url = super::support::url(&store);
        let output = super::support::semel().args(["doctor", "--store", &url]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    // As the proxy makes it.
    let (code, said) = doctor();
    assert_eq!(code, Some(0), "{said}");
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = doctor();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("!!  permissions          0644"), "{said}");
    let (_, advice) = said.split_once("shut others out: ").unwrap();
    let advice = advice.lines().next().unwrap();
    assert!(Command::new("sh").args(["-c", advice]).status().unwrap().success(), "{advice}");
    let (code, said) = doctor();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ok  permissions          0640"), "{said}");
}

#[test]
fn a_store_that_is_locked_refuses_keyed_requests_and_goes_on_afterwards() {
    let site = Site::new();
    let proxy = site.proxy_with(&["--lease", "1s"]);
    proxy.ask("before");
    let file = Connection::open(site.store()).unwrap();
    file.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = proxy.ask("during");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.is("store-unavailable") && answer.header("retry-after").is_some());
    assert_eq!(site.upstream.effects("during"), 0, "it ran without a claim");
    let mut unkeyed = Ask::order("x");
    unkeyed.fields.clear();
    assert_eq!(proxy.ask_for(&unkeyed).status, 201, "requests without a key need no store");
    file.execute_batch("ROLLBACK").unwrap();
    assert_eq!(proxy.ask("during").status, 201);
    assert!(proxy.ask("before").is_replayed());
}

#[test]
fn a_full_disk_runs_nothing_twice_and_heals_by_itself() {
    let mount = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(mount.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        // Past the capture of the test harness, which hides what a passing test prints.
        let skipped =
            b"SKIPPED a_full_disk_runs_nothing_twice: mounting a small tmpfs needs root\n";
        std::io::stderr().write_all(skipped).unwrap();
        assert!(std::env::var_os("SEMEL_TEST_REQUIRE_ALL").is_none(), "nothing may be skipped");
        return;
    }
    let _unmount = Unmount(mount.path());
    let site = Site::new();
    let store = super::support::url(&mount.path().join("semel.db"));
    let flags = ["--store", &store, "--lease", "1s", "--store-patience", "100ms"];
    let proxy = site.proxy_with(&[&flags[..], &["--admin", "127.0.0.1:0"]].concat());
    let admin = proxy.admin();
    assert_eq!(proxy.ask("before").status, 201);
    let ballast = mount.path().join("ballast");
    // Fills what is left and fails at the end: that is the point.
    drop(std::fs::write(&ballast, vec![0; 4 << 20]));
    // Some claims may still fit where no outcome fits any more: their effect is unknown then.
    let answers: Vec<_> = (0..20).map(|it| (it, proxy.ask(&format!("k{it}")))).collect();
    let refused = answers.iter().filter(|(_, answer)| answer.status != 201);
    assert!(refused.clone().count() > 0, "the disk never got full");
    for (it, answer) in refused {
        let key = format!("k{it}");
        if answer.is("store-unavailable") {
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
            assert_eq!(site.upstream.effects(&key), 0, "{key} ran without a claim");
        } else {
            // Only what has run can be unknown.
            assert!(answer.is("outcome-unknown"), "{answer:?}");
            assert_eq!(site.upstream.effects(&key), 1, "{key} is unknown and did not run");
        }
    }
    let ready = || super::support::post(admin, &Ask::get("/ready")).unwrap().status;
    assert_eq!(ready(), 503, "a store that cannot be written is not ready");
    std::fs::remove_file(&ballast).unwrap();
    for (it, answer) in &answers {
        let key = format!("k{it}");
        let again = proxy.ask_until_told(&key);
        match answer.status {
            201 => assert!(again.is_replayed() && again.body == answer.body, "{key} was lost"),
            _ => assert!(again.status == 201 || again.is("outcome-unknown"), "{key}: {again:?}"),
        }
        assert!(site.upstream.effects(&key) <= 1, "{key} took effect twice");
    }
    assert_eq!(ready(), 200);
    assert!(proxy.ask("before").is_replayed());
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0).status());
    }
}
