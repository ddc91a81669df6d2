//! The first thing a new user runs: it must be true, and what it prints must work.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(clippy::disallowed_methods, reason = "real processes are watched with the real clock")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn demo(folder: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    command.arg("demo").args(arguments).arg("--keep").arg(folder).current_dir(folder);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_demo_ends_with_one_object_that_tells_what_the_services_counted() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), &["--json", "--keys", "5"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let last: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["distinct_keys"], 5);
    assert_eq!(last["with_semel"]["orders"], 5);
    assert!(last["without_semel"]["orders"].as_u64().unwrap() > 5, "no duplicates: {last}");
    assert!(last["with_semel"]["replays"].as_u64().unwrap() > 0, "{last}");
    assert_eq!(last["with_semel"]["unknowns"], 2, "{last}");
    // The figures are those of the services' own tables.
    for (file, side) in [("without-orders.db", "without_semel"), ("behind-orders.db", "with_semel")]
    {
        let orders = rusqlite::Connection::open(folder.path().join(file)).unwrap();
        let rows: i64 =
            orders.query_row("SELECT count(*) FROM orders", (), |row| row.get(0)).unwrap();
        assert_eq!(last[side]["orders"], rows, "{side}");
        let keys: i64 = orders
            .query_row("SELECT count(DISTINCT key) FROM orders", (), |row| row.get(0))
            .unwrap();
        assert_eq!((&last[side]["distinct_keys"], keys), (&5.into(), 5), "{side}");
    }
}

#[test]
fn the_three_commands_that_the_demo_prints_work_as_printed() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), &["--keys", "4"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    assert!(!stdout.contains('\x1b'), "escape sequences in a pipe");
    let commands: Vec<&str> = stdout.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let [ls, complete, proxy] = commands[..] else { panic!("not three commands: {stdout}") };
    let shell = |command: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {command}")]).current_dir(folder.path());
        shell
    };
    let listed = text(&shell(ls).output().unwrap().stdout);
    assert!(listed.contains("held") && listed.contains("reported"), "{listed}");
    let completed = shell(complete).output().unwrap();
    assert!(completed.status.success(), "{}", text(&completed.stderr));
    assert_eq!(text(&shell(ls).output().unwrap().stdout).trim(), "no records");
    // A free port, because the test's machine may use 8080.
    let mut proxy = shell(&format!("{proxy} --listen 127.0.0.1:0"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on http://127.0.0.1:"), "{line}");
    kill(Pid::from_raw(i32::try_from(proxy.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(proxy.wait().unwrap().success());
}

#[test]
fn a_folder_with_a_demo_in_it_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("semel.db"), "mine").unwrap();
    let output = demo(folder.path(), &["--keys", "4"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("choose an empty folder"), "{}", text(&output.stderr));
    assert_eq!(std::fs::read_to_string(folder.path().join("semel.db")).unwrap(), "mine");
}

/// The processes that run below this one; those that are dead and not yet buried do not count.
fn running_below(parent: u32) -> Vec<String> {
    let stats = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let fields = stats.filter_map(|stat| {
        // The name stands in brackets and may hold anything.
        let (start, rest) = stat.rsplit_once(") ")?;
        let (pid, mut rest) = (start.split(' ').next()?.to_owned(), rest.split(' '));
        let (state, above) = (rest.next()?, rest.next()?);
        (state != "Z" && above == parent.to_string()).then_some(pid)
    });
    fields.collect()
}

#[test]
fn a_demo_that_is_stopped_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_semel"))
            .args(["demo", "--keep"])
            .arg(folder.path().join(signal.as_str()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut children = Vec::new();
        while children.len() < 3 {
            assert!(Instant::now() < deadline, "the demo did not start its processes");
            children = running_below(demo.id());
        }
        kill(Pid::from_raw(i32::try_from(demo.id()).unwrap()), signal).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(128 + signal as i32));
        for child in children {
            let name = std::fs::read_to_string(format!("/proc/{child}/cmdline"));
            assert!(name.is_err(), "{child} runs on after {signal}: {name:?}");
        }
    }
}

#[test]
fn commands_are_printed_as_a_shell_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["demo", "--keys", "4", "--keep", "it's $HOME"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    let output = command.args(arguments).current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let ls = stdout.lines().find_map(|line| line.strip_prefix("  ")).unwrap();
    let listed = Command::new("sh").args(["-c", ls]).current_dir(folder.path()).output().unwrap();
    assert!(text(&listed.stdout).contains("held"), "{ls}: {}", text(&listed.stderr));
}

#[test]
fn what_a_killed_demo_leaves_behind_can_be_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Command::new(env!("CARGO_BIN_EXE_semel"))
        .args(["demo", "--keep"])
        .arg(folder.path().join("kept"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut children = Vec::new();
    while children.len() < 3 {
        assert!(Instant::now() < deadline, "the demo did not start its processes");
        children = running_below(demo.id());
    }
    // They are stopped by number, so that a failure leaves none of them behind.
    let pids: Vec<Pid> = children.iter().map(|it| Pid::from_raw(it.parse().unwrap())).collect();
    demo.kill().unwrap();
    demo.wait().unwrap();
    let is_gone = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    pids.iter().for_each(|pid| kill(*pid, Signal::SIGTERM).unwrap_or_default());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !pids.iter().all(is_gone) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left: Vec<&Pid> = pids.iter().filter(|pid| !is_gone(pid)).collect();
    left.iter().for_each(|pid| kill(**pid, Signal::SIGKILL).unwrap_or_default());
    assert!(left.is_empty(), "deaf to SIGTERM: {left:?}");
}

#[test]
fn a_short_name_is_printed_only_if_it_finds_this_program() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let [mine, other] = ["mine", "other"].map(|name| folder.path().join(name));
    std::fs::create_dir_all(&mine).unwrap();
    std::fs::create_dir_all(&other).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_semel"), mine.join("semel")).unwrap();
    std::fs::write(other.join("semel"), "#!/bin/sh\n").unwrap();
    let printed = |is_runnable: bool, keep: &str| {
        let mode = if is_runnable { 0o755 } else { 0o644 };
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(other.join("semel"), permissions).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_semel"))
            .args(["demo", "--keys", "4", "--keep", keep])
            .env("PATH", std::env::join_paths([&other, &mine]).unwrap())
            .current_dir(folder.path())
            .output()
            .unwrap();
        let stdout = text(&output.stdout);
        stdout.lines().find_map(|line| line.strip_prefix("  ")).unwrap().to_owned()
    };
    // A shell passes over a file that it cannot run.
    assert!(printed(false, "one").starts_with("semel records ls "));
    assert!(!printed(true, "two").starts_with("semel "));
}
