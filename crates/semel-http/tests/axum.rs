//! The layer in an axum application: one line, and with SQLite one transaction.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use semel::{Effect, ErrorKind, Guard, Store};
use semel_http::{IdempotencyLayer, Tx};
use semel_stores::sqlite::{SqliteOptions, SqliteStore};
use serde_json::{Value, json};
use support::*;
use tower::ServiceExt;

async fn ask(app: &Router, request: Request<axum::body::Body>) -> (u16, bool, String) {
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let replayed = response.headers().contains_key("idempotent-replayed");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, replayed, String::from_utf8(body.into()).unwrap())
}

fn order(key: &str, body: &Value) -> Request<axum::body::Body> {
    Request::post("/orders")
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(body.to_string().into())
        .unwrap()
}

#[tokio::test]
async fn an_axum_router_takes_the_layer_in_one_line() {
    let runs = Runs::default();
    let counted = runs.clone();
    let create = move |Json(body): Json<Value>| {
        let run = counted.add();
        async move { (StatusCode::CREATED, Json(json!({ "id": run, "item": body["item"] }))) }
    };
    let app = Router::new()
        .route("/orders", post(create).get(|| async { "list" }))
        .route("/health", get(|| async { "fine" }))
        .layer(layer(HOLD));
    let request = || order("k", &json!({ "item": "book" }));
    let first = ask(&app, request()).await;
    assert_eq!(first, (201, false, "{\"id\":1,\"item\":\"book\"}".to_owned()));
    assert_eq!(ask(&app, request()).await, (201, true, first.2));
    let health = Request::get("/health").body(axum::body::Body::empty()).unwrap();
    assert_eq!(ask(&app, health).await, (200, false, "fine".to_owned()));
    assert_eq!(runs.count(), 1);
}

struct Shop {
    store: Arc<SqliteStore>,
    app: Router,
    runs: Runs,
    _folder: tempfile::TempDir,
}

/// Inserts an order in the transaction, then answers with the status that the order asks for.
async fn create(
    Extension(tx): Extension<Tx<SqliteStore>>,
    Extension(runs): Extension<Runs>,
    Json(body): Json<Value>,
) -> (StatusCode, String) {
    let run = runs.add();
    let insert = |db: &rusqlite::Connection| db.execute("INSERT INTO orders DEFAULT VALUES", []);
    tx.lock().await.unwrap().with(insert).await.unwrap();
    if body["panic"] == true {
        panic!("as the order wants it");
    }
    if body["leak"] == true {
        // Keeps the transaction locked for ever.
        tokio::spawn(async move {
            let _open = tx.lock().await.unwrap();
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
    }
    let status = body["status"].as_u64().unwrap_or(201);
    (StatusCode::from_u16(u16::try_from(status).unwrap()).unwrap(), format!("run {run}"))
}

fn shop() -> Shop {
    let folder = tempfile::tempdir().unwrap();
    // A leaked transaction keeps the file locked; nobody has to wait long for that here.
    let patience = Duration::from_millis(200);
    let options = SqliteOptions::default().patience(patience);
    let store = Arc::new(options.open(folder.path().join("shop.db")).unwrap());
    let db = rusqlite::Connection::open(store.path()).unwrap();
    db.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY)").unwrap();
    let mut settings = semel::Settings::default();
    settings.store_patience = patience;
    let guard = Guard::builder(Arc::clone(&store) as Arc<dyn Store>)
        .operation("orders")
        .unwrap()
        .effect(Effect::Transactional)
        .settings(settings)
        .build()
        .unwrap();
    let layer = builder(guard).transactional(Arc::clone(&store)).build().unwrap();
    let runs = Runs::default();
    let app =
        Router::new().route("/orders", post(create)).layer(layer).layer(Extension(runs.clone()));
    Shop { store, app, runs, _folder: folder }
}

impl Shop {
    fn orders(&self) -> i64 {
        let db = rusqlite::Connection::open(self.store.path()).unwrap();
        db.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap()
    }
}

#[tokio::test]
async fn order_and_record_commit_together_and_replay() {
    let shop = shop();
    let request = || order("k", &json!({}));
    assert_eq!(ask(&shop.app, request()).await, (201, false, "run 1".to_owned()));
    assert_eq!(ask(&shop.app, request()).await, (201, true, "run 1".to_owned()));
    assert_eq!((shop.orders(), shop.runs.count()), (1, 1));
}

#[tokio::test]
async fn an_answer_that_is_not_stored_takes_the_order_back_and_frees_the_key() {
    let shop = shop();
    for status in [500, 503, 429] {
        let key = format!("k-{status}");
        let failed = ask(&shop.app, order(&key, &json!({ "status": status }))).await;
        assert_eq!((failed.0, shop.orders()), (status, 0));
        let again = ask(&shop.app, order(&key, &json!({ "status": status }))).await;
        assert_eq!((again.0, again.1, shop.orders()), (status, false, 0), "it ran again");
    }
    assert_eq!(shop.runs.count(), 6);
    // A refusal that is stored keeps what the handler wrote, because it is the operation's end.
    let refused = ask(&shop.app, order("k-409", &json!({ "status": 409 }))).await;
    assert_eq!((refused.0, shop.orders()), (409, 1));
    assert!(ask(&shop.app, order("k-409", &json!({ "status": 409 }))).await.1);
}

#[tokio::test]
async fn a_handler_that_panics_or_leaks_its_transaction_commits_nothing() {
    let shop = shop();
    let panicked = ask(&shop.app, order("p", &json!({ "panic": true }))).await;
    assert_eq!((panicked.0, shop.orders()), (409, 0));
    let leaked = ask(&shop.app, order("l", &json!({ "leak": true }))).await;
    assert_eq!(leaked.0, 409, "a success that is not committed is not sent: {leaked:?}");
    assert!(leaked.2.contains("outcome-unknown"), "{leaked:?}");
    assert_eq!(shop.orders(), 0);
}

#[tokio::test]
async fn a_transaction_is_over_when_its_handler_has_returned() {
    let kept: Arc<std::sync::Mutex<Option<Tx<SqliteStore>>>> = Arc::default();
    let shop = shop();
    let slot = Arc::clone(&kept);
    let guard = Guard::builder(Arc::clone(&shop.store) as Arc<dyn Store>);
    let guard = guard.operation("kept").unwrap().effect(Effect::Transactional).build().unwrap();
    let layer = builder(guard).transactional(Arc::clone(&shop.store)).build().unwrap();
    let keep = move |Extension(tx): Extension<Tx<SqliteStore>>| {
        *slot.lock().unwrap() = Some(tx);
        async { "kept" }
    };
    let app = Router::new().route("/orders", post(keep)).layer(layer);
    assert_eq!(ask(&app, order("k", &json!({}))).await.0, 200);
    let tx = kept.lock().unwrap().take().unwrap();
    assert_eq!(tx.lock().await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn two_databases_are_refused() {
    let (one, other) = (shop(), shop());
    let guard = Guard::builder(Arc::clone(&one.store) as Arc<dyn Store>);
    let guard = guard.operation("orders").unwrap().effect(Effect::Transactional).build().unwrap();
    let built = IdempotencyLayer::builder(guard).single_tenant().transactional(other.store).build();
    assert!(built.unwrap_err().to_string().contains("two databases"));
}
