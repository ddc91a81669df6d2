//! The tables of a PostgreSQL store: made, shown, and never by accident.

use serde_json::Value;

use super::calls::{ALL, call, call_fails, call_ok};
use super::servers;
use super::support::Site;

#[test]
fn tables_are_made_once_and_every_state_on_the_way_is_told() {
    let Some(url) = servers::bare_postgres("migrate_up") else { return };
    let (exit, said, _) = call(&["migrate", "status"], &url);
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains("1  records") && said.contains("missing"), "{said}");
    assert!(said.ends_with("run `semel migrate up`\n"), "{said}");
    let (exit, steps) = status(&url);
    assert_eq!((exit, &steps["up_to_date"]), (Some(1), &false.into()));
    assert_eq!(steps["steps"][0]["applied"], Value::Null);

    let made = call_ok(&["migrate", "up"], &url);
    assert!(made.starts_with("applied step 1: records\n"), "{made}");
    let (exit, steps) = status(&url);
    assert_eq!((exit, &steps["up_to_date"]), (Some(0), &true.into()));
    let applied = steps["steps"][0]["applied"].as_str().unwrap();
    assert!(applied.ends_with("Z by semel"), "{applied}");
    let said = call_ok(&["migrate", "status"], &url);
    assert!(said.contains(applied) && said.ends_with("the tables are up to date\n"), "{said}");

    let again = call_ok(&["migrate", "up"], &url);
    assert_eq!(again, "nothing to do: the tables are up to date\n");
    assert_eq!(call_ok(&["migrate", "up", "--dry-run"], &url), "-- nothing to do\n");
}

/// Exit code and output of `migrate status --json`.
fn status(url: &str) -> (Option<i32>, Value) {
    let (exit, said, complained) = call(&["migrate", "status", "--json"], url);
    assert_eq!((said.lines().count(), complained.as_str()), (1, ""), "{said}");
    (exit, serde_json::from_str(&said).unwrap())
}

#[test]
fn a_dry_run_changes_nothing_and_prints_what_psql_can_run_instead() {
    let Some(server) = servers::shared_postgres() else { return };
    let url = format!("{}?schema=migrate_dry", server.url());
    let script = call_ok(&["migrate", "up", "--dry-run"], &url);
    let is_there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'migrate_dry'";
    assert_eq!(server.sql(is_there).unwrap(), "0");
    server.sql(&script).unwrap();
    assert_eq!(call_ok(&["migrate", "up"], &url), "nothing to do: the tables are up to date\n");
    let site = Site::on(&url);
    assert_eq!(site.proxy_with(&[]).ask("k").status, 201);
    assert!(site.proxy_with(&[]).ask("k").is_replayed());
}

#[test]
fn several_programs_that_migrate_at_once_make_one_set_of_tables() {
    let Some(url) = servers::bare_postgres("migrate_rivals") else { return };
    let said = std::thread::scope(|scope| {
        let rivals: Vec<_> =
            (0..4).map(|_| scope.spawn(|| call_ok(&["migrate", "up"], &url))).collect();
        rivals.into_iter().map(|rival| rival.join().unwrap()).collect::<Vec<_>>()
    });
    let applied = said.iter().filter(|said| said.starts_with("applied")).count();
    assert_eq!(applied, 1, "{said:?}");
    assert_eq!(status(&url).0, Some(0));
}

#[test]
fn without_tables_every_command_names_the_one_that_makes_them() {
    let Some(url) = servers::bare_postgres("migrate_missing") else { return };
    for words in ALL {
        call_fails(words, &url, 1, &["no tables yet", "`migrate_missing`", "semel migrate up"]);
    }
}

#[test]
fn tables_of_a_newer_program_are_left_alone() {
    let Some(server) = servers::shared_postgres() else { return };
    let url = format!("{}?schema=migrate_newer", server.url());
    call_ok(&["migrate", "up"], &url);
    let newer = "INSERT INTO migrate_newer.migration (version, name) VALUES (99, 'later')";
    server.sql(newer).unwrap();
    for words in [&["migrate", "up"][..], &["migrate", "status"], &["migrate", "up", "--dry-run"]]
        .iter()
        .chain(&ALL)
    {
        call_fails(words, &url, 1, &["upgrade"]);
    }
}

#[test]
fn stores_without_tables_have_nothing_to_migrate() {
    for url in ["sqlite:semel.db", "redis://127.0.0.1:1", "redis-cluster://127.0.0.1:1", "memory:"]
    {
        for words in
            [&["migrate", "up"][..], &["migrate", "status"], &["migrate", "up", "--dry-run"]]
        {
            call_fails(words, url, 2, &["only a PostgreSQL store", "help: SQLite and Redis"]);
        }
    }
    call_fails(&["migrate", "up"], "mysql://semel:hunter2@db/x", 2, &["`mysql:` is not known"]);
    call_fails(&["migrate"], "postgres://db/x", 2, &["Usage: semel migrate"]);
}
