//! 1,000 keys, many requests for each, two processes: exactly 1,000 effects.
//!
//! `SEMEL_TEST_REQUESTS_PER_KEY=1000` makes it a million requests for each store, which want a
//! release build.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::client::{Client, first_answer};
use super::servers;
use super::support::{Proxy, Site};

const KEYS: usize = 1000;
/// Connections to each proxy.
const CONNECTIONS: usize = 32;
/// Requests for each key, where that is to be no other number.
const PER_KEY: usize = 20;
/// So many requests for a key come close together, then those for the next key: the first ones
/// meet the execution itself, the later ones its record.
const BURST: usize = 20;

#[test]
fn on_postgresql_a_thousand_keys_have_a_thousand_effects() {
    let Some(url) = servers::postgres("thousand") else { return };
    a_thousand_keys_have_a_thousand_effects("PostgreSQL", &url);
}

#[test]
fn on_redis_a_thousand_keys_have_a_thousand_effects() {
    let Some(redis) = servers::redis() else { return };
    a_thousand_keys_have_a_thousand_effects("Redis", &redis.url());
}

fn a_thousand_keys_have_a_thousand_effects(store: &str, url: &str) {
    let per_key = std::env::var("SEMEL_TEST_REQUESTS_PER_KEY");
    let per_key = per_key.map_or(PER_KEY, |it| it.parse().unwrap());
    let site = Site::on(url);
    let proxies = [(); 2].map(|()| site.proxy_with(&servers::PATIENT));
    let load = Arc::new(Load {
        proxies: proxies.iter().map(|proxy: &Proxy| proxy.address).collect(),
        requests: KEYS * per_key,
        next: AtomicUsize::new(0),
    });
    let started = Instant::now();
    let counts = load.run();
    let took = started.elapsed();
    println!(
        "{store}: {KEYS} keys x {per_key} requests over 2 processes in {took:.1?}: {} executed, \
         {} replayed, {} refused and asked again, {:.0} requests/s",
        counts.executed,
        counts.replayed,
        counts.refused,
        (counts.executed + counts.replayed + counts.refused) as f64 / took.as_secs_f64(),
    );
    let once: HashMap<_, _> = (0..KEYS).map(|it| (format!("k{it}"), 1)).collect();
    assert_eq!(site.upstream.all_effects(), once, "an effect happened twice or never");
    assert_eq!((counts.executed, counts.replayed), (KEYS, KEYS * (per_key - 1)));
    let kept = site.records_ok(&["ls", "--state", "completed", "--limit", "2000", "--json"]);
    assert_eq!(kept.lines().count(), KEYS);
}

struct Load {
    proxies: Vec<SocketAddr>,
    requests: usize,
    next: AtomicUsize,
}

#[derive(Default)]
struct Counts {
    executed: usize,
    replayed: usize,
    refused: usize,
}

impl Load {
    fn run(self: Arc<Self>) -> Counts {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let workers = (0..CONNECTIONS).map(|_| tokio::spawn(Arc::clone(&self).work()));
            let mut all = Counts::default();
            for worker in workers.collect::<Vec<_>>() {
                let Counts { executed, replayed, refused } = worker.await.unwrap();
                all.executed += executed;
                all.replayed += replayed;
                all.refused += refused;
            }
            all
        })
    }

    /// Brings request after request to the proxies in turn, each until it has its answer.
    async fn work(self: Arc<Self>) -> Counts {
        let mut counts = Counts::default();
        let mut clients = Vec::new();
        for address in &self.proxies {
            clients.push(Client::open(*address).await);
        }
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return counts;
            }
            let key = format!("k{}", number / BURST % KEYS);
            let turn = number % clients.len();
            let heard = loop {
                let heard = clients[turn].order(&key).await;
                if !heard.is_in_flight() {
                    break heard;
                }
                counts.refused += 1;
            };
            assert_eq!((heard.status, heard.body), (201, first_answer(&key)), "{key}");
            if heard.is_replayed {
                counts.replayed += 1;
            } else {
                counts.executed += 1;
            }
        }
    }
}
