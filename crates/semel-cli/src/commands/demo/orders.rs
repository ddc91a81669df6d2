//! The service of the demo: an ordinary order handler without any protection. It inserts a row a
//! request, and counts its rows itself.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, raise};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::failure::Failure;
use crate::output;

/// The longest body of an order.
const BODY_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// File with the orders
    #[arg(long)]
    db: PathBuf,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
}

struct Shop {
    orders: Mutex<Connection>,
}

pub(crate) async fn serve(arguments: Arguments) -> Result<(), Failure> {
    let opened = Connection::open(&arguments.db).and_then(|orders| {
        orders.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, key TEXT, item TEXT)",
        )?;
        Ok(orders)
    });
    let orders = opened.map_err(|error| {
        Failure::runtime(format!("{} cannot hold orders", arguments.db.display())).caused_by(&error)
    })?;
    let shop = Arc::new(Shop { orders: Mutex::new(orders) });
    let bound = TcpListener::bind(&arguments.listen).await;
    let bound = bound.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|error| {
        Failure::runtime(format!("{} cannot be listened on", arguments.listen)).caused_by(&error)
    })?;
    output::line(&format!("listening on http://{address}"));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shop = Arc::clone(&shop);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let shop = Arc::clone(&shop);
                async move { Ok::<_, Infallible>(shop.answer(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that hangs up is what the demo is about.
            drop(connection.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

impl Shop {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let answered = match (request.method(), request.uri().path()) {
            (&Method::POST, "/orders") => {
                // Like the threads of most servers, a handler runs on when its client hangs up.
                let shop = Arc::clone(&self);
                let created = tokio::spawn(async move { shop.create(request).await });
                created.await.unwrap_or(Err(rusqlite::Error::InvalidQuery))
            }
            (&Method::GET, "/count") => self.count().map(|[orders, keys]| {
                answer(StatusCode::OK, &json!({ "orders": orders, "distinct_keys": keys }))
            }),
            (&Method::GET, path) if path.starts_with("/orders/") => {
                let key = &path["/orders/".len()..];
                self.order_of(key).map(|id| answer(StatusCode::OK, &json!({ "order": id })))
            }
            _ => Ok(answer(StatusCode::NOT_FOUND, &json!({ "error": "no such page" }))),
        };
        answered.unwrap_or_else(|error| {
            answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": error.to_string() }))
        })
    }

    /// What most handlers do: some work, one insert, an answer.
    async fn create(&self, request: Request<Incoming>) -> rusqlite::Result<Response<Full<Bytes>>> {
        let field = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let (key, crash) = (field("idempotency-key"), field("demo-crash"));
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
        let order: Value = body
            .ok()
            .and_then(|body| serde_json::from_slice(&body.to_bytes()).ok())
            .unwrap_or_default();
        let item = order["item"].as_str().unwrap_or("nothing").to_owned();
        let work = Duration::from_millis(order["work_ms"].as_u64().unwrap_or(0).min(10_000));
        tokio::time::sleep(work).await;
        let (id, is_first) = self.insert(&key, &item)?;
        if crash == "after-order" && is_first {
            // The worst moment: the order is there, and nobody has heard of it.
            raise(Signal::SIGKILL).ok();
        }
        let mut response = answer(StatusCode::CREATED, &json!({ "order": id, "item": item }));
        if let Ok(place) = format!("/orders/{id}").parse() {
            response.headers_mut().insert(header::LOCATION, place);
        }
        Ok(response)
    }

    fn insert(&self, key: &str, item: &str) -> rusqlite::Result<(i64, bool)> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.execute("INSERT INTO orders (key, item) VALUES (?1, ?2)", [key, item])?;
        let id = orders.last_insert_rowid();
        let same = "SELECT count(*) FROM orders WHERE key = ?1";
        let same: i64 = orders.query_row(same, [key], |row| row.get(0))?;
        Ok((id, same == 1))
    }

    fn count(&self) -> rusqlite::Result<[i64; 2]> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let sql = "SELECT count(*), count(DISTINCT key) FROM orders";
        orders.query_row(sql, (), |row| Ok([row.get(0)?, row.get(1)?]))
    }

    /// The first order under this key, or 0.
    fn order_of(&self, key: &str) -> rusqlite::Result<i64> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let sql = "SELECT coalesce(min(id), 0) FROM orders WHERE key = ?1";
        orders.query_row(sql, [key], |row| row.get(0))
    }
}

fn answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
