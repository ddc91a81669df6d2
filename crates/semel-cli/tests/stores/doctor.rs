//! What `semel doctor` says about servers: healthy ones, ones that forget, ones that are not there.

use std::net::TcpListener;
use std::time::Instant;

use semel_testkit::servers::{RedisSentinel, skips};
use serde_json::Value;

use super::calls::{ALL, call, call_fails};
use super::servers;
use super::support::logged::Logged;
use super::support::{PATIENCE, Site, proxy_command, until};

/// Exit code, the answer to "is it safe?", and what has an advice with it. Where only the machine
/// is busy it is asked again.
fn doctor(url: &str) -> (Option<i32>, bool, Vec<(String, String)>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look(url);
        let is_slow = seen.2.iter().any(|(_, advice)| advice.contains("busy"));
        if !is_slow || Instant::now() > deadline {
            return seen;
        }
    }
}

fn look(url: &str) -> (Option<i32>, bool, Vec<(String, String)>) {
    let (exit, said, complained) = call(&["doctor", "--json"], url);
    assert_eq!((said.lines().count(), complained.as_str()), (1, ""), "{said}");
    let told: Value = serde_json::from_str(&said).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = told["findings"].as_array().unwrap().iter();
    let advised = found.filter(|it| !it["advice"].is_null());
    let advised = advised.map(|it| (text(&it["what"]), text(&it["advice"]))).collect();
    (exit, told["safe"].as_bool().unwrap(), advised)
}

/// A server that keeps its promises; these lines are among what is said about it.
fn is_healthy(url: &str, lines: &[&str]) {
    Site::on(url).proxy_with(&[]).ask("k");
    assert_eq!(doctor(url), (Some(0), true, Vec::new()));
    let mut said = String::new();
    until("the machine is not too busy", || {
        said = call(&["doctor"], url).1;
        !said.contains("busy")
    });
    assert!(said.ends_with("the store is safe\n") && !said.contains("!!"), "{said}");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in lines.iter().chain(&["ok completed 1", "ok held 0"]) {
        assert!(said.lines().any(|it| words(it).starts_with(line)), "no `{line}` in {said}");
    }
    let listed = super::calls::call_ok(&["records", "ls", "--json"], url);
    assert_eq!(listed.lines().count(), 1, "the probe left a record: {listed}");
}

#[test]
fn a_healthy_postgresql_is_safe() {
    let Some(url) = servers::postgres("doctor_healthy") else { return };
    let schema = ["ok server PostgreSQL", "ok schema version 1 of 1", "ok role primary"];
    is_healthy(&url, &[&schema[..], &["ok fsync on", "ok synchronous_commit on"]].concat());
}

#[test]
fn a_healthy_redis_is_safe() {
    let Some(redis) = servers::redis() else { return };
    let lines = ["ok version Redis", "ok role master", "ok maxmemory-policy noeviction"];
    is_healthy(&redis.url(), &[&lines[..], &["ok append-only file yes, synced"]].concat());
}

#[test]
fn a_healthy_cluster_is_safe_and_every_node_is_looked_at() {
    let Some(cluster) = servers::redis_cluster() else { return };
    is_healthy(&cluster.url(), &["ok cluster ok"]);
    let (_, said, _) = call(&["doctor"], &cluster.url());
    for url in cluster.urls() {
        let node = url.trim_start_matches("redis://");
        assert!(said.contains(node), "no {node} in {said}");
    }
    cluster.ask(1, &["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]).unwrap();
    let (exit, _, advised) = doctor(&cluster.url());
    assert_eq!((exit, advised.len(), advised[0].0.as_str()), (Some(1), 1, "maxmemory-policy"));
}

#[test]
fn a_cluster_that_is_down_is_told_with_the_node_and_the_slots_that_are_missing() {
    let Some(mut cluster) = servers::redis_cluster() else { return };
    drop(Site::on(&cluster.url()).proxy_with(&[]));
    let gone = cluster.urls()[2].replace("redis://", "");
    cluster.kill_node(2);
    let missing = format!("slots 10922 to 16383, whose node {gone} is gone");
    until("the others know that a node is gone", || {
        let (exit, said, _) = call(&["doctor"], &cluster.url());
        exit == Some(1) && said.contains("!!  cluster") && said.contains(&missing)
    });
}

#[test]
fn a_postgresql_that_may_lose_commits_is_found_with_each_of_its_settings() {
    let careless = [("fsync", "off"), ("full_page_writes", "off"), ("synchronous_commit", "off")];
    let Some(server) = servers::own_postgres(&careless) else { return };
    let (exit, is_safe, advised) = doctor(&server.url());
    assert_eq!((exit, is_safe), (Some(1), false));
    let found: Vec<&str> = advised.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(found, careless.map(|(name, _)| name));
    assert!(advised[2].1.contains("loses answered completions"), "{advised:?}");
    let (_, said, _) = call(&["doctor"], &server.url());
    assert!(said.ends_with("the store needs attention\n"), "{said}");
    assert!(said.contains("\n!!  synchronous_commit "), "{said}");
}

#[test]
fn a_standby_is_found_and_the_primary_asked_for() {
    let Some(primary) = servers::own_postgres(&[]) else { return };
    let standby = primary.replica().unwrap();
    let (exit, is_safe, advised) = doctor(&standby.url());
    assert_eq!((exit, is_safe), (Some(1), false));
    let of = |what: &str| &advised.iter().find(|(it, _)| it == what).unwrap().1;
    assert!(of("role").contains("name the primary"), "{advised:?}");
    assert!(of("durable write").contains("read-only"), "{advised:?}");
}

/// The findings with a warning, and how a text for people ends.
fn warned(url: &str) -> (Vec<(String, String)>, String) {
    let told: Value = serde_json::from_str(&call(&["doctor", "--json"], url).1).unwrap();
    let found = told["findings"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let warned = found.filter(|it| !it["warning"].is_null());
    let warned = warned.map(|it| (text(&it["what"]), text(&it["warning"]))).collect();
    let (_, said, _) = call(&["doctor"], url);
    (warned, said.lines().last().unwrap().to_owned())
}

#[test]
fn replicas_that_no_commit_waits_for_are_a_warning() {
    let Some(primary) = servers::own_postgres(&[]) else { return };
    assert_eq!(warned(&primary.url()).0, []);
    let standby = primary.replica().unwrap();
    standby.catch_up(&primary).unwrap();
    assert_eq!(doctor(&primary.url()), (Some(0), true, Vec::new()));
    let (warned_of, end) = warned(&primary.url());
    assert_eq!((warned_of.len(), warned_of[0].0.as_str()), (1, "standbys"));
    assert!(warned_of[0].1.contains("synchronous_standby_names"), "{warned_of:?}");
    assert!(end.starts_with("the store is safe, but"), "{end}");
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'").unwrap();
    primary.sql("SELECT pg_reload_conf()").unwrap();
    until("commits wait for the standby", || warned(&primary.url()).0.is_empty());
    assert!(call(&["doctor"], &primary.url()).1.contains("1, commits wait for them"));
}

#[test]
fn a_failover_that_forgets_is_a_warning_on_redis() {
    if skips(RedisSentinel::missing()) {
        return;
    }
    let pair = RedisSentinel::start().unwrap();
    drop(Site::on(&pair.url()).proxy_with(&[]));
    for url in [&pair.url(), &pair.urls()[pair.primary()]] {
        assert_eq!(doctor(url), (Some(0), true, Vec::new()));
        let (warned_of, _) = warned(url);
        assert_eq!((warned_of.len(), warned_of[0].0.as_str()), (1, "replicas"));
        let told = &warned_of[0].1;
        assert!(told.contains("failover") && told.contains("`keyed`"), "{told}");
    }
}

#[test]
fn a_redis_that_evicts_is_found_and_no_proxy_starts_on_it() {
    let Some(redis) = servers::redis() else { return };
    let url = redis.url();
    let proxy = Site::on(&url).proxy_with(&[]);
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
    let (exit, is_safe, advised) = doctor(&url);
    assert_eq!((exit, is_safe, advised.len()), (Some(1), false, 1), "{advised:?}");
    let (what, advice) = &advised[0];
    assert_eq!(what, "maxmemory-policy");
    assert!(advice.contains("throws records away"), "{advice}");
    drop(proxy);
    call_fails(ALL[3], &url, 2, &["E0101", "`maxmemory-policy` is `allkeys-lru`", "noeviction"]);
    heal(&redis, advice);
    assert_eq!(doctor(&url), (Some(0), true, Vec::new()));
}

#[test]
fn a_url_may_accept_eviction_which_is_logged_and_still_found() {
    let Some(redis) = servers::redis_with(&[("maxmemory-policy", "allkeys-lru")]) else { return };
    call_fails(ALL[3], &redis.url(), 2, &["E0101", "`allow_eviction=true` in the store URL"]);
    let url = format!("{}?allow_eviction=true", redis.url());
    let site = Site::on(&url);
    let proxy = Logged::start(proxy_command(&site, &[]));
    let log = proxy.log();
    assert!(log.contains("WARN") && log.contains("may evict records"), "{log}");
    let (exit, is_safe, advised) = doctor(&url);
    assert_eq!((exit, is_safe, advised.len()), (Some(1), false, 1), "{advised:?}");
    assert_eq!(advised[0].0, "maxmemory-policy");
}

#[test]
fn a_redis_that_forgets_at_a_restart_is_found() {
    let Some(redis) = servers::redis_with(&[("appendonly", "no")]) else { return };
    let url = redis.url();
    drop(Site::on(&url).proxy_with(&[]));
    let (exit, is_safe, advised) = doctor(&url);
    assert_eq!((exit, is_safe, advised.len()), (Some(1), false, 1), "{advised:?}");
    assert_eq!(advised[0].0, "append-only file");
    heal(&redis, &advised[0].1);
    until("the file is written", || doctor(&url) == (Some(0), true, Vec::new()));
}

/// Does what the advice says.
fn heal(redis: &semel_testkit::servers::Redis, advice: &str) {
    let (_, command) = advice.split_once("CONFIG ").unwrap();
    let words: Vec<&str> = ["CONFIG"].into_iter().chain(command.split(' ')).collect();
    redis.ask(&words).unwrap();
}

#[test]
fn a_redis_without_records_is_told_and_not_made_ready() {
    let Some(redis) = servers::redis() else { return };
    let parts = ["no records with prefix `semel:`", "no program has used it yet"];
    for words in &ALL[1..3] {
        call_fails(words, &redis.url(), 1, &parts);
    }
    // The doctor tells the rest all the same.
    let (exit, said, _) = call(ALL[0], &redis.url());
    assert_eq!(exit, Some(1), "{said}");
    for part in parts.iter().chain(&["ok  maxmemory-policy", "!!  records", "needs attention"]) {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    assert_eq!(redis.ask(&["KEYS", "*"]).unwrap().list().len(), 0);
}

#[test]
fn a_redis_of_another_kind_than_the_url_says_is_told_with_the_right_scheme() {
    let (Some(cluster), Some(redis)) = (servers::redis_cluster(), servers::redis()) else { return };
    let as_cluster = redis.url().replace("redis://", "redis-cluster://");
    for words in [ALL[0], ALL[3]] {
        let node = &cluster.urls()[1];
        call_fails(words, node, 2, &["E0101", "a node of a cluster", "write redis-cluster://"]);
        call_fails(words, &as_cluster, 2, &["E0101", "in no cluster", "write redis://"]);
    }
}

#[test]
fn a_server_that_is_not_there_is_told_within_the_patience_of_the_store() {
    let once_taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = once_taken.local_addr().unwrap().port();
    drop(once_taken);
    let place = format!("127.0.0.1:{port}");
    std::thread::scope(|scope| {
        for front in ["postgres://semel:hunter2@", "redis://:hunter2@", "redis-cluster://:hunter2@"]
        {
            let database = if front.starts_with('p') { "/shop" } else { "" };
            let url = format!("{front}{place}{database}");
            // Each tries for seconds, so all of them at once.
            for words in [ALL[0], ALL[3]] {
                let (url, place) = (url.clone(), &place);
                scope.spawn(move || {
                    let said = call_fails(words, &url, 1, &["E0102", place]);
                    assert!(!said.contains("hunter2"), "{said}");
                });
            }
        }
    });
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let refused = |url: &str, parts: &[&str]| {
        for words in ALL {
            let said = call_fails(words, url, 1, &[&["E0102"], parts].concat());
            assert!(!said.contains("hunter2"), "{said}");
        }
    };
    if let Some(url) = servers::postgres("doctor_password") {
        let url = url.replace("semel:semel@", "semel:hunter2@");
        refused(&url, &["refuses the user or the password"]);
        let said = call_fails(&["migrate", "up"], &url, 1, &["E0102"]);
        assert!(!said.contains("hunter2"), "{said}");
    }
    if let Some(redis) = servers::redis_locked("correct-horse") {
        let right = redis.url();
        drop(Site::on(&right).proxy_with(&[]));
        assert_eq!(doctor(&right), (Some(0), true, Vec::new()));
        refused(&right.replace("correct-horse", "hunter2"), &["the login in the store URL"]);
    }
}
