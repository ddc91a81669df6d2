//! What a worker of apalis hears about each delivery. Its PostgreSQL, Redis and SQLite backends are
//! tested with the example `apalis-orders`.
//!
//! Nothing sleeps: what a worker hears about each delivery comes through a channel.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::backend::TaskSink;
use apalis_core::backend::memory::MemoryStorage;
use apalis_core::error::{AbortError, BoxDynError};
use apalis_core::task::Task as Delivery;
use apalis_core::task::data::Data;
use apalis_core::task::status::Status;
use apalis_core::worker::builder::WorkerBuilder;
use semel::guard::Missing;
use semel::{
    BoxFuture, Effect, ErrorKind, Event, Failure, FingerprintKey, Guard, GuardBuilder, Key,
    MemoryStore, OnUnknown, Settings,
};
use semel_tasks::apalis::{GuardLayer, KeyOf};
use semel_tasks::{Task, TaskGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower_layer::Layer;
use tower_service::Service;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    id: u32,
    item: String,
}

fn order(id: u32, item: &str) -> Order {
    Order { id, item: item.to_owned() }
}

/// What a worker heard about one delivery. The status that it writes down must say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Aborted(String),
    Done(String),
    Failed(String),
}

/// Tells the test what comes out of the layers below it.
#[derive(Clone)]
struct Listen(UnboundedSender<Heard>);

#[derive(Clone)]
struct Listening<S>(S, UnboundedSender<Heard>);

impl<S> Layer<S> for Listen {
    type Service = Listening<S>;

    fn layer(&self, inner: S) -> Listening<S> {
        Listening(inner, self.0.clone())
    }
}

impl<S> Service<Delivery<Order>> for Listening<S>
where
    S: Service<Delivery<Order>, Response = String, Error = BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = String;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<String, BoxDynError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, task: Delivery<Order>) -> Self::Future {
        let status = task.raw_status().clone();
        let (answer, tell) = (self.0.call(task), self.1.clone());
        Box::pin(async move {
            let answer = answer.await;
            let (heard, expected) = match &answer {
                Ok(done) => (Heard::Done(done.clone()), Status::Done),
                Err(error) if error.is::<AbortError>() => {
                    (Heard::Aborted(text_of(error)), Status::Killed)
                }
                Err(error) => (Heard::Failed(text_of(error)), Status::Failed),
            };
            assert_eq!(status.load(), expected, "{heard:?}");
            // A test that has heard enough is gone.
            tell.send(heard).unwrap_or_default();
            answer
        })
    }
}

fn text_of(error: &BoxDynError) -> String {
    let source = error.source().map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

/// What the handlers share: how often they ran, and a door that the test opens.
#[derive(Clone, Default)]
struct Shop {
    charged: Arc<AtomicU32>,
    open: Arc<Notify>,
}

async fn charge(order: Order, task: Task, shop: Data<Shop>) -> Result<String, Failure> {
    shop.charged.fetch_add(1, Ordering::SeqCst);
    match &*order.item {
        "slow" => shop.open.notified().await,
        "unknown" => return Err(std::io::Error::other("no answer").into()),
        "closed" => return Err(Failure::not_applied("the shop is closed")),
        "forbidden" => return Err(Failure::final_answer(&"not for sale")),
        _ => {}
    }
    Ok(format!("{} under {}", order.id, task.step_key("charge").as_str()))
}

fn door(builder: GuardBuilder<Missing, Missing>, effect: Effect) -> TaskGuard {
    let mut settings = Settings::default();
    settings.retry_after = Duration::from_millis(5);
    let guard = builder.operation("charge").unwrap();
    let guard = guard.effect(effect).settings(settings).build().unwrap();
    TaskGuard::new(guard, FingerprintKey::from_secret(b"sixteen bytes or more").unwrap())
}

/// A layer that knows orders by their number, not by the task that carries them.
fn by_number(tasks: TaskGuard) -> GuardLayer<impl KeyOf<Order>> {
    GuardLayer::new(tasks)
        .with_key(|task: &Delivery<Order>| Key::parse(&format!("order-{}", task.args.id)))
}

/// Starts a worker on this backend under this layer; gives the channel and what stops it.
macro_rules! work {
    ($backend:expr, $shop:expr, $layer:expr) => {{
        let (tell, heard) = unbounded_channel();
        let worker = WorkerBuilder::new("worker")
            .backend($backend)
            .data($shop.clone())
            .layer(Listen(tell))
            .layer($layer)
            .build(charge);
        (heard, tokio::spawn(worker.run()))
    }};
}

async fn next(heard: &mut UnboundedReceiver<Heard>) -> Heard {
    heard.recv().await.expect("the worker runs")
}

#[tokio::test]
async fn deliveries_that_meet_a_running_one_wait_and_all_get_its_result() {
    let (mut queue, shop) = (MemoryStorage::new(), Shop::default());
    for _ in 0..6 {
        queue.push(order(17, "slow")).await.unwrap();
    }
    // The first one ends only after others were refused.
    let (refused, open) = (AtomicU32::new(0), Arc::clone(&shop.open));
    let watch = move |event: &Event| {
        if matches!(event, Event::Refused { kind: ErrorKind::InFlight })
            && refused.fetch_add(1, Ordering::SeqCst) == 4
        {
            open.notify_one();
        }
    };
    let builder = Guard::builder(Arc::new(MemoryStore::new())).observer(Arc::new(watch));
    let (mut heard, worker) = work!(queue, shop, by_number(door(builder, Effect::Keyed)));
    let mut receipts = Vec::new();
    for _ in 0..6 {
        receipts.push(next(&mut heard).await);
    }
    assert!(matches!(&receipts[0], Heard::Done(_)), "{receipts:?}");
    assert!(receipts.iter().all(|receipt| *receipt == receipts[0]), "{receipts:?}");
    assert_eq!(shop.charged.load(Ordering::SeqCst), 1);
    worker.abort();
}

#[tokio::test]
async fn a_delivery_that_has_waited_long_enough_is_an_error_and_never_done() {
    let tasks = door(Guard::builder(Arc::new(MemoryStore::new())), Effect::Keyed);
    let payload = order(17, "book");
    let fingerprint = semel_tasks::fingerprint(tasks.secret(), &payload).unwrap();
    let key = Key::parse("order-17").unwrap();
    let running = tasks.begin(tasks.tenant(), &key, fingerprint).await.unwrap();
    let mut queue = MemoryStorage::new();
    queue.push(payload).await.unwrap();
    let layer = by_number(tasks).with_wait(Duration::from_millis(50));
    let (mut heard, worker) = work!(queue, Shop::default(), layer);
    assert!(matches!(next(&mut heard).await, Heard::Failed(why) if why.contains("executing")));
    worker.abort();
    drop(running);
}

/// What workers hear about one order after the other.
async fn told(effect: Effect, orders: &[Order]) -> Vec<Heard> {
    let layer = by_number(door(Guard::builder(Arc::new(MemoryStore::new())), effect));
    let mut all = Vec::new();
    for order in orders {
        let mut queue = MemoryStorage::new();
        queue.push(order.clone()).await.unwrap();
        let (mut heard, worker) = work!(queue, Shop::default(), layer.clone());
        all.push(next(&mut heard).await);
        worker.abort();
    }
    all
}

#[tokio::test]
async fn a_worker_hears_for_every_ending_what_to_do_with_the_task() {
    let hold = Effect::Foreign(OnUnknown::Hold);
    let is_aborted = |heard: &Heard, why: &str| {
        assert!(matches!(heard, Heard::Aborted(text) if text.contains(why)), "{why}: {heard:?}");
    };
    // Another payload under one number; a refusal, twice the same.
    let heard = told(
        hold,
        &[order(1, "book"), order(1, "pen"), order(2, "forbidden"), order(2, "forbidden")],
    )
    .await;
    assert!(matches!(heard[0], Heard::Done(_)), "{heard:?}");
    is_aborted(&heard[1], "another payload");
    is_aborted(&heard[2], "refusal that is stored");
    assert_eq!(heard[2], heard[3]);
    // Unknown: parked by one mode, tried again by the other.
    let heard = told(hold, &[order(1, "unknown"), order(1, "unknown")]).await;
    is_aborted(&heard[0], "its effect is unknown");
    is_aborted(&heard[1], "semel records");
    let heard = told(Effect::Keyed, &[order(1, "unknown"), order(2, "closed")]).await;
    assert!(matches!(heard[..], [Heard::Failed(_), Heard::Failed(_)]), "{heard:?}");
}

#[tokio::test]
async fn a_task_is_known_by_its_idempotency_key_or_else_by_its_id() {
    let task = || apalis_core::task::builder::TaskBuilder::new(order(1, "book"));
    let id = || apalis_core::task::task_id::TaskId::from_string("task-1");
    let key = |task: &Delivery<Order>| {
        semel_tasks::apalis::key_of(task).map(|key| key.as_str().to_owned())
    };
    assert_eq!(key(&task().task_id(id()).build()).unwrap(), "task-1");
    assert_eq!(key(&task().task_id(id()).idempotency_key("order-1").build()).unwrap(), "order-1");
    assert!(key(&task().build()).unwrap_err().to_string().contains("neither"));
    assert!(key(&task().idempotency_key("two words").build()).is_err());
}
