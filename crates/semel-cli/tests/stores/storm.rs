//! Many callers bring many keys to two proxies at once.
//!
//! The upstream answers nobody until every duplicate has been turned away or waits, so that none
//! of them gets by only because the first was quick.

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::client::{Client, Heard, first_answer};
use super::servers::PATIENT;
use super::support::{Ask, Proxy, Site, post, until};
use super::{servers, support};

/// With every caller on a connection of its own, few enough for a limit of 1024 open files.
const KEYS: usize = 24;
const CALLERS: usize = 16;
/// All but the one that executes.
const DUPLICATES: usize = KEYS * (CALLERS - 1);

#[test]
fn on_postgresql_duplicates_are_refused_and_then_replayed() {
    let Some(url) = servers::postgres("storm_refused") else { return };
    refused_and_replayed(&url);
}

#[test]
fn on_postgresql_duplicates_wait_for_the_one_answer() {
    let Some(url) = servers::postgres("storm_waiting") else { return };
    waited_for(&url);
}

#[test]
fn on_a_redis_cluster_duplicates_are_refused_and_then_replayed() {
    let Some(cluster) = servers::redis_cluster() else { return };
    refused_and_replayed(&cluster.url());
}

#[test]
fn on_a_redis_cluster_duplicates_wait_for_the_one_answer() {
    let Some(cluster) = servers::redis_cluster() else { return };
    waited_for(&cluster.url());
}

fn refused_and_replayed(url: &str) {
    let site = Site::on(url);
    let proxies = [(); 2].map(|()| site.proxy_with(&PATIENT));
    let storm = Storm::over(&site, &proxies);
    storm.wait_for_refusals(DUPLICATES);
    let answers = storm.end();
    told_the_same(&site, answers);
}

fn waited_for(url: &str) {
    let site = Site::on(url);
    let flags = [&PATIENT[..], &["--wait", "25s", "--admin", "127.0.0.1:0"]].concat();
    let proxies = [(); 2].map(|()| site.proxy_with(&flags));
    let admins = proxies.each_ref().map(Proxy::admin);
    let storm = Storm::over(&site, &proxies);
    until("every duplicate waits", || admins.iter().map(waiting).sum::<usize>() == DUPLICATES);
    assert_eq!(storm.refusals(), 0);
    let answers = storm.end();
    told_the_same(&site, answers);
}

/// How many callers have begun to wait at this proxy.
fn waiting(admin: &SocketAddr) -> usize {
    let metrics = post(*admin, &Ask::get("/metrics")).unwrap().body;
    let line = metrics.lines().find(|line| line.contains("event=\"waiting\""));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Every caller of a key heard the same, and one of them executed.
fn told_the_same(site: &Site, answers: Vec<(String, Heard)>) {
    let mut executed: HashMap<String, usize> = HashMap::new();
    assert_eq!(answers.len(), KEYS * CALLERS);
    for (key, heard) in answers {
        assert_eq!((heard.status, &heard.body), (201, &first_answer(&key)), "{key}: {heard:?}");
        *executed.entry(key).or_default() += usize::from(!heard.is_replayed);
    }
    let once: HashMap<_, _> = (0..KEYS).map(|it| (format!("k{it}"), 1)).collect();
    assert_eq!(executed, once, "an answer of its own was given to none or to several");
    assert_eq!(site.upstream.all_effects(), once);
}

/// All callers on their way.
struct Storm<'a> {
    site: &'a Site,
    runtime: tokio::runtime::Runtime,
    callers: JoinSet<(String, Heard)>,
    refusals: mpsc::UnboundedReceiver<()>,
    /// Whether those that were refused may ask again.
    again: watch::Sender<bool>,
}

impl<'a> Storm<'a> {
    fn over(site: &'a Site, proxies: &[Proxy]) -> Self {
        site.upstream.gate(1);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (told, refusals) = mpsc::unbounded_channel();
        let (again, may_ask_again) = watch::channel(false);
        let mut callers = JoinSet::new();
        // One after the other for each key, so that its callers are spread over time and proxies.
        for caller in 0..KEYS * CALLERS {
            let (key, address) =
                (format!("k{}", caller % KEYS), proxies[caller / KEYS % 2].address);
            let (told, mut may_ask_again) = (told.clone(), may_ask_again.clone());
            let call = async move {
                let mut client = Client::open(address).await;
                let mut heard = client.order(&key).await;
                if heard.is_in_flight() {
                    told.send(()).unwrap();
                    may_ask_again.wait_for(|may| *may).await.unwrap();
                }
                while heard.is_in_flight() {
                    heard = client.order(&key).await;
                }
                (key, heard)
            };
            callers.spawn_on(call, runtime.handle());
        }
        Self { site, runtime, callers, refusals, again }
    }

    fn wait_for_refusals(&self, count: usize) {
        until("every duplicate is refused", || self.refusals() == count);
    }

    fn refusals(&self) -> usize {
        self.refusals.len()
    }

    /// Lets the upstream answer, and gives what each caller heard in the end.
    fn end(self) -> Vec<(String, Heard)> {
        self.site.upstream.let_go();
        self.again.send(true).unwrap();
        let callers = self.callers.join_all();
        let bounded = async { tokio::time::timeout(support::PATIENCE, callers).await };
        self.runtime.block_on(bounded).expect("an end in time")
    }
}
