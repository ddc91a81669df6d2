//! The servers that tests start. Where one is missing, its tests skip inside `cargo-test`; this
//! suite says so in the summary, where it is read.
//!
//! It comes before `cargo-test` because it also fetches Kafka, which should not happen inside
//! whichever test is the first to want it.

use semel_testkit::servers::{
    Kafka, KafkaVersion, Missing, PgBouncer, Postgres, Redis, RedisCluster, RedisSentinel,
};

use super::Verdict;

pub(super) fn present() -> Verdict {
    let kafka = [KafkaVersion::V4_3, KafkaVersion::V3_9];
    for version in kafka.into_iter().filter(|version| version.missing().is_none()) {
        if let Err(error) = version.fetch() {
            return Verdict::Failed(format!("{error}; let Maven reach its repository"));
        }
    }
    let missing = [
        Postgres::missing(),
        PgBouncer::missing(),
        Redis::missing(),
        RedisCluster::missing(),
        RedisSentinel::missing(),
        Kafka::missing(),
        KafkaVersion::V3_9.missing(),
    ];
    verdict(missing.into_iter().flatten().collect())
}

fn verdict(mut missing: Vec<Missing>) -> Verdict {
    missing.dedup_by_key(|it| it.program);
    if missing.is_empty() {
        return Verdict::Passed;
    }
    let names: Vec<_> = missing.iter().map(|it| it.program).collect();
    let mut ways: Vec<_> = missing.iter().map(|it| it.way).collect();
    ways.dedup();
    let why = format!("not on PATH: {}; their tests were left out", names.join(", "));
    Verdict::Skipped { why, way: ways.join("; ") }
}
