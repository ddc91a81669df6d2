//! The servers that the stores' tests start. Where one is missing, its tests skip inside
//! `cargo-test`; this suite says so at the end, where it is read.

use semel_testkit::servers::{PgBouncer, Postgres, Redis, RedisCluster, RedisSentinel};

use super::Verdict;

pub(super) fn present() -> Verdict {
    let missing = [
        Postgres::missing(),
        PgBouncer::missing(),
        Redis::missing(),
        RedisCluster::missing(),
        RedisSentinel::missing(),
    ];
    let mut missing: Vec<_> = missing.into_iter().flatten().collect();
    missing.dedup_by_key(|it| it.program);
    if missing.is_empty() {
        return Verdict::Passed;
    }
    let names: Vec<_> = missing.iter().map(|it| it.program).collect();
    let mut ways: Vec<_> = missing.iter().map(|it| it.way).collect();
    ways.dedup();
    let why = format!("not on PATH: {}; their stores' tests were left out", names.join(", "));
    Verdict::Skipped { why, way: ways.join("; ") }
}
