//! Servers and settings that are refused, and what is said about them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use semel::{ErrorKind, Store};
use semel_stores::redis::{RedisOptions, RedisStore};
use semel_testkit::servers::{Redis, RedisCluster, RedisSentinel, skips};

use super::support::{Place, acquire, answer, block_on, completion, finish, prefix, request, url};

async fn refused(url: &str, options: RedisOptions) -> (ErrorKind, String) {
    let error = options.connect(url).await.unwrap_err();
    (error.kind(), error.to_string())
}

/// Gives up at the first failure.
fn at_once() -> RedisOptions {
    RedisOptions::default().patience(std::time::Duration::ZERO)
}

#[test]
fn a_server_that_evicts_is_refused_unless_that_is_accepted() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let server = Redis::with(&[("maxmemory-policy", "volatile-ttl")]).unwrap();
        let (kind, message) = refused(&server.url(), RedisOptions::default()).await;
        assert_eq!(kind, ErrorKind::Settings);
        for part in ["maxmemory-policy", "volatile-ttl", "noeviction", "allow_eviction=true"] {
            assert!(message.contains(part), "{message}");
        }
        let options = RedisOptions::default().allow_eviction(true);
        options.connect(&server.url()).await.unwrap();
        let accepted = format!("{}?allow_eviction=true", server.url());
        RedisOptions::default().connect(&accepted).await.unwrap();
    });
}

#[test]
fn a_wrong_login_is_refused_at_once_and_not_shown() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let server = Redis::with_password("right").unwrap();
        let port = server.port();
        for login in ["", ":hunter2@", "ada:hunter2@"] {
            let url = format!("redis://{login}127.0.0.1:{port}");
            let (kind, message) = refused(&url, RedisOptions::default()).await;
            assert_eq!(kind, ErrorKind::Unavailable, "{message}");
            assert!(message.contains("login"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        RedisStore::connect(&server.url(), RedisOptions::default()).await.unwrap();
    });
}

/// The list of rights in the module's documentation, with the password `pw`.
fn documented_rights() -> String {
    let page = include_str!("../../src/redis/mod.rs");
    let rights = page.split("ACL SETUSER semel on >PASSWORD ").nth(1).unwrap();
    let rights = rights.split("```").next().unwrap().replace("//!", "");
    let rights: Vec<_> = rights.split_whitespace().collect();
    format!("semel on >pw {}", rights.join(" "))
}

#[test]
fn the_documented_rights_suffice() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let rights = documented_rights();
        let server = Redis::with(&[("user", &rights)]).unwrap();
        let url = format!("redis://semel:pw@127.0.0.1:{}", server.port());
        let store = RedisStore::connect(&url, RedisOptions::default()).await.unwrap();
        semel::Inspect::list(&store, &Default::default(), None, 10).await.unwrap();
        finish(&store, "k", "done").await;
        assert_eq!(answer(&store, "k").await, "done");
        let facts = store.facts().await.unwrap();
        assert_eq!(facts.nodes[0].append_sync.as_deref(), Some("everysec"));

        // Other keys are out of bounds, and the answer says what to look at.
        let options = RedisOptions::default().prefix("other:");
        let (kind, message) = refused(&url, options).await;
        assert_eq!(kind, ErrorKind::Unavailable);
        assert!(message.contains("NOPERM") && message.contains("rights"), "{message}");

        server.ask(&["ACL", "SETUSER", "semel", "-zadd"]).unwrap();
        let error = store.claim(&request("denied")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("rights"), "{error}");
        server.ask(&["ACL", "SETUSER", "semel", "+zadd"]).unwrap();

        // Without a look at the settings nothing is promised about the disk.
        server.ask(&["CONFIG", "SET", "appendfsync", "always"]).unwrap();
        let capabilities = |store: &RedisStore| store.capabilities().durable;
        let seen = RedisStore::connect(&url, RedisOptions::default()).await.unwrap();
        assert!(capabilities(&seen));
        server.ask(&["ACL", "SETUSER", "semel", "-config|get"]).unwrap();
        let blind = RedisStore::connect(&url, RedisOptions::default()).await.unwrap();
        assert!(!capabilities(&blind));
    });
}

#[test]
fn the_documented_rights_suffice_on_a_cluster() {
    block_on(async {
        if skips(RedisCluster::missing()) {
            return;
        }
        let rights = documented_rights();
        let cluster = RedisCluster::with(&[("user", &rights)]).unwrap();
        let url = cluster.url().replace("://", "://semel:pw@");
        let store = RedisStore::connect(&url, RedisOptions::default()).await.unwrap();
        finish(&store, "k", "done").await;
        assert_eq!(answer(&store, "k").await, "done");
        acquire(&store, "flying").await;
        let listed = semel::Inspect::list(&store, &Default::default(), None, 10).await.unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(semel::Inspect::count(&store).await.unwrap().in_progress, 1);
        let facts = store.facts().await.unwrap();
        assert_eq!(facts.cluster_state.as_deref(), Some("ok"));
    });
}

#[test]
fn a_replica_is_refused() {
    block_on(async {
        if skips(RedisSentinel::missing()) {
            return;
        }
        let pair = RedisSentinel::start().unwrap();
        let replica = &pair.urls()[1 - pair.primary()];
        let (kind, message) = refused(replica, at_once()).await;
        assert_eq!(kind, ErrorKind::Unavailable);
        assert!(message.contains("replica") && message.contains("redis-sentinel://"), "{message}");
    });
}

#[test]
fn a_node_of_a_cluster_is_refused_as_a_single_server_and_the_other_way_round() {
    block_on(async {
        if skips(RedisCluster::missing()) {
            return;
        }
        let cluster = RedisCluster::start().unwrap();
        for url in cluster.urls() {
            let (kind, message) = refused(&url, RedisOptions::default()).await;
            assert_eq!(kind, ErrorKind::Settings);
            assert!(message.contains("node of a cluster"), "{message}");
            assert!(message.contains("redis-cluster://"), "{message}");
        }
        let Some(url) = url() else { return };
        let as_cluster = url.replace("redis://", "redis-cluster://");
        let beside_nobody = format!("redis-cluster://127.0.0.1:1,{}", &url[8..]);
        for wrong in [as_cluster, beside_nobody] {
            let (kind, message) = refused(&wrong, RedisOptions::default()).await;
            assert_eq!(kind, ErrorKind::Settings, "{message}");
            assert!(message.contains("in no cluster"), "{message}");
            assert!(message.contains(&format!("write {url}")), "{message}");
        }
    });
}

/// A server that answers every question with this `INFO`.
fn pretends(info: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let connection = connection.unwrap();
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
            let mut answer = connection;
            while let Some(Ok(line)) = lines.next() {
                let many: usize = line.trim_start_matches('*').parse().unwrap();
                let words: Vec<_> =
                    lines.by_ref().take(2 * many).map(Result::unwrap).skip(1).step_by(2).collect();
                let text = match &*words[0] {
                    "INFO" => format!("${}\r\n{info}\r\n", info.len()),
                    "CONFIG" => "*0\r\n".to_owned(),
                    _ => "+OK\r\n".to_owned(),
                };
                answer.write_all(text.as_bytes()).unwrap();
            }
        }
    });
    url
}

/// A server that speaks HTTP.
fn speaks_http() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                // Whoever has asked hears it, or has gone already; all of it is read, because a
                // close before that would cut the answer off.
                drop(connection.read(&mut [0; 1]));
                drop(connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
                drop(connection.shutdown(std::net::Shutdown::Write));
                drop(std::io::copy(&mut connection, &mut std::io::sink()));
            });
        }
    });
    place
}

#[test]
fn a_wrong_port_is_told_with_the_way_out() {
    block_on(async {
        for kind in ["redis", "redis-cluster", "redis-sentinel"] {
            let end = if kind == "redis-sentinel" { "/main" } else { "" };
            let (_, message) = refused(&format!("{kind}://127.0.0.1:1{end}"), at_once()).await;
            assert!(message.contains("is it running, and is the port right?"), "{message}");
            let web = format!("{kind}://{}{end}", speaks_http());
            let (_, message) = refused(&web, at_once()).await;
            assert!(message.contains("is no Redis") && !message.contains('\n'), "{message}");
        }
        let web = format!("rediss://{}", speaks_http());
        let (_, message) = refused(&web, at_once()).await;
        assert!(message.contains("does not speak TLS"), "{message}");
        let Some(url) = url() else { return };
        for (from, to) in [("redis:", "rediss:"), ("redis:", "rediss-cluster:")] {
            let (_, message) = refused(&url.replace(from, to), at_once()).await;
            assert!(message.contains("does not speak TLS"), "{message}");
        }
        let url = format!("{}/main", url.replace("redis:", "redis-sentinel:"));
        let (_, message) = refused(&url, at_once()).await;
        assert!(message.contains("is no Sentinel"), "{message}");
        let server = Redis::with_tls().unwrap();
        let plain = server.url().replace("rediss:", "redis:");
        let (_, message) = refused(&plain, at_once()).await;
        assert!(message.contains("write rediss"), "{message}");
    });
}

#[test]
fn a_server_that_is_too_old_is_refused() {
    let url = pretends("redis_version:6.2.14\r\nrole:master\r\nmaxmemory_policy:noeviction");
    let (kind, message) = block_on(refused(&url, RedisOptions::default()));
    assert_eq!(kind, ErrorKind::Settings);
    assert!(message.contains("Redis 6.2.14") && message.contains("7.0"), "{message}");
}

#[test]
fn nothing_is_made_where_one_only_wants_to_look() {
    block_on(async {
        let Some(url) = url() else { return };
        let options = RedisOptions::default().prefix(&prefix()).create(false);
        let (kind, message) = refused(&url, options.clone()).await;
        assert_eq!(kind, ErrorKind::Unavailable);
        assert!(message.contains("no program has used it yet"), "{message}");
        let facts = options.clone().look(&url).await.unwrap();
        assert_eq!((facts.nodes.len(), facts.server.as_str()), (1, url.as_str()));
        refused(&url, options.clone()).await;
        options.clone().create(true).connect(&url).await.unwrap();
        options.connect(&url).await.unwrap();
    });
}

#[test]
fn the_prefix_of_a_url_keeps_two_applications_apart() {
    block_on(async {
        let Some(url) = url() else { return };
        let of = |prefix: &str| format!("{url}?prefix={prefix}");
        let (one, other) = (of(&prefix()), of(&prefix()));
        let open = async |url: &str| RedisOptions::default().connect(url).await.unwrap();
        finish(&open(&one).await, "k", "one").await;
        finish(&open(&other).await, "k", "other").await;
        assert_eq!(answer(&open(&one).await, "k").await, "one");
        let (_, message) = refused(&of(&prefix()), at_once().create(false)).await;
        assert!(message.contains("`t"), "{message}");
    });
}

#[test]
fn the_patience_of_a_url_goes_before_that_of_the_options() {
    let url = "redis://127.0.0.1:1?patience=1ms&response_timeout=1s";
    let clock = semel::ManualClock::new();
    // On a clock that stands still only a patience shorter than the first pause ends.
    let options = RedisOptions::default().clock(std::sync::Arc::new(clock));
    let (kind, message) = block_on(refused(url, options));
    assert_eq!(kind, ErrorKind::Unavailable, "{message}");
}

#[test]
fn records_of_a_newer_form_are_refused() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let mut command = redis::cmd("HSET");
        command.arg(format!("{}meta", place.prefix)).arg("format").arg("2");
        let _: i64 = command.query_async(&mut place.raw().await).await.unwrap();
        let options = RedisOptions::default().prefix(&place.prefix);
        let (kind, message) = refused(&place.url, options).await;
        assert_eq!(kind, ErrorKind::TooNew);
        assert!(message.contains("upgrade"), "{message}");
    });
}

#[test]
fn a_full_server_refuses_new_claims_and_takes_what_ends_the_running_ones() {
    block_on(async {
        if skips(Redis::missing()) {
            return;
        }
        let server = Redis::start().unwrap();
        let url = server.url();
        let place = Place::at(&url, &[&url], RedisOptions::default()).await;
        let store = place.redis();
        finish(&*store, "finished", "done").await;
        let fence = acquire(&*store, "flying").await;
        server.ask(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();

        let error = store.claim(&request("new")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.outcome_unknown());
        assert!(error.to_string().contains("maxmemory"), "{error}");
        assert_eq!(store.get(&super::support::id("new")).await.unwrap(), None);
        assert_eq!(answer(&*store, "finished").await, "done");
        let lease = std::time::Duration::from_secs(30);
        let renewal = semel::store::Renewal {
            id: super::support::id("flying"),
            fence,
            lease,
            step: Some(semel::Step { name: "s".into(), result: bytes::Bytes::from_static(b"x") }),
        };
        store.renew(&renewal).await.unwrap();
        store.complete(&completion("flying", fence, "done")).await.unwrap();
        assert_eq!(answer(&*store, "flying").await, "done");

        server.ask(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
        acquire(&*store, "new").await;
    });
}

#[test]
fn a_key_of_the_store_that_somebody_else_uses_is_refused_and_kept() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.redis();
        acquire(&*store, "k").await;
        let record = place.record().await;
        let mut connection = place.raw().await;
        let _: i64 = redis::cmd("DEL").arg(&record).query_async(&mut connection).await.unwrap();
        let mut command = redis::cmd("LPUSH");
        let _: i64 = command.arg(&record).arg("x").query_async(&mut connection).await.unwrap();
        let error = store.claim(&request("k")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("prefix"), "{error}");
        // Its neighbours in a call do not suffer.
        acquire(&*store, "other").await;
    });
}

#[test]
fn a_store_is_not_opened_outside_a_runtime() {
    let mut future = Box::pin(RedisStore::connect("redis://h", RedisOptions::default()));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = future.as_mut().poll(&mut context) else {
        panic!("refused at once")
    };
    assert_eq!(error.kind(), ErrorKind::Settings);
    assert!(error.to_string().contains("tokio"), "{error}");
}
