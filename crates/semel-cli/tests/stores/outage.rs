//! The server of the store is killed under load and comes back.
//!
//! While it is down keyed requests are refused with a problem that says when to come again, and
//! nothing is executed for them; afterwards the same proxies go on by themselves, and every answer
//! that was given before still stands.

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::servers;
use super::support::{Answer, Ask, PATIENCE, Proxy, Site, post, until};

const CALLERS: usize = 8;
/// Answers that there have to be before the server is killed, and again after it is back.
const ANSWERS: usize = 100;
/// Well below the 5 s that a store tries by itself.
const REFUSED_WITHIN: Duration = Duration::from_secs(4);
/// Whoever is to be refused waits for it, so not long; and a claim whose end fell into the outage
/// is decided soon.
const FLAGS: [&str; 6] = ["--lease", "4s", "--store-patience", "500ms", "--admin", "127.0.0.1:0"];

#[test]
fn postgresql_is_killed_under_load_and_no_answer_is_lost() {
    let Some(mut server) = servers::own_postgres(&[]) else { return };
    let site = Site::on(&server.url());
    an_outage_under_load(
        &site,
        |is_up| {
            if is_up { server.start_again().unwrap() } else { server.kill() }
        },
    );
}

#[test]
fn redis_that_syncs_every_write_is_killed_under_load_and_no_answer_is_lost() {
    let Some(mut server) = servers::redis_with(&[("appendfsync", "always")]) else { return };
    let site = Site::on(&server.url());
    an_outage_under_load(
        &site,
        |is_up| {
            if is_up { server.start_again().unwrap() } else { server.kill() }
        },
    );
}

fn an_outage_under_load(site: &Site, mut server: impl FnMut(bool)) {
    let proxies = [(); 2].map(|()| site.proxy_with(&FLAGS));
    let load = Load::default();
    let known = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (load, proxy) = (&load, proxies[caller % 2].address);
                scope.spawn(move || load.call(site, proxy, caller))
            })
            .collect();
        load.wait_until("there are answers", |counts| counts.answered >= ANSWERS);
        server(false);
        load.wait_until("everybody is refused", |counts| counts.refused == CALLERS);
        during_the_outage(site, &proxies);
        server(true);
        let before = load.counts.lock().unwrap().answered;
        load.wait_until("there are answers again", |it| it.answered >= before + ANSWERS);
        load.count(|counts| counts.is_over = true);
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    afterwards(site, &proxies, &known);
}

fn during_the_outage(site: &Site, proxies: &[Proxy; 2]) {
    let mut unkeyed = Ask::order("x");
    unkeyed.fields.clear();
    for proxy in proxies {
        assert_eq!(proxy.ask_for(&unkeyed).status, 201, "requests without a key need no store");
    }
    let doctor = super::support::semel().args(["doctor", "--store", site.url()]).output().unwrap();
    let said = String::from_utf8([doctor.stdout, doctor.stderr].concat()).unwrap();
    assert_eq!(doctor.status.code(), Some(1), "{said}");
    assert!(said.contains("E0102"), "{said}");
}

/// Every answer still stands, and no key took effect twice.
fn afterwards(site: &Site, proxies: &[Proxy; 2], known: &[(String, Answer)]) {
    let told = known.iter().filter(|(_, answer)| answer.status == 201);
    let unknown = known.iter().filter(|(_, answer)| answer.status != 201);
    let unknown = unknown.map(|(key, _)| site.upstream.effects(key)).collect::<Vec<_>>();
    println!(
        "{} keys were answered; of others there are effects {unknown:?}",
        told.clone().count()
    );
    for (turn, (key, answer)) in told.enumerate() {
        let again = proxies[turn % 2].ask_for(&Ask::order(key).path("/named"));
        assert!(again.is_replayed(), "the answer to {key} was lost: {again:?}");
        assert_eq!(again.body, answer.body, "{key}");
        assert_eq!(site.upstream.effects(key), 1, "{key}");
    }
    for (key, answer) in known.iter().filter(|(_, answer)| answer.status != 201) {
        // What ran when the server died and could not be written down.
        assert!(answer.is("outcome-unknown"), "{key}: {answer:?}");
        assert!(site.upstream.effects(key) <= 1, "{key} took effect twice");
    }
    for proxy in proxies {
        let admin = proxy.admin();
        until("the proxy is ready", || post(admin, &Ask::get("/ready")).unwrap().status == 200);
    }
}

/// Callers at work.
#[derive(Default)]
struct Load {
    counts: Mutex<Counts>,
    counted: Condvar,
}

#[derive(Default)]
struct Counts {
    answered: usize,
    /// Callers that have met the outage.
    refused: usize,
    is_over: bool,
}

impl Load {
    /// Brings one new key after the other, each until something is known about it.
    fn call(&self, site: &Site, proxy: SocketAddr, caller: usize) -> Vec<(String, Answer)> {
        let mut known = Vec::new();
        let mut was_refused = false;
        while !self.counts.lock().unwrap().is_over {
            let key = format!("{caller}-{}", known.len());
            let answer = loop {
                let asked = Instant::now();
                let answer = post(proxy, &Ask::order(&key).path("/named")).expect("an answer");
                if answer.status != 503 && !answer.is("in-flight") {
                    break answer;
                }
                let content_type = answer.header("content-type");
                assert_eq!(content_type.as_deref(), Some("application/problem+json"));
                assert!(answer.header("retry-after").is_some(), "{answer:?}");
                // The patience, once more for what already waits in a queue, and a busy machine.
                assert!(asked.elapsed() < REFUSED_WITHIN, "refused after {:?}", asked.elapsed());
                assert_eq!(site.upstream.effects(&key), 0, "{key} ran without a claim");
                if answer.is("store-unavailable") && !was_refused {
                    was_refused = true;
                    self.count(|counts| counts.refused += 1);
                }
            };
            if answer.status == 201 {
                self.count(|counts| counts.answered += 1);
            }
            known.push((key, answer));
        }
        known
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap());
        self.counted.notify_all();
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Counts) -> bool) {
        let counts = self.counts.lock().unwrap();
        let (counts, timeout) =
            self.counted.wait_timeout_while(counts, PATIENCE, |counts| !holds(counts)).unwrap();
        // Without this the callers would go on for ever beside a test that has failed.
        drop(counts);
        if timeout.timed_out() {
            self.count(|counts| counts.is_over = true);
            panic!("it never came true that {what}");
        }
    }
}
