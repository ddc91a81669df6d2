//! Settings that name these stores, checked without a server.

use super::calls::call_fails;
use super::support::{contents, run_in};

/// What `check-config` says of a file that names this store.
fn checked(url: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("upstream = \"http://127.0.0.1:1\"\nstore = \"{url}\"\n");
    std::fs::write(folder.path().join("semel.toml"), text).unwrap();
    let before = contents(folder.path());
    let said = run_in(folder.path(), &["check-config", "semel.toml"]);
    assert_eq!(contents(folder.path()), before, "{url} left something behind");
    said
}

#[test]
fn urls_of_all_stores_are_fine_without_their_servers() {
    for url in [
        "postgres://semel:hunter2@db.internal/shop",
        "postgresql://semel:hunter2@a:5432,b:5432/shop?target_session_attrs=read-write",
        "postgres://semel:hunter2@db/shop?schema=semel_2&pool=16&pooler=transaction",
        "redis://cache.internal",
        "redis://:hunter2@cache.internal:6380/2",
        "rediss://semel:hunter2@cache.internal",
        "redis-cluster://a:1,b:2,c:3?patience=700ms&response_timeout=1s",
        "redis://cache.internal?prefix=shop:&allow_eviction=true",
        "redis-sentinel://:hunter2@a,b,c/main",
    ] {
        assert_eq!(checked(url), (Some(0), "semel.toml is fine\n".to_owned()), "{url}");
    }
}

#[test]
fn a_url_that_breaks_a_rule_is_refused_with_the_rule_and_without_its_password() {
    for (url, rule) in [
        ("postgres://semel:hunter2@db", "names no database"),
        ("postgres://semel:hunter2@db/shop?pool=1", "a number from 2 to 1000"),
        ("postgres://semel:hunter2@db/shop?pooler=session", "none or transaction"),
        ("postgres://semel:hunter2@db/shop?schema=a-b", "breaks the rule"),
        ("redis://:hunter2@a,b", "redis-cluster://"),
        ("redis://:hunter2@a/first", "is no number"),
        ("redis-cluster://:hunter2@a/1", "database 0"),
        ("redis://:hunter2@a?prefix=a*b", "1 to 64"),
        ("redis://:hunter2@a?patience=soon", "`patience`"),
        ("redis-sentinel://:hunter2@a", "mymaster"),
        ("mongodb://semel:hunter2@db", "`mongodb:` is not known"),
    ] {
        let (exit, said) = checked(url);
        assert_eq!(exit, Some(2), "{url}: {said}");
        assert!(said.contains(rule), "{url}: no `{rule}` in {said}");
        let typed = call_fails(&["doctor"], url, 2, &[rule]);
        for said in [said, typed] {
            assert!(!said.contains("hunter2"), "a password is told: {said}");
        }
    }
}
