//! A network that loses, delays and cuts.

use std::time::Duration;

use semel::store::{Claimed, Release, ReleaseVerdict};
use semel::{ErrorKind, Store};
use semel_stores::postgres::PostgresStore;
use semel_testkit::{Direction, FaultProxy};

use super::support::{Place, acquire, answer, block_on, completion, finish, id, request};

async fn behind_proxy(place: &Place, patience: Duration) -> (PostgresStore, FaultProxy) {
    let port = place.url.rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
    let proxy = FaultProxy::start(format!("127.0.0.1:{port}")).unwrap();
    let options = place
        .options()
        .patience(patience)
        .connect_timeout(Duration::from_millis(500))
        .response_timeout(Duration::from_millis(300));
    (options.connect(&proxy.url(&place.url)).await.unwrap(), proxy)
}

#[test]
fn callers_with_less_patience_than_a_connection_takes_still_get_one() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let port = place.url.rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
        let proxy = FaultProxy::start(format!("127.0.0.1:{port}")).unwrap();
        let options = place.options().patience(Duration::from_millis(700));
        let store = options.connect(&proxy.url(&place.url)).await.unwrap();
        // Four round trips to connect and two for the first statement.
        proxy.latency(Duration::from_millis(100));
        proxy.reset();
        let mut attempts = 0;
        while store.get(&id("k")).await.is_err() {
            attempts += 1;
            assert!(attempts < 20, "the server is never reached again");
        }
    });
}

const PATIENT: Duration = Duration::from_secs(20);

#[test]
fn an_operation_whose_reply_is_lost_is_sent_again_and_means_the_same() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (store, proxy) = behind_proxy(&place, PATIENT).await;
        for round in 0..10 {
            let key = format!("k{round}");
            proxy.lose_reply(0);
            let fence = acquire(&store, &key).await;
            proxy.heal();
            let record = store.get(&id(&key)).await.unwrap().unwrap();
            assert_eq!((record.fence, record.attempts), (fence, 1), "one claim, sent twice");
            proxy.lose_reply(0);
            store.complete(&completion(&key, fence, "done")).await.unwrap();
            proxy.heal();
            assert_eq!(answer(&store, &key).await, "done");
        }
        let fence = acquire(&store, "released").await;
        proxy.lose_reply(1);
        let verdict = ReleaseVerdict::NotApplied;
        store.release(&Release { id: id("released"), fence, verdict }).await.unwrap();
        proxy.heal();
        assert!(store.get(&id("released")).await.unwrap().is_none());
    });
}

#[test]
fn connections_cut_at_any_byte_lose_no_acknowledged_completion() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (store, proxy) = behind_proxy(&place, PATIENT).await;
        for bytes in (1..200).step_by(7) {
            for direction in [Direction::ToServer, Direction::ToClient] {
                let key = format!("k{bytes}-{direction:?}");
                proxy.drop_after(bytes, direction);
                // The operation waits out the fault, so it is healed while it runs.
                let (done, ()) = futures_util::future::join(finish(&store, &key, &key), async {
                    while proxy.traffic().connections < 2 {
                        tokio::task::yield_now().await;
                    }
                    proxy.heal();
                })
                .await;
                done.unwrap();
                assert_eq!(answer(&place.open().await, &key).await, key);
            }
        }
    });
}

#[test]
fn a_partition_fails_closed_within_patience_and_heals_without_a_restart() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (store, proxy) = behind_proxy(&place, Duration::from_secs(2)).await;
        let fence = acquire(&store, "k").await;
        for cut in [FaultProxy::partition, FaultProxy::half_open, FaultProxy::lose_replies] {
            cut(&proxy);
            let error = store.claim(&request("other")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.is_retryable() && !error.outcome_unknown(), "{error}");
            let error = store.complete(&completion("k", fence, "done")).await.unwrap_err();
            assert!(error.outcome_unknown(), "it may have arrived: {error}");
            proxy.heal();
        }
        store.complete(&completion("k", fence, "done")).await.unwrap();
        assert_eq!(answer(&store, "k").await, "done");
    });
}

#[test]
fn a_zombie_that_comes_back_from_a_partition_is_refused() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (zombie, proxy) = behind_proxy(&place, PATIENT).await;
        let fence = acquire(&zombie, "k").await;
        proxy.partition();
        place.sql("UPDATE semel.shift SET millis = millis + 60000").await;
        let other = place.postgres();
        let winner = acquire(&*other, "k").await;
        assert!(winner.counter > fence.counter);
        other.complete(&completion("k", winner, "winner")).await.unwrap();
        proxy.heal();
        let error = zombie.complete(&completion("k", fence, "zombie")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClaimLost);
        let seen = zombie.claim(&request("k")).await.unwrap();
        assert!(matches!(seen, Claimed::Completed { .. }), "{seen:?}");
        assert_eq!(answer(&zombie, "k").await, "winner");
    });
}

#[test]
fn a_slow_network_changes_nothing_but_time() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (store, proxy) = behind_proxy(&place, PATIENT).await;
        proxy.latency(Duration::from_millis(20));
        let all = (0..100).map(|it| {
            let store = &store;
            async move { finish(store, &format!("k{it}"), "done").await.unwrap() }
        });
        futures_util::future::join_all(all).await;
    });
}
