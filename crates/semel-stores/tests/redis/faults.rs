//! Servers that crash, hang and come back, and answers that are lost on the way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use semel::store::{Release, ReleaseVerdict, Renewal};
use semel::{Clock, ErrorKind, Inspect, State, Step, Store, SystemClock};
use semel_stores::redis::RedisOptions;
use semel_testkit::FaultProxy;
use semel_testkit::servers::{Redis, skips};

use super::support::{
    Place, acquire, answer, block_on, completion, fence_of, finish, id, request, url,
};

/// The shared server behind a proxy.
async fn behind_a_proxy(options: RedisOptions) -> Option<(FaultProxy, Place)> {
    let direct = url()?;
    let server: SocketAddr = direct.trim_start_matches("redis://").parse().unwrap();
    let proxy = FaultProxy::start(server).unwrap();
    let place = Place::at(&proxy.url(&direct), &[&direct], options).await;
    // The scripts are known afterwards, so that each operation is one request and one reply.
    let store = place.redis();
    let fence = acquire(&*store, "warm").await;
    store.renew(&renewal("warm", fence, None)).await.unwrap();
    store.renew(&renewal("warm", fence, Some("s"))).await.unwrap();
    store.complete(&completion("warm", fence, "x")).await.unwrap();
    let fence = acquire(&*store, "warm-2").await;
    let release = Release { id: id("warm-2"), fence, verdict: ReleaseVerdict::NotApplied };
    store.release(&release).await.unwrap();
    Some((proxy, place))
}

fn renewal(key: &str, fence: semel::Fence, step: Option<&str>) -> Renewal {
    let step = step.map(|name| Step { name: name.to_owned(), result: bytes::Bytes::new() });
    Renewal { id: id(key), fence, lease: Duration::from_secs(30), step }
}

#[test]
fn a_claim_whose_reply_is_lost_is_sent_again_and_is_one_claim() {
    block_on(async {
        let Some((proxy, place)) = behind_a_proxy(RedisOptions::default()).await else { return };
        let store = place.redis();
        let request = request("k");
        proxy.lose_reply(0);
        let fence = fence_of(store.claim(&request).await.unwrap());
        assert_eq!(fence.nonce, request.nonce);
        let record = store.get(&id("k")).await.unwrap().unwrap();
        assert_eq!((record.fence, record.attempts), (fence, 1));
    });
}

#[test]
fn writes_whose_replies_are_lost_are_sent_again_and_happen_once() {
    block_on(async {
        let Some((proxy, place)) = behind_a_proxy(RedisOptions::default()).await else { return };
        let store = place.redis();

        let fence = acquire(&*store, "k").await;
        proxy.lose_reply(0);
        store.renew(&renewal("k", fence, None)).await.unwrap();
        for passing in [0, 1] {
            proxy.lose_reply(passing);
            store.renew(&renewal("k", fence, Some("step"))).await.unwrap();
        }
        assert_eq!(store.get(&id("k")).await.unwrap().unwrap().steps.len(), 1);
        proxy.lose_reply(0);
        store.complete(&completion("k", fence, "done")).await.unwrap();
        assert_eq!(answer(&*store, "k").await, "done");

        for (key, verdict, passing) in [
            ("not-applied", ReleaseVerdict::NotApplied, 0),
            ("unknown", ReleaseVerdict::Unknown("x".into()), 1),
        ] {
            let fence = acquire(&*store, key).await;
            proxy.lose_reply(passing);
            store.release(&Release { id: id(key), fence, verdict }).await.unwrap();
        }
        assert_eq!(store.get(&id("not-applied")).await.unwrap(), None);
        let record = store.get(&id("unknown")).await.unwrap().unwrap();
        assert!(matches!(record.state, State::Interrupted { .. }), "{record:?}");
    });
}

#[test]
fn a_takeover_whose_reply_is_lost_is_audited_once() {
    block_on(async {
        let Some((proxy, place)) = behind_a_proxy(RedisOptions::default()).await else { return };
        let store = place.redis();
        finish(&*store, "k", "done").await;
        let mut purge = request("k");
        let action = semel::store::Action::Purge;
        purge.takeover = Some(semel::store::Takeover::new(action, "ada", "a test").unwrap());
        // The reply to the look, then the one to the write.
        proxy.lose_reply(1);
        let fence = fence_of(store.claim(&purge).await.unwrap());
        let entries = store.audit(&id("k"), 10).await.unwrap();
        assert_eq!(entries.iter().map(|it| it.fence).collect::<Vec<_>>(), [fence]);
    });
}

#[test]
fn a_server_that_hangs_leaves_the_outcome_open_within_a_bound() {
    block_on(async {
        let options = RedisOptions::default()
            .response_timeout(Duration::from_millis(50))
            .patience(Duration::from_millis(200));
        let Some((proxy, place)) = behind_a_proxy(options).await else { return };
        let store = place.redis();
        let fence = acquire(&*store, "k").await;
        proxy.half_open();
        let start = SystemClock.now();
        let error = store.complete(&completion("k", fence, "x")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.outcome_unknown(), "{error}");
        // The connection is given up by now, so the next one is never sent.
        let error = store.claim(&request("new")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.outcome_unknown(), "{error}");
        proxy.heal();
        acquire(&*store, "new").await;
        proxy.half_open();
        let error = store.get(&id("k")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.outcome_unknown(), "a read leaves nothing open: {error}");
        assert!(SystemClock.now().since(start) < Duration::from_secs(20));
        proxy.heal();
        store.complete(&completion("k", fence, "x")).await.unwrap();
    });
}

#[test]
fn whoever_queues_behind_a_server_that_hangs_is_answered_as_well() {
    block_on(async {
        let options = RedisOptions::default()
            .response_timeout(Duration::from_millis(100))
            .patience(Duration::from_millis(300))
            .batch_max(2)
            .batches_in_flight(1)
            .queue_max(50);
        let Some((proxy, place)) = behind_a_proxy(options).await else { return };
        let store = place.redis();
        proxy.half_open();
        let start = SystemClock.now();
        let claims: Vec<_> = (0..100)
            .map(|it| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.claim(&request(&format!("k{it}"))).await })
            })
            .collect();
        let mut overloaded = 0;
        for claim in claims {
            let error = claim.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            overloaded += usize::from(error.to_string().contains("queue_max"));
        }
        assert!(overloaded > 0, "the queue has a bound");
        assert!(SystemClock.now().since(start) < Duration::from_secs(20));
    });
}

#[test]
fn a_refused_connection_says_that_nothing_happened() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let mut server = Redis::start().unwrap();
        let options = RedisOptions::default().patience(Duration::from_millis(100));
        let place = Place::at(&server.url(), &[&server.url()], options).await;
        let store = place.redis();
        server.kill();
        // The first may have been sent before the connection was seen to be gone.
        store.claim(&request("k")).await.unwrap_err();
        let error = store.claim(&request("k")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.outcome_unknown(), "{error}");
        assert!(error.to_string().contains("refuses connections"), "{error}");
        assert!(error.to_string().contains(&server.url()), "{error}");
    });
}

#[test]
fn a_server_that_is_killed_and_started_again_is_found_without_a_restart() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let mut server = Redis::with(&[("appendfsync", "always")]).unwrap();
        let options = RedisOptions::default().patience(Duration::from_secs(60));
        let place = Place::at(&server.url(), &[&server.url()], options).await;
        let store = place.redis();
        finish(&*store, "before", "done").await;
        let flying = acquire(&*store, "flying").await;
        server.kill();
        let waiting: Vec<_> = (0..20)
            .map(|it| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { acquire(&*store, &format!("k{it}")).await })
            })
            .collect();
        let completing = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.complete(&completion("flying", flying, "x")).await })
        };
        server.start_again().unwrap();
        for claim in waiting {
            claim.await.unwrap();
        }
        completing.await.unwrap().unwrap();
        assert_eq!(answer(&*store, "before").await, "done");
        assert_eq!(answer(&*store, "flying").await, "x");
    });
}

#[test]
fn a_server_that_lost_everything_gets_the_shared_secret_back() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let mut server = Redis::with(&[("appendonly", "no"), ("save", "")]).unwrap();
        let options = RedisOptions::default().patience(Duration::from_secs(60));
        let place = Place::at(&server.url(), &[&server.url()], options).await;
        let store = place.redis();
        let before = acquire(&*store, "k").await;
        server.kill();
        server.start_again().unwrap();
        let after = acquire(&*store, "k").await;
        assert!(after.counter > before.counter, "the clock keeps the counter rising");
        assert_eq!(place.open().await.secret(), store.secret());
    });
}

#[test]
fn a_server_whose_records_were_replaced_is_refused() {
    block_on(async {
        let Some((proxy, place)) = behind_a_proxy(RedisOptions::default()).await else { return };
        let mut command = redis::cmd("HSET");
        command.arg(format!("{}meta", place.prefix)).arg("secret").arg(&[7_u8; 32][..]);
        let _: i64 = command.query_async(&mut place.raw().await).await.unwrap();
        proxy.reset();
        let error = place.redis().claim(&request("k")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(error.to_string().contains("another store"), "{error}");
    });
}

#[test]
fn a_server_that_forgot_its_scripts_is_given_them_again() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let server = Redis::start().unwrap();
        let place = Place::at(&server.url(), &[&server.url()], RedisOptions::default()).await;
        let store = place.redis();
        for key in ["one", "two"] {
            server.ask(&["SCRIPT", "FLUSH", "SYNC"]).unwrap();
            let fence = acquire(&*store, key).await;
            server.ask(&["SCRIPT", "FLUSH", "SYNC"]).unwrap();
            store.renew(&renewal(key, fence, Some("step"))).await.unwrap();
            server.ask(&["SCRIPT", "FLUSH", "SYNC"]).unwrap();
            store.complete(&completion(key, fence, "done")).await.unwrap();
            assert_eq!(answer(&*store, key).await, "done");
        }
    });
}
