//! The example over the PostgreSQL, Redis and SQLite backends of apalis: an order that is put in
//! or delivered many times is charged once, and every delivery ends with the one receipt.
//!
//! Nothing sleeps: what a worker hears about each delivery comes through a channel.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use apalis_core::backend::TaskSink;
use apalis_core::error::{AbortError, BoxDynError};
use apalis_core::task::Task;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_orders::{Order, Payments, charge, once};
use apalis_postgres::{PgPool, PostgresStorage};
use apalis_redis::RedisStorage;
use apalis_sqlite::{SqlitePool, SqliteStorage};
use semel::MemoryStore;
use semel_stores::postgres::{PostgresOptions, PostgresStore, migrate};
use semel_stores::redis::{RedisOptions, RedisStore};
use semel_testkit::servers::{Postgres, Redis, skips};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower_layer::Layer;
use tower_service::Service;

const SECRET: &[u8] = b"sixteen bytes or more";

/// What a worker heard about one delivery.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Aborted,
    Done(String),
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

impl<S> Service<Task<Order>> for Listening<S>
where
    S: Service<Task<Order>, Response = String, Error = BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = String;
    type Error = BoxDynError;
    type Future = Pin<Box<dyn Future<Output = Result<String, BoxDynError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, task: Task<Order>) -> Self::Future {
        let (answer, tell) = (self.0.call(task), self.1.clone());
        Box::pin(async move {
            let answer = answer.await;
            let heard = match &answer {
                Ok(receipt) => Heard::Done(receipt.clone()),
                Err(error) if error.is::<AbortError>() => Heard::Aborted,
                Err(error) => panic!("{error}"),
            };
            tell.send(heard).unwrap_or_default();
            answer
        })
    }
}

/// Puts one order in many times, and one that is refused.
macro_rules! put_in {
    ($queue:expr) => {
        for item in ["book", "book", "book", "book", "book", "unicorn"] {
            let id = if item == "book" { 17 } else { 18 };
            $queue.push(Order { id, item: item.to_owned() }).await.unwrap();
        }
    };
}

/// Starts a worker; gives what it hears and what stops it.
macro_rules! work {
    ($queue:expr, $payments:expr, $layer:expr) => {{
        let (tell, heard) = unbounded_channel();
        let worker = WorkerBuilder::new("worker")
            .backend($queue)
            .data($payments.clone())
            .layer(Listen(tell))
            .layer($layer)
            .build(charge);
        (heard, tokio::spawn(worker.run()))
    }};
}

async fn all_are_answered(mut heard: UnboundedReceiver<Heard>, payments: &Payments) {
    let (mut done, mut aborted) = (0, 0);
    while done < 5 || aborted < 1 {
        match heard.recv().await.expect("the worker runs") {
            Heard::Done(receipt) => {
                assert_eq!(receipt, "receipt for a book");
                done += 1;
            }
            Heard::Aborted => aborted += 1,
        }
    }
    assert_eq!((done, aborted, payments.calls().len()), (5, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_an_order_is_charged_once_however_often_it_is_put_in_or_delivered() {
    if skips(Postgres::missing()) {
        return;
    }
    let server = Postgres::start().unwrap();
    let pool = PgPool::connect(&server.url()).await.unwrap();
    PostgresStorage::setup(&pool).await.unwrap();
    migrate::up(&server.url(), PostgresOptions::default()).await.unwrap();
    let store = Arc::new(PostgresStore::connect(&server.url()).await.unwrap());
    let payments = Payments::default();
    let mut queue = PostgresStorage::<Order>::new(&pool);
    put_in!(queue);
    let (heard, worker) = work!(queue, payments, once(store.clone(), SECRET).unwrap());
    all_are_answered(heard, &payments).await;
    let states = "SELECT string_agg(status, ' ' ORDER BY status) FROM apalis.jobs";
    while server.sql(states).unwrap().trim() != "Done Done Done Done Done Killed" {}
    worker.abort();
    // A worker that died before its acknowledgements: everything is delivered again.
    let again = "UPDATE apalis.jobs SET status = 'Pending', attempts = 0, lock_by = NULL";
    server.sql(again).unwrap();
    let queue = PostgresStorage::<Order>::new(&pool);
    let (heard, worker) = work!(queue, payments, once(store, SECRET).unwrap());
    all_are_answered(heard, &payments).await;
    worker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_an_order_that_is_put_in_many_times_is_charged_once() {
    if skips(Redis::missing()) {
        return;
    }
    let server = Redis::start().unwrap();
    let connection = apalis_redis::connect(server.url()).await.unwrap();
    let store =
        Arc::new(RedisStore::connect(&server.url(), RedisOptions::default()).await.unwrap());
    let payments = Payments::default();
    let mut queue = RedisStorage::<Order>::new(connection);
    put_in!(queue);
    let (heard, worker) = work!(queue, payments, once(store, SECRET).unwrap());
    all_are_answered(heard, &payments).await;
    worker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_an_order_that_is_put_in_many_times_is_charged_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}?mode=rwc", folder.path().join("queue.db").display());
    let pool = SqlitePool::connect(&url).await.unwrap();
    SqliteStorage::setup(&pool).await.unwrap();
    let payments = Payments::default();
    let mut queue = SqliteStorage::<Order>::new(&pool);
    put_in!(queue);
    let layer = once(Arc::new(MemoryStore::new()), SECRET).unwrap();
    let (heard, worker) = work!(queue, payments, layer);
    all_are_answered(heard, &payments).await;
    let states = "SELECT group_concat(status, ' ') FROM (SELECT status FROM Jobs ORDER BY status)";
    loop {
        let seen: String = sqlx::query_scalar(states).fetch_one(&pool).await.unwrap();
        if seen == "Done Done Done Done Done Killed" {
            break;
        }
    }
    worker.abort();
}
