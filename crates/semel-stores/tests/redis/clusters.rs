//! A cluster whose slots move and whose nodes crash.

use std::sync::Arc;
use std::time::Duration;

use semel::store::{Filter, StateFilter};
use semel::{ErrorKind, Inspect, Store};
use semel_stores::redis::RedisOptions;
use semel_testkit::servers::{RedisCluster, skips};

use super::support::{Place, acquire, answer, block_on, completion, finish};

async fn place_on(cluster: &RedisCluster, options: RedisOptions) -> Place {
    let nodes = cluster.urls();
    let nodes: Vec<_> = nodes.iter().map(String::as_str).collect();
    Place::at(&cluster.url(), &nodes, options).await
}

#[test]
fn slots_that_move_to_another_node_are_followed() {
    block_on(async {
        if skips(RedisCluster::missing()) {
            return;
        }
        let cluster = RedisCluster::start().unwrap();
        let place = place_on(&cluster, RedisOptions::default()).await;
        let store = place.redis();
        finish(&*store, "k", "done").await;
        let slot = cluster.slot(&place.record().await).unwrap();
        let from = cluster.owner(slot).unwrap();
        // Half moved, no node can answer for the shard; whoever asks waits for the rest.
        cluster.begin_move(slot, (from + 1) % 3).unwrap();
        let asks = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { answer(&*store, "k").await })
        };
        cluster.finish_move(slot, (from + 1) % 3).unwrap();
        assert_eq!(asks.await.unwrap(), "done");
        assert_eq!(answer(&*store, "k").await, "done");
        assert_eq!(store.list(&Filter::default(), None, 10).await.unwrap().len(), 1);
    });
}

#[test]
fn work_goes_on_while_every_slot_of_a_shard_moves() {
    block_on(async {
        if skips(RedisCluster::missing()) {
            return;
        }
        let cluster = RedisCluster::start().unwrap();
        let options = RedisOptions::default().patience(Duration::from_secs(30));
        let place = place_on(&cluster, options).await;
        let store = place.redis();
        let keys: Vec<_> = (0..20).map(|it| format!("k{it}")).collect();
        let mut fences = Vec::new();
        for key in &keys {
            fences.push(acquire(&*store, key).await);
        }
        let mut slots: Vec<_> =
            place.keys("{s???}:r:").await.iter().map(|key| cluster.slot(key).unwrap()).collect();
        slots.dedup();
        let works = {
            let (store, keys) = (Arc::clone(&store), keys.clone());
            tokio::spawn(async move {
                for (key, fence) in keys.iter().zip(fences) {
                    store.complete(&completion(key, fence, "done")).await.unwrap();
                }
            })
        };
        let moved = tokio::task::spawn_blocking(move || {
            for slot in slots {
                let to = (cluster.owner(slot).unwrap() + 1) % 3;
                cluster.move_slot(slot, to).unwrap();
            }
            cluster
        });
        works.await.unwrap();
        let _cluster = moved.await.unwrap();
        for key in &keys {
            assert_eq!(answer(&*store, key).await, "done");
        }
    });
}

#[test]
fn a_crashed_node_takes_only_its_own_shards_with_it_and_is_found_again() {
    block_on(async {
        if skips(RedisCluster::missing()) {
            return;
        }
        // Without this, the whole cluster stops when a slot has no node.
        let settings = [("cluster-require-full-coverage", "no"), ("appendfsync", "always")];
        let mut cluster = RedisCluster::with(&settings).unwrap();
        let options = RedisOptions::default().patience(Duration::from_millis(500));
        let place = place_on(&cluster, options).await;
        let store = place.redis();
        assert!(store.capabilities().durable);
        let keys: Vec<_> = (0..12).map(|it| format!("k{it}")).collect();
        for key in &keys {
            finish(&*store, key, "done").await;
        }
        cluster.kill_node(0);
        let (mut served, mut refused) = (0, 0);
        for key in &keys {
            match store.get(&super::support::id(key)).await {
                Ok(record) => served += usize::from(record.is_some()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                    refused += 1;
                }
            }
        }
        assert!(served > 0 && refused > 0, "{served} served, {refused} refused");
        cluster.start_node_again(0).unwrap();
        let patient = RedisOptions::default().patience(Duration::from_secs(60));
        let again = patient.prefix(&place.prefix).connect(&place.url).await.unwrap();
        for key in &keys {
            assert_eq!(answer(&again, key).await, "done");
            assert_eq!(answer(&*store, key).await, "done");
        }
    });
}

#[test]
fn a_cluster_that_crashes_as_a_whole_is_found_again() {
    block_on(async {
        if skips(RedisCluster::missing()) {
            return;
        }
        let mut cluster = RedisCluster::with(&[("appendfsync", "always")]).unwrap();
        let options = RedisOptions::default().patience(Duration::from_secs(60));
        let place = place_on(&cluster, options).await;
        let store = place.redis();
        finish(&*store, "before", "done").await;
        (0..3).for_each(|node| cluster.kill_node(node));
        let waiting: Vec<_> = (0..6)
            .map(|it| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { acquire(&*store, &format!("k{it}")).await })
            })
            .collect();
        (0..3).for_each(|node| cluster.start_node_again(node).unwrap());
        for claim in waiting {
            claim.await.unwrap();
        }
        let flying = Filter { state: Some(StateFilter::InProgress), ..Filter::default() };
        assert_eq!(store.list(&flying, None, 100).await.unwrap().len(), 6);
    });
}

#[test]
fn every_primary_of_a_cluster_is_looked_at() {
    block_on(async {
        let Some(place) = Place::in_cluster().await else { return };
        let facts = place.redis().facts().await.unwrap();
        assert_eq!(facts.nodes.len(), 3);
        assert_eq!(facts.cluster_state.as_deref(), Some("ok"));
        for node in facts.nodes {
            assert_eq!((node.role.as_str(), node.product.as_str()), ("master", "Redis"));
            assert_eq!(node.append_sync.as_deref(), Some("everysec"));
        }
        if skips(RedisCluster::missing()) {
            return;
        }
        let cluster = RedisCluster::start().unwrap();
        cluster.ask(2, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).unwrap();
        let error = RedisOptions::default().connect(&cluster.url()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(error.to_string().contains("allkeys-lru"), "{error}");
    });
}
