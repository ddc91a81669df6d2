//! Waking waiters by LISTEN/NOTIFY.
//!
//! A hint: whoever waits also looks again by himself. So a notification that is lost, or a pooler
//! that swallows all of them, costs time and nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use event_listener::Event;
use semel::RecordId;
use tokio_postgres::AsyncMessage;

use super::address::Address;
use super::link::{Link, within};
use super::row;
use super::tls;

/// How long the server's own greeting may take to arrive before notifications count as swallowed.
const GREETING_MAX: Duration = Duration::from_secs(2);

const CONNECT_MAX: Duration = Duration::from_secs(10);

const RECONNECT: Duration = Duration::from_secs(1);

/// Until it is tried again where notifications were swallowed.
const SWALLOWED: Duration = Duration::from_secs(600);

const GREETING: &str = "semel listens";

/// Listens once somebody waits.
pub(super) struct Listener {
    shared: Arc<Shared>,
    task: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

struct Shared {
    address: Address,
    link: Arc<Link>,
    waiters: Mutex<BTreeMap<String, Waiters>>,
}

#[derive(Default)]
struct Waiters {
    many: usize,
    event: Arc<Event>,
}

impl Listener {
    pub(super) fn new(address: Address, link: Arc<Link>) -> Self {
        let shared = Shared { address, link, waiters: Mutex::default() };
        Self { shared: Arc::new(shared), task: Mutex::new(None) }
    }

    /// Completes when this record may have changed.
    pub(super) async fn changed(&self, id: &RecordId) {
        let entry = Entry::new(&self.shared, id);
        let told = entry.event.listen();
        self.start();
        // Only a record that somebody waits for is announced: every announcement makes the
        // server's commits wait for each other.
        match self.shared.link.call_for(id, &self.shared.link.schema.wait).await {
            Ok(rows) => {
                let many = rows.first().map(|row| row::number(row, "many"));
                if matches!(many, Some(Ok(0))) {
                    return;
                }
            }
            // The store is in trouble; looking again will tell more.
            Err(_) => std::future::pending().await,
        }
        told.await;
    }

    fn start(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() {
            *task = Some(tokio::spawn(listen(Arc::clone(&self.shared))));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

/// One waiter's place in the list.
struct Entry<'a> {
    shared: &'a Shared,
    name: String,
    event: Arc<Event>,
}

impl<'a> Entry<'a> {
    fn new(shared: &'a Shared, id: &RecordId) -> Self {
        let name =
            format!("{}\n{}\n{}", id.key.as_str(), id.tenant.as_str(), id.operation.as_str());
        let mut waiters = shared.waiters();
        let waiting = waiters.entry(name.clone()).or_default();
        waiting.many += 1;
        let event = Arc::clone(&waiting.event);
        drop(waiters);
        Self { shared, name, event }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut waiters = self.shared.waiters();
        if let Some(waiting) = waiters.get_mut(&self.name) {
            waiting.many -= 1;
            if waiting.many == 0 {
                waiters.remove(&self.name);
            }
        }
    }
}

impl Shared {
    fn waiters(&self) -> MutexGuard<'_, BTreeMap<String, Waiters>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, name: &str) {
        if let Some(waiting) = self.waiters().get(name) {
            waiting.event.notify(usize::MAX);
        }
    }

    /// After a gap nobody knows what was missed.
    fn tell_all(&self) {
        for waiting in self.waiters().values() {
            waiting.event.notify(usize::MAX);
        }
    }
}

async fn listen(shared: Arc<Shared>) {
    loop {
        match session(&shared).await {
            Ok(()) => {
                tracing::info!(
                    "waiters poll the store: its notifications do not arrive, probably because \
                     of a transaction pooler; `pooler=transaction` says so at once"
                );
                shared.link.clock.sleep(SWALLOWED).await;
            }
            Err(error) => tracing::debug!(%error, "the store's notifications broke off"),
        }
        shared.tell_all();
        shared.link.clock.sleep(RECONNECT).await;
    }
}

/// Listens until the connection breaks. `Ok`: notifications do not arrive at all.
async fn session(shared: &Shared) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let connector = tls::connector(&shared.address.trust)?;
    let connect = shared.address.config.connect(connector);
    let connected = within(&*shared.link.clock, CONNECT_MAX, connect).await;
    let (client, mut connection) = connected.ok_or("no connection in time")??;
    let channel = shared.link.schema.channel();
    let greet = format!("LISTEN \"{channel}\"; SELECT pg_notify('{channel}', '{GREETING}')");
    let mut asked = std::pin::pin!(client.batch_execute(&greet));
    let mut is_asked = false;
    let greeted = async {
        loop {
            let message = poll_fn(|context| {
                // The connection works only while it is polled, so both are polled together.
                if !is_asked && let Poll::Ready(answer) = asked.as_mut().poll(context) {
                    is_asked = true;
                    if let Err(error) = answer {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                connection.poll_message(context)
            });
            match message.await.transpose()? {
                None => return Err("the connection ended".into()),
                Some(AsyncMessage::Notification(it)) if it.payload() == GREETING => return Ok(()),
                Some(_) => {}
            }
        }
    };
    let greeted: Option<Result<(), Box<dyn std::error::Error + Send + Sync>>> =
        within(&*shared.link.clock, GREETING_MAX, greeted).await;
    match greeted {
        None => return Ok(()),
        Some(greeted) => greeted?,
    }
    loop {
        match poll_fn(|context| connection.poll_message(context)).await.transpose()? {
            None => return Err("the connection ended".into()),
            Some(AsyncMessage::Notification(it)) => shared.tell(it.payload()),
            Some(_) => {}
        }
    }
}
