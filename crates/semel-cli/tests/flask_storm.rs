//! Duplicate storms against the classic Flask + Redis order handler (`examples/flask-redis`).
//!
//! Goal: one key takes effect once, whatever serves the handler and however many proxies share
//! one store file. Method: many connections meet at a barrier and send one request with one key;
//! the handler's own counter in Redis says how often it really ran.
//!
//! Needs a Redis and gunicorn: `cargo xtask test --only flask-storm` brings both and sets
//! `SEMEL_TEST_REDIS_URL` and `SEMEL_TEST_VENV`. Without them these tests fail.

#![allow(clippy::disallowed_methods, reason = "real processes are watched with the real clock")]
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of a test fail by panicking")]
#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

mod flask_support;

use std::time::{Duration, Instant};

use flask_support::{Answer, Gunicorn, Model, Proxies, Redis, storm};

const ROUNDS: usize = 20;
const REQUESTS: usize = 50;
const WORK_MS: [u64; 3] = [0, 20, 200];

#[test]
fn under_sync_workers_a_key_makes_one_order() {
    one_order_per_key(Model::Sync);
}

#[test]
fn under_gthread_workers_a_key_makes_one_order() {
    one_order_per_key(Model::Gthread);
}

#[test]
fn under_gevent_workers_a_key_makes_one_order() {
    one_order_per_key(Model::Gevent);
}

/// If this storm shows no duplicates, the others prove nothing.
#[test]
fn without_semel_the_same_storm_makes_duplicates() {
    let redis = Redis::from_environment();
    let gunicorn = Gunicorn::start(Model::Gthread, 20, &redis);
    let mut orders: Vec<u64> = (0..ROUNDS)
        .map(|round| {
            let key = format!("direct-{round}");
            storm(&[gunicorn.address()], &key, REQUESTS);
            redis.orders(&key)
        })
        .collect();
    orders.sort_unstable();
    let (min, median, max) = (orders[0], orders[ROUNDS / 2], orders[ROUNDS - 1]);
    println!("without semel, gthread, 20 ms: {min} / {median} / {max} orders per key");
    assert!(min >= 1, "a storm without any order is no storm");
    assert!(max > 1, "{ROUNDS} rounds made no duplicate: this harness cannot see them");
}

#[test]
fn a_thousand_requests_on_one_key_take_effect_once_in_bounded_memory() {
    const MANY: usize = 1_000;
    const MEMORY_MIB_MAX: u64 = 300;
    let redis = Redis::from_environment();
    let gunicorn = Gunicorn::start(Model::Sync, 200, &redis);
    let proxies = Proxies::start(1, gunicorn.address(), &["--wait", "30s"]);
    let before_mib = proxies.memory_peak_mib();
    let started = Instant::now();
    let answers = storm(&proxies.addresses(), "a-thousand", MANY);
    let took = started.elapsed();
    assert_eq!(redis.orders("a-thousand"), 1);
    assert_eq!(answers.len(), MANY);
    assert_all_created_alike(&answers);
    let (after_mib, cpu_ms) = (proxies.memory_peak_mib(), proxies.cpu_ms());
    println!(
        "{MANY} requests on one key: 1 order, {took:.1?}, proxy {cpu_ms} ms CPU, \
         peak {after_mib} MiB ({before_mib} MiB before)"
    );
    assert!(after_mib < MEMORY_MIB_MAX, "the proxy took {after_mib} MiB");
    proxies.stop();
}

fn one_order_per_key(model: Model) {
    let redis = Redis::from_environment();
    for work_ms in WORK_MS {
        let gunicorn = Gunicorn::start(model, work_ms, &redis);
        for count in [1, 2] {
            let name = format!("{model:?}-{work_ms}ms-{count}");
            let proxies = Proxies::start(count, gunicorn.address(), &[]);
            rounds(&format!("{name}-refuse"), &proxies, &redis, assert_refused_or_created);
            proxies.stop();
            let proxies = Proxies::start(count, gunicorn.address(), &["--wait", "10s"]);
            rounds(&format!("{name}-wait"), &proxies, &redis, assert_all_created_alike);
            proxies.stop();
        }
    }
}

/// Storms with a key each; after each storm a retry through every proxy must replay.
fn rounds(name: &str, proxies: &Proxies, redis: &Redis, check: fn(&[Answer])) {
    let started = Instant::now();
    let (mut created, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let key = format!("{name}-{round}");
        let answers = storm(&proxies.addresses(), &key, REQUESTS);
        assert_eq!(redis.orders(&key), 1, "{key}: must be ordered once");
        assert_eq!(answers.len(), REQUESTS, "{key}: everybody must be answered");
        check(&answers);
        created += answers.iter().filter(|answer| answer.status == 201).count();
        refused += answers.iter().filter(|answer| answer.status == 409).count();
        for address in proxies.addresses() {
            assert_replays(&key, &storm(&[address], &key, 1), &answers);
        }
        assert_eq!(redis.orders(&key), 1, "{key}: a retry must not order again");
    }
    let took: Duration = started.elapsed();
    println!(
        "{name}: {ROUNDS} keys, {ROUNDS} orders, {created} × 201, {refused} × 409, {took:.1?}"
    );
}

/// Everybody got the order, and it is the same order.
fn assert_all_created_alike(answers: &[Answer]) {
    let first = &answers[0];
    for answer in answers {
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
        assert_eq!(answer.body, first.body, "two different answers to one key");
    }
}

/// Who got an order got the same one; everybody else was told to come again.
fn assert_refused_or_created(answers: &[Answer]) {
    let (created, others): (Vec<_>, Vec<_>) =
        answers.iter().cloned().partition(|answer| (200..300).contains(&answer.status));
    assert!(!created.is_empty(), "the one that ordered must hear of it: {:?}", others.first());
    assert_all_created_alike(&created);
    for other in others {
        assert_eq!(other.status, 409, "{other:?}");
        assert_eq!(other.header("content-type"), Some("application/problem+json"), "{other:?}");
        let wait = other.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        assert!(wait.is_some(), "an in-flight refusal says when to come again: {other:?}");
        assert!(other.body_text().contains("in-flight"), "{other:?}");
    }
}

fn assert_replays(key: &str, retry: &[Answer], storm: &[Answer]) {
    let first = storm.iter().find(|answer| answer.status == 201).expect("checked before");
    let [retry] = retry else { panic!("{key}: one request has one answer") };
    assert_eq!(retry.status, 201, "{key}: {retry:?}");
    assert_eq!(retry.header("idempotent-replayed"), Some("true"), "{key}: {retry:?}");
    assert_eq!(retry.header("content-type"), first.header("content-type"), "{key}");
    assert_eq!(retry.body, first.body, "{key}: a replay is the same bytes");
}
