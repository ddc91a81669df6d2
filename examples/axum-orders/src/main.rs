//! An orders service on SQLite whose orders happen exactly once: the order and the record of its
//! `Idempotency-Key` are rows of one file and commit in one transaction.
//!
//! ```console
//! $ cargo run -p axum-orders -- --listen 127.0.0.1:8080 --db orders.db
//! $ curl -i -H 'Idempotency-Key: "17"' --json '{"item":"book"}' http://127.0.0.1:8080/orders
//! ```
//!
//! Send the second line twice: the same answer comes back, and `GET /orders` shows one order.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use semel::{Effect, FingerprintKey, Guard, Wait};
use semel_http::{IdempotencyLayer, Tx};
use semel_stores::sqlite::SqliteStore;
use serde::{Deserialize, Serialize};

type BoxError = Box<dyn Error + Send + Sync>;

#[derive(Deserialize)]
struct NewOrder {
    item: String,
}

#[derive(Serialize)]
struct Order {
    id: i64,
    item: String,
}

/// Whatever goes wrong becomes a `500`, and the layer rolls the transaction back: the client may
/// retry with the same key.
struct Failed(BoxError);

impl<E: Into<BoxError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

async fn create(
    Extension(tx): Extension<Tx<SqliteStore>>,
    Json(new): Json<NewOrder>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Order>), Failed> {
    let item = new.item.clone();
    let insert = move |db: &rusqlite::Connection| {
        db.execute("INSERT INTO orders (item) VALUES (?1)", [item])?;
        Ok(db.last_insert_rowid())
    };
    let id = tx.lock().await?.with(insert).await?;
    let location = [(header::LOCATION, format!("/orders/{id}"))];
    Ok((StatusCode::CREATED, location, Json(Order { id, item: new.item })))
}

async fn list(State(db): State<PathBuf>) -> Result<Json<Vec<Order>>, Failed> {
    let read = move || {
        let db = rusqlite::Connection::open(db)?;
        let mut orders = db.prepare("SELECT id, item FROM orders ORDER BY id")?;
        let orders =
            orders.query_map([], |row| Ok(Order { id: row.get(0)?, item: row.get(1)? }))?;
        orders.collect::<rusqlite::Result<Vec<_>>>()
    };
    Ok(Json(tokio::task::spawn_blocking(read).await??))
}

/// `--NAME VALUE` from the command line.
fn option(name: &str, default: &str) -> String {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).unwrap_or_else(|| default.to_owned())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it says where it listens")]
async fn main() -> Result<(), BoxError> {
    let db = PathBuf::from(option("--db", "orders.db"));
    let store = Arc::new(SqliteStore::open(&db)?);
    rusqlite::Connection::open(&db)?
        .execute_batch("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT)")?;

    let guard = Guard::builder(Arc::clone(&store) as _)
        .operation("create_order")?
        .effect(Effect::Transactional)
        .lease(Duration::from_secs(6))
        .wait(Wait::UpTo(Duration::from_secs(20)))
        .build()?;
    let layer = IdempotencyLayer::builder(guard)
        .secret(FingerprintKey::from_secret(store.secret())?)
        .tenant_from_authorization()
        .transactional(store)
        .build()?;
    let app =
        Router::new().route("/orders", post(create).get(list)).layer(layer.clone()).with_state(db);

    let listener = tokio::net::TcpListener::bind(option("--listen", "127.0.0.1:0")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    layer.drained().await;
    Ok(())
}
