//! Those who wait for the end of a claim hear of it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use redis::AsyncCommands;
use semel::store::{Release, ReleaseVerdict};
use semel::{Clock, Store, SystemClock};
use semel_stores::redis::RedisStore;

use super::support::{Place, acquire, block_on, completion, id, prefix, url};

/// Waits until the mark is on the record: from then on its end is published.
async fn marked(place: &Place, record: &str) {
    let mut connection = place.raw().await;
    loop {
        let byte: Vec<u8> = connection.getrange(record, 6, 6).await.unwrap();
        if byte == [1] {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A test that hangs says so.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    let (mut work, mut late) = (std::pin::pin!(work), SystemClock.sleep(Duration::from_secs(30)));
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => late.as_mut().poll(context).map(|()| panic!("nobody was woken")),
    })
    .await
}

fn waits(store: &Arc<RedisStore>, key: &str) -> tokio::task::JoinHandle<()> {
    let (store, id) = (Arc::clone(store), id(key));
    tokio::spawn(async move { store.changed(&id).await })
}

async fn everybody_is_woken(place: &Place) {
    // The waiters are another process.
    let (store, waiting) = (place.redis(), Arc::new(place.open().await));
    for (key, verdict) in [
        ("completed", None),
        ("released", Some(ReleaseVerdict::NotApplied)),
        ("unknown", Some(ReleaseVerdict::Unknown("x".into()))),
    ] {
        let before = place.keys("{s???}:r:").await;
        let fence = acquire(&*store, key).await;
        let after = place.keys("{s???}:r:").await;
        let record = after.into_iter().find(|it| !before.contains(it)).unwrap();
        let waiters: Vec<_> = (0..5).map(|_| waits(&waiting, key)).collect();
        marked(place, &record).await;
        match verdict {
            None => drop(store.complete(&completion(key, fence, "x")).await.unwrap()),
            Some(verdict) => {
                store.release(&Release { id: id(key), fence, verdict }).await.unwrap();
            }
        }
        for waiter in waiters {
            soon(waiter).await.unwrap();
        }
    }
}

#[test]
fn whoever_waits_is_woken_when_the_claim_ends() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        everybody_is_woken(&place).await;
    });
}

#[test]
fn whoever_waits_for_nothing_is_told_at_once() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        soon(store.changed(&id("absent"))).await;
        let fence = acquire(&*store, "done").await;
        store.complete(&completion("done", fence, "x")).await.unwrap();
        soon(store.changed(&id("done"))).await;
    });
}

#[test]
fn whoever_waits_is_woken_when_the_connection_breaks() {
    block_on(async {
        let Some(url) = url() else { return };
        // A user of its own, so that only these connections can be closed.
        let user = prefix().trim_end_matches(':').to_owned();
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(&user).arg("on").arg(">pw").arg("~*").arg("&*").arg("+@all");
        let mut connection = super::support::raw(&url).await;
        let () = command.query_async(&mut connection).await.unwrap();
        let login = url.replace("redis://", &format!("redis://{user}:pw@"));
        let place = Place::at(&login, &[&url], Default::default()).await;
        let store = place.redis();
        acquire(&*store, "k").await;
        let waiter = waits(&store, "k");
        marked(&place, &place.record().await).await;
        let mut command = redis::cmd("CLIENT");
        command.arg("KILL").arg("USER").arg(&user);
        let _: i64 = command.query_async(&mut connection).await.unwrap();
        soon(waiter).await.unwrap();
        // And the next one is heard again.
        let waiter = waits(&store, "k");
        soon(async {
            while place.raw_subscribers().await == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        waiter.abort();
    });
}

#[test]
fn a_record_that_nobody_waits_for_is_not_published() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let (store, url) = (place.redis(), &place.nodes[0]);
        let client = redis::Client::open(url.as_str()).unwrap();
        let mut ear = client.get_async_pubsub().await.unwrap();
        ear.subscribe(format!("{}changed", place.prefix)).await.unwrap();
        let fence = acquire(&*store, "silent").await;
        store.complete(&completion("silent", fence, "x")).await.unwrap();
        let before = place.keys("{s???}:r:").await;
        let fence = acquire(&*store, "awaited").await;
        let after = place.keys("{s???}:r:").await;
        let record = after.into_iter().find(|it| !before.contains(it)).unwrap();
        let waiter = waits(&store, "awaited");
        marked(&place, &record).await;
        store.complete(&completion("awaited", fence, "x")).await.unwrap();
        soon(waiter).await.unwrap();
        let mut messages = std::pin::pin!(ear.into_on_message());
        let message = soon(poll_fn(|context| futures_core_poll(messages.as_mut(), context))).await;
        assert_eq!(message.get_payload::<String>().unwrap(), record);
    });
}

/// The next message of a stream.
fn futures_core_poll(
    stream: std::pin::Pin<&mut impl futures_util::Stream<Item = redis::Msg>>,
    context: &mut std::task::Context<'_>,
) -> Poll<redis::Msg> {
    stream.poll_next(context).map(|message| message.expect("the connection holds"))
}

#[test]
fn whoever_waits_on_a_cluster_is_woken_from_any_node() {
    block_on(async {
        let Some(place) = Place::in_cluster().await else { return };
        let (store, waiting) = (place.redis(), Arc::new(place.open().await));
        // Enough keys to lie on every node.
        for it in 0..12 {
            let key = format!("k{it}");
            let fence = acquire(&*store, &key).await;
            let waiter = waits(&waiting, &key);
            soon(place.marked_anywhere()).await;
            store.complete(&completion(&key, fence, "x")).await.unwrap();
            soon(waiter).await.unwrap();
        }
    });
}
