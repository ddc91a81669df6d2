//! A primary that Sentinel replaces.

use std::time::Duration;

use semel::{ErrorKind, Store};
use semel_stores::redis::RedisOptions;
use semel_testkit::servers::{RedisSentinel, skips};

use super::support::{Place, acquire, answer, block_on, completion, finish, raw};

async fn place_on(pair: &RedisSentinel) -> Place {
    let nodes = pair.urls();
    let nodes: Vec<_> = nodes.iter().map(String::as_str).collect();
    let options = RedisOptions::default()
        .response_timeout(Duration::from_millis(500))
        .patience(Duration::from_secs(60));
    Place::at(&pair.url(), &nodes, options).await
}

/// Waits until the replica has everything.
async fn replicated(pair: &RedisSentinel) {
    let mut connection = raw(&pair.urls()[pair.primary()]).await;
    // `WAIT` waits for what its own connection wrote, and so for all before it.
    let () = redis::cmd("SET").arg("mark").arg(1).query_async(&mut connection).await.unwrap();
    let mut command = redis::cmd("WAIT");
    let many: i64 = command.arg(1).arg(0).query_async(&mut connection).await.unwrap();
    assert_eq!(many, 1);
}

#[test]
fn the_store_follows_a_failover_without_a_restart() {
    block_on(async {
        if skips(RedisSentinel::missing()) {
            return;
        }
        let mut pair = RedisSentinel::start().unwrap();
        let place = place_on(&pair).await;
        let store = place.redis();
        finish(&*store, "before", "done").await;
        let before = acquire(&*store, "flying").await;
        replicated(&pair).await;
        pair.kill_primary();
        pair.wait_for_promotion().unwrap();
        assert_eq!(answer(&*store, "before").await, "done");
        store.complete(&completion("flying", before, "x")).await.unwrap();
        let after = acquire(&*store, "after").await;
        assert!(after.counter > before.counter);
    });
}

#[test]
fn a_primary_that_was_replaced_while_it_hung_is_left() {
    block_on(async {
        if skips(RedisSentinel::missing()) {
            return;
        }
        let mut pair = RedisSentinel::start().unwrap();
        let place = place_on(&pair).await;
        let store = place.redis();
        finish(&*store, "before", "done").await;
        replicated(&pair).await;
        pair.freeze_primary();
        pair.wait_for_promotion().unwrap();
        pair.thaw();
        // The old one becomes a replica sooner or later, and then refuses.
        let old = 1 - pair.primary();
        let next = pair.urls()[pair.primary()].clone();
        let port = next.rsplit(':').next().unwrap();
        pair.ask(old, &["REPLICAOF", "127.0.0.1", port]).unwrap();
        acquire(&*store, "after").await;
        assert_eq!(answer(&*store, "before").await, "done");
        let facts = store.facts().await.unwrap();
        assert_eq!(facts.nodes[0].role, "master");
    });
}

/// Replication is asynchronous: what the documentation says may be lost is lost, and the fence
/// still holds.
#[test]
fn a_claim_that_a_failover_forgot_cannot_complete() {
    block_on(async {
        if skips(RedisSentinel::missing()) {
            return;
        }
        let mut pair = RedisSentinel::start().unwrap();
        let place = place_on(&pair).await;
        let store = place.redis();
        finish(&*store, "before", "done").await;
        replicated(&pair).await;
        pair.pause_replication().unwrap();
        let forgotten = acquire(&*store, "k").await;
        pair.kill_primary();
        pair.wait_for_promotion().unwrap();
        let winner = acquire(&*store, "k").await;
        assert!(winner.counter > forgotten.counter, "the clock keeps the counter rising");
        let error = store.complete(&completion("k", forgotten, "late")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClaimLost);
        store.complete(&completion("k", winner, "won")).await.unwrap();
        assert_eq!(answer(&*store, "k").await, "won");
    });
}

#[test]
fn a_name_that_sentinel_does_not_know_is_named() {
    block_on(async {
        if skips(RedisSentinel::missing()) {
            return;
        }
        let pair = RedisSentinel::start().unwrap();
        let url = pair.url().replace(pair.name(), "nobody");
        let options = RedisOptions::default().patience(Duration::ZERO);
        let error = options.connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("does not know `nobody`"), "{error}");
    });
}
