//! One side of the comparison: a service, maybe a proxy in front of it, and what happened there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::client::{self, Heard, Order};
use super::process::Process;
use crate::failure::Failure;

/// What a side saw.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: AtomicU64,
    pub(super) replays: AtomicU64,
    /// "In flight": the first request still runs.
    pub(super) refusals: AtomicU64,
    /// "Outcome unknown".
    pub(super) unknowns: AtomicU64,
    /// Clients that got no answer in their time.
    pub(super) silences: AtomicU64,
    /// The last count that the service itself gave.
    orders: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) tally: Tally,
    db: PathBuf,
    log: PathBuf,
    service: Mutex<Process>,
    service_address: SocketAddr,
    /// Where clients of this side connect.
    door: SocketAddr,
    /// Kept alive; only behind semel.
    _proxy: Option<Process>,
}

impl Side {
    pub(super) fn start(
        name: &'static str,
        folder: &Path,
        store: Option<&str>,
    ) -> Result<Self, Failure> {
        let slug = if store.is_some() { "behind" } else { "without" };
        let (db, log) = (folder.join(format!("{slug}-orders.db")), folder.join("demo.log"));
        let service = start_service(&db, &log, "127.0.0.1:0")?;
        let service_address = service.address;
        let proxy = store.map(|store| start_proxy(&log, service_address, store)).transpose()?;
        let door = proxy.as_ref().map_or(service_address, |proxy| proxy.address);
        let tally = Tally::default();
        let service = Mutex::new(service);
        Ok(Self { name, tally, db, log, service, service_address, door, _proxy: proxy })
    }

    /// One request, counted.
    pub(super) fn ask(&self, order: Order<'_>, patience: Duration) -> Heard {
        self.tally.requests.fetch_add(1, Ordering::Relaxed);
        let heard = client::post(self.door, order, patience);
        let counter = match &heard {
            Heard::Nothing => Some(&self.tally.silences),
            Heard::Answer(answer) if answer.is_replayed() => Some(&self.tally.replays),
            Heard::Answer(answer) if answer.is_problem("in-flight") => Some(&self.tally.refusals),
            Heard::Answer(answer) if answer.is_problem("outcome-unknown") => {
                Some(&self.tally.unknowns)
            }
            Heard::Answer(_) => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        heard
    }

    /// How many orders there are, by the service's own count; the last one while it is down.
    pub(super) fn orders(&self) -> u64 {
        if let Some(orders) = client::number(self.service_address, "/count", "orders") {
            self.tally.orders.store(orders, Ordering::Relaxed);
        }
        self.tally.orders.load(Ordering::Relaxed)
    }

    /// How many keys have an order, by the service's own count; none while it is down.
    pub(super) fn distinct_keys(&self) -> u64 {
        client::number(self.service_address, "/count", "distinct_keys").unwrap_or_default()
    }

    /// The order of a key, if the service has one: what an operator looks up.
    pub(super) fn order_of(&self, key: &str) -> Option<u64> {
        client::number(self.service_address, &format!("/orders/{key}"), "order")
            .filter(|id| *id > 0)
    }

    /// The service was killed; bring it back on the same file and port.
    pub(super) fn restart_service(&self) -> Result<(), Failure> {
        let mut service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
        // It killed itself, unless something else went wrong: then this would wait for ever.
        service.end();
        *service = start_service(&self.db, &self.log, &self.service_address.to_string())?;
        Ok(())
    }
}

fn start_service(db: &Path, log: &Path, listen: &str) -> Result<Process, Failure> {
    let db = db.display().to_string();
    Process::start(log, &["demo-orders", "--db", &db, "--listen", listen])
}

fn start_proxy(log: &Path, service: SocketAddr, store: &str) -> Result<Process, Failure> {
    let upstream = format!("http://{service}");
    let arguments = ["proxy", "--upstream", &upstream, "--listen", "127.0.0.1:0", "--store", store];
    Process::start(log, &[&arguments[..], &["--lease", "5s"]].concat())
}
