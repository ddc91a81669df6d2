//! Waiting for the end of a claim. Whoever waits marks the record; whoever ends it then publishes
//! its name. A record that nobody waits for costs no message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;
use futures_util::StreamExt;
use redis::Value;
use redis::aio::PubSub;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::fault::Fault;
use super::link::Link;
use super::script;

/// Those who wait, and the one connection that hears for them.
#[derive(Debug)]
pub(super) struct Waiters {
    channel: String,
    shared: Arc<Shared>,
    listener: Mutex<Option<AbortHandle>>,
}

#[derive(Debug)]
struct Shared {
    ear: watch::Sender<Ear>,
    /// A dropped sender wakes the one who waits.
    waiting: Mutex<HashMap<String, Vec<oneshot::Sender<()>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ear {
    Deaf,
    Listening,
    Subscribing,
}

impl Waiters {
    pub(super) fn new(channel: String) -> Self {
        let shared = Shared { ear: watch::Sender::new(Ear::Deaf), waiting: Mutex::default() };
        Self { channel, shared: Arc::new(shared), listener: Mutex::default() }
    }

    /// Completes when the record's end was published, or nobody will publish it any more: it is
    /// not in progress, or the connection broke. Stays silent when there is no way to hear; then
    /// waiters look for themselves.
    pub(super) async fn wait(&self, link: &Arc<Link>, record: &str) {
        if !self.listen(link).await {
            return std::future::pending().await;
        }
        // Enlisted before the record is marked, so that no message falls in between.
        let mut enlisted = Enlisted::new(&self.shared, record);
        match link.run(&script::AWAIT, &[record], &[] as &[&[u8]]).await {
            Ok(Value::Int(1)) => drop((&mut enlisted.ended).await),
            Ok(_) => {}
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether somebody listens now; the first who waits starts it.
    async fn listen(&self, link: &Arc<Link>) -> bool {
        let is_first = self.shared.ear.send_if_modified(|ear| {
            let is_deaf = *ear == Ear::Deaf;
            if is_deaf {
                *ear = Ear::Subscribing;
            }
            is_deaf
        });
        if is_first {
            // A task of its own, because the one who waits may give up before it is ready.
            let (link, channel) = (Arc::clone(link), self.channel.clone());
            let listener = hear(Arc::clone(&self.shared), link, channel);
            *lock(&self.listener) = Some(Handle::current().spawn(listener).abort_handle());
        }
        let mut ear = self.shared.ear.subscribe();
        matches!(ear.wait_for(|ear| *ear != Ear::Subscribing).await.as_deref(), Ok(Ear::Listening))
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        if let Some(listener) = lock(&self.listener).take() {
            listener.abort();
        }
    }
}

async fn hear(shared: Arc<Shared>, link: Arc<Link>, channel: String) {
    if let Ok(subscription) = subscribe(&link, &channel).await {
        shared.ear.send_replace(Ear::Listening);
        let mut messages = std::pin::pin!(subscription.into_on_message());
        while let Some(message) = messages.next().await {
            if let Ok(record) = std::str::from_utf8(message.get_payload_bytes()) {
                lock(&shared.waiting).remove(record);
            }
        }
    }
    shared.ear.send_replace(Ear::Deaf);
    // What was missed is unknown, so everybody looks.
    lock(&shared.waiting).clear();
}

/// In a cluster every node passes every message on, so any node will do.
async fn subscribe(link: &Link, channel: &str) -> Result<PubSub, Fault> {
    let connector = link.connector();
    let mut last = Fault::unreachable("no node can be reached");
    for client in connector.listening_clients().await? {
        let subscribed = Box::pin(async move {
            let mut subscription = client.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(subscription)
        });
        match link.in_time(subscribed).await {
            Ok(subscription) => return Ok(subscription),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

/// A place among those who wait; given back when it is dropped.
struct Enlisted<'a> {
    shared: &'a Shared,
    record: &'a str,
    ended: oneshot::Receiver<()>,
}

impl<'a> Enlisted<'a> {
    fn new(shared: &'a Shared, record: &'a str) -> Self {
        let (end, ended) = oneshot::channel();
        lock(&shared.waiting).entry(record.to_owned()).or_default().push(end);
        Self { shared, record, ended }
    }
}

impl Drop for Enlisted<'_> {
    fn drop(&mut self) {
        self.ended.close();
        let mut waiting = lock(&self.shared.waiting);
        if let Some(ends) = waiting.get_mut(self.record) {
            ends.retain(|end| !end.is_canceled());
            if ends.is_empty() {
                waiting.remove(self.record);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
