//! The public suite and the reference machine, on one server and on a cluster.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use semel::conformance::model::{Move, agree};
use semel::conformance::{self, Harness};
use semel::store::Claimed;
use semel::{BoxFuture, ErrorKind, Inspect, Store};
use semel_stores::redis::RedisOptions;
use semel_testkit::servers::{Redis, skips};

use super::support::{Place, acquire, block_on, completion, request, server, url};

async fn passes(place: &dyn Harness, skipped: &[&str]) {
    let report = conformance::run(place).await;
    assert!(report.failed.is_empty(), "{report}");
    let missing: Vec<_> = report.skipped.iter().map(|(case, _)| *case).collect();
    assert_eq!(missing, skipped, "{report}");
}

/// Cases that need a durable store.
const DURABLE: [&str; 2] = [
    "an_acknowledged_completion_survives_a_restart",
    "claims_holds_and_counters_survive_a_restart",
];

#[test]
fn the_redis_store_passes_the_suite() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        assert!(!place.redis().capabilities().durable);
        passes(&place, &DURABLE).await;
    });
}

#[test]
fn the_redis_store_passes_the_suite_on_a_cluster() {
    block_on(async {
        let Some(place) = Place::in_cluster().await else { return };
        passes(&place, &DURABLE).await;
    });
}

#[test]
fn a_store_without_batches_passes_the_suite() {
    block_on(async {
        let Some(url) = url() else { return };
        let options = RedisOptions::default().batch_max(1).batches_in_flight(1);
        passes(&Place::at(&url, &[&url], options).await, &DURABLE).await;
    });
}

/// A server whose machine may crash at any time.
struct Synced(Place, Mutex<Redis>);

impl Harness for Synced {
    fn store(&self) -> Arc<dyn Store> {
        self.0.store()
    }
    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        self.0.inspect()
    }
    fn elapse(&self, duration: Duration) -> BoxFuture<'_, ()> {
        self.0.elapse(duration)
    }
    fn wipe(&self) -> BoxFuture<'_, bool> {
        self.0.wipe()
    }
    fn restart(&self) -> BoxFuture<'_, bool> {
        // The store stays: it must find the server again by itself.
        let mut server = self.1.lock().unwrap();
        server.kill();
        server.start_again().unwrap();
        Box::pin(async { true })
    }
}

#[test]
fn a_server_that_syncs_every_write_is_durable_and_passes_the_whole_suite() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let server = Redis::with(&[("appendfsync", "always")]).unwrap();
        let place = Place::at(&server.url(), &[&server.url()], RedisOptions::default()).await;
        assert!(place.redis().capabilities().durable);
        passes(&Synced(place, Mutex::new(server)), &[]).await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_redis_store_agrees_with_the_reference_machine(bytes in vec(any::<[u8; 3]>(), 0..60)) {
        let moves: Vec<_> = bytes.into_iter().map(Move::decode).collect();
        let agreed = block_on(async {
            match Place::new().await {
                Some(place) => agree(&place, &moves).await,
                None => Ok(()),
            }
        });
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn a_cluster_agrees_with_the_reference_machine(bytes in vec(any::<[u8; 3]>(), 0..60)) {
        let moves: Vec<_> = bytes.into_iter().map(Move::decode).collect();
        let agreed = block_on(async {
            match Place::in_cluster().await {
                Some(place) => agree(&place, &moves).await,
                None => Ok(()),
            }
        });
        prop_assert!(agreed.is_ok(), "{}", agreed.unwrap_err());
    }
}

#[test]
fn operations_that_share_a_call_are_answered_each_for_itself() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        let claims: Vec<_> = (0..300)
            .map(|it| {
                let store = Arc::clone(&store);
                // Every key is claimed three times.
                tokio::spawn(async move { store.claim(&request(&format!("k{}", it % 100))).await })
            })
            .collect();
        let mut fences = Vec::new();
        for (it, claim) in claims.into_iter().enumerate() {
            match claim.await.unwrap().unwrap() {
                Claimed::Acquired { fence, .. } => fences.push((format!("k{}", it % 100), fence)),
                Claimed::InFlight { .. } => {}
                other => panic!("expected Acquired or InFlight, saw {other:?}"),
            }
        }
        assert_eq!(fences.len(), 100);
        // One late completion among good ones fails alone.
        fences[7].1.counter += 1000;
        let completions: Vec<_> = fences
            .into_iter()
            .map(|(key, fence)| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.complete(&completion(&key, fence, "done")).await })
            })
            .collect();
        for (it, answer) in completions.into_iter().enumerate() {
            let lost = answer.await.unwrap().err().map(|error| error.kind());
            assert_eq!(lost, (it == 7).then_some(ErrorKind::ClaimLost), "completion {it}");
        }
    });
}

#[test]
fn two_stores_on_one_server_share_records_counter_and_secret() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (one, other) = (place.redis(), place.open().await);
        assert_eq!(one.secret(), other.secret());
        assert_ne!(one.secret(), &[0; 32]);
        let first = acquire(&*one, "shared").await;
        let seen = other.claim(&request("shared")).await.unwrap();
        assert!(matches!(seen, Claimed::InFlight { .. }), "{seen:?}");
        let second = acquire(&other, "second").await;
        let third = acquire(&*one, "third").await;
        assert!(first.counter < second.counter && second.counter < third.counter);
    });
}

#[test]
fn two_prefixes_on_one_server_share_nothing() {
    block_on(async {
        let (Some(one), Some(other)) = (Place::new().await, Place::new().await) else { return };
        acquire(&*one.redis(), "k").await;
        acquire(&*other.redis(), "k").await;
        assert_ne!(one.redis().secret(), other.redis().secret());
        assert_eq!(other.redis().list(&Default::default(), None, 10).await.unwrap().len(), 1);
    });
}

#[test]
fn the_store_works_on_an_executor_that_is_not_tokio() {
    let Some(url) = server().map(|server| server.url()) else { return };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let place = runtime.block_on(Place::at(&url, &[&url], RedisOptions::default()));
    let store = place.redis();
    let threads: Vec<_> = (0..8)
        .map(|it| {
            let store = Arc::clone(&store);
            std::thread::spawn(move || {
                let work = async {
                    for key in 0..20 {
                        let key = format!("k{it}-{key}");
                        let fence = acquire(&*store, &key).await;
                        store.complete(&completion(&key, fence, "x")).await.unwrap();
                    }
                };
                semel_block_on(work);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// The smallest executor there is.
fn semel_block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::task::Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        let mut context = std::task::Context::from_waker(&waker);
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
