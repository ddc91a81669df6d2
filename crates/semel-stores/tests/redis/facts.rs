//! What a store tells about its server, and TLS on the way there.

use std::time::Duration;

use semel::store::{Counts, Filter, StateFilter};
use semel::{Inspect, Store};
use semel_stores::redis::RedisOptions;
use semel_testkit::servers::{Redis, skips};

use super::support::{Place, acquire, answer, block_on, finish, id};

#[test]
fn a_server_is_described() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let server = Redis::with(&[("maxmemory", "64mb"), ("appendfsync", "always")]).unwrap();
        let store = RedisOptions::default().connect(&server.url()).await.unwrap();
        let facts = store.facts().await.unwrap();
        assert_eq!(facts.cluster_state, None);
        assert!(facts.round_trip < Duration::from_secs(1), "{facts:?}");
        let [node] = &facts.nodes[..] else { panic!("one server") };
        assert!(node.version.starts_with(char::is_numeric), "{node:?}");
        assert_eq!((node.role.as_str(), node.replicas), ("master", 0));
        assert_eq!(node.eviction_policy, "noeviction");
        assert_eq!((node.append_only, node.append_sync.as_deref()), (true, Some("always")));
        assert_eq!(node.replicas_min, Some(0));
        assert_eq!(node.memory_bytes_max, Some(64 << 20));
        assert!(node.memory_bytes > 0 && node.evicted_keys == 0, "{node:?}");
    });
}

#[test]
fn a_server_with_tls_is_verified_unless_the_url_says_otherwise() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let server = Redis::with_tls().unwrap();
        let root = server.root_certificate().unwrap().display().to_string();
        let trusted = format!("{}?ca={root}", server.url());
        let store = RedisOptions::default().connect(&trusted).await.unwrap();
        finish(&store, "k", "done").await;
        assert_eq!(answer(&store, "k").await, "done");

        let options = RedisOptions::default().patience(Duration::ZERO);
        let error = options.clone().connect(&server.url()).await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        let error = options.clone().connect("rediss://h?ca=/no/such/file").await.unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");

        let unverified = format!("{}?insecure=true", server.url());
        let store = options.connect(&unverified).await.unwrap();
        assert_eq!(answer(&store, "k").await, "done");
    });
}

#[test]
fn whoever_waits_is_woken_over_tls_as_well() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let server = Redis::with_tls().unwrap();
        let root = server.root_certificate().unwrap().display().to_string();
        let url = format!("{}?ca={root}", server.url());
        let store = RedisOptions::default().connect(&url).await.unwrap();
        acquire(&store, "k").await;
        let id = id("k");
        let mut waiter = store.changed(&id);
        let mark = async {
            loop {
                let shown = server.ask(&["PUBSUB", "NUMSUB", "semel:changed"]).unwrap();
                if shown.list()[1] == semel_testkit::servers::Reply::Number(1) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let mut mark = Box::pin(mark);
        std::future::poll_fn(|context| {
            assert!(waiter.as_mut().poll(context).is_pending(), "nothing has changed yet");
            mark.as_mut().poll(context)
        })
        .await;
    });
}

#[test]
fn open_records_are_found_through_their_index_and_others_by_going_through_all() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        for it in 0..250 {
            finish(&*store, &format!("done-{it:03}"), "x").await;
        }
        for it in 0..30 {
            acquire(&*store, &format!("open-{it:03}")).await;
        }
        let keys = |found: Vec<semel::store::Summary>| -> Vec<String> {
            found.iter().map(|it| it.id.key.as_str().to_owned()).collect()
        };
        let all = store.list(&Filter::default(), None, 1000).await.unwrap();
        assert_eq!(all.len(), 280);
        let open = Filter { state: Some(StateFilter::InProgress), ..Filter::default() };
        let first = store.list(&open, None, 10).await.unwrap();
        assert_eq!(keys(first)[9], "open-009");
        let rest = store.list(&open, Some(&id("open-009")), 1000).await.unwrap();
        assert_eq!(rest.len(), 20);
        let one = Filter { key: Some("done-007".to_owned()), ..Filter::default() };
        assert_eq!(keys(store.list(&one, None, 10).await.unwrap()), ["done-007"]);
        let tenant = semel::Tenant::single().as_str().to_owned();
        let whole = Filter { tenant: Some(tenant), operation: Some("test".to_owned()), ..one };
        assert_eq!(keys(store.list(&whole, None, 10).await.unwrap()), ["done-007"]);
        let counts = store.count().await.unwrap();
        let expected = Counts { completed: 250, in_progress: 30, ..Counts::default() };
        assert_eq!(counts, expected);
    });
}
