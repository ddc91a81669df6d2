//! A store for one test: tables of its own on a PostgreSQL that all share, or a Redis of its own.

use std::sync::OnceLock;

use semel_testkit::servers::{Postgres, Redis, RedisCluster, skips};

use super::support::semel;

/// For proxies whose store must answer, however busy the machine is; shorter than a lease.
pub(crate) const PATIENT: [&str; 2] = ["--store-patience", "25s"];

/// The URL of a schema with this name and the store's tables in it; none where the test skips.
pub(crate) fn postgres(schema: &str) -> Option<String> {
    let url = bare_postgres(schema)?;
    migrate(&url);
    Some(url)
}

/// The same before its tables are made.
pub(crate) fn bare_postgres(schema: &str) -> Option<String> {
    shared_postgres().map(|server| format!("{}?schema={schema}", server.url()))
}

/// The PostgreSQL of all tests that do not break it. It takes seconds to make.
pub(crate) fn shared_postgres() -> Option<&'static Postgres> {
    // Nobody drops it: it goes with this process.
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    // Every test has two proxies with a pool each, and on a large machine they all run at once.
    let start = || Postgres::with(&[("max_connections", "1000")]).unwrap();
    (!skips(Postgres::missing())).then(|| SERVER.get_or_init(start))
}

/// A PostgreSQL that the test may kill, with the store's tables.
pub(crate) fn own_postgres(settings: &[(&str, &str)]) -> Option<Postgres> {
    if skips(Postgres::missing()) {
        return None;
    }
    let server = Postgres::with(settings).unwrap();
    migrate(&server.url());
    Some(server)
}

pub(crate) fn redis() -> Option<Redis> {
    redis_with(&[])
}

pub(crate) fn redis_with(settings: &[(&str, &str)]) -> Option<Redis> {
    (!skips(Redis::missing())).then(|| Redis::with(settings).unwrap())
}

/// One that wants this password.
pub(crate) fn redis_locked(password: &str) -> Option<Redis> {
    (!skips(Redis::missing())).then(|| Redis::with_password(password).unwrap())
}

pub(crate) fn redis_cluster() -> Option<RedisCluster> {
    (!skips(RedisCluster::missing())).then(|| RedisCluster::start().unwrap())
}

fn migrate(url: &str) {
    let output = semel().args(["migrate", "up", "--store", url]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
