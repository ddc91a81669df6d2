//! One key through every door: an HTTP request, an outbox, Kafka, and a consumer whose effect is
//! in the same transaction as its position. Retry, kill or restart any of it: one order, one
//! record, one invoice.
//!
//! ```console
//! $ cargo run -p kafka-orders --bin shop -- --brokers 127.0.0.1:9092 --listen 127.0.0.1:8080
//! $ curl -i -H 'Idempotency-Key: "17"' --json '{"item":"book"}' http://127.0.0.1:8080/orders
//! $ semel records trace 17 --step order-placed \
//!     --store sqlite:billing.db --ledger sqlite:billing.db
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use kafka_orders::{BoxError, ORDERS, bill, database, item, open, option};
use semel::{Context, Effect, FingerprintKey, Guard, Wait};
use semel_http::{IdempotencyLayer, Tx};
use semel_kafka::log::{Log, Outgoing};
use semel_kafka::outbox::Relay;
use semel_kafka::{
    Clockwork, ConsumerOptions, Identity, Inbox, KEY_HEADER, KafkaLog, Poison, Refresh,
    SqliteLedger, Window,
};
use semel_stores::sqlite::SqliteStore;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The outbox and the step that fills it.
const OUTBOX: &str = "shop";
const STEP: &str = "order-placed";

#[derive(Deserialize)]
struct NewOrder {
    item: String,
}

#[derive(Serialize)]
struct Order {
    id: i64,
    item: String,
}

/// Whatever goes wrong becomes a `500`, and everything is rolled back: the client may retry.
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

/// The order, the record for Kafka and the answer to every retry commit together.
async fn create(
    Extension(tx): Extension<Tx<SqliteStore>>,
    Extension(context): Extension<Context>,
    Json(new): Json<NewOrder>,
) -> Result<(StatusCode, Json<Order>), Failed> {
    let key = context.step_key(STEP);
    let item = new.item.clone();
    let write = move |db: &rusqlite::Connection| {
        db.execute("INSERT INTO orders (item) VALUES (?1)", [&item])?;
        let record = Outgoing::to(ORDERS).key(item.clone()).value(item);
        let record = record.header(KEY_HEADER, key.as_str().to_owned());
        SqliteLedger::enqueue(db, OUTBOX, &record)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(db.last_insert_rowid())
    };
    let id = tx.lock().await?.with(write).await?;
    Ok((StatusCode::CREATED, Json(Order { id, item: new.item })))
}

async fn invoices(State(()): State<()>) -> Result<Json<Vec<String>>, Failed> {
    let read = || {
        let db = open()?;
        let mut items = db.prepare("SELECT item FROM invoice ORDER BY id")?;
        let items = items.query_map([], |row| row.get(0))?;
        items.collect::<rusqlite::Result<Vec<String>>>()
    };
    Ok(Json(tokio::task::spawn_blocking(read).await??))
}

async fn consume(
    log: Arc<dyn Log>,
    ledger: Arc<SqliteLedger>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), semel::Error> {
    let month = Duration::from_secs(30 * 86_400);
    let window = Window::of(month, Clockwork::Event, Refresh::Fixed)?;
    let options = ConsumerOptions::new("billing", [ORDERS], Poison::stop(5));
    let inbox = Inbox::new(log, ledger, Identity::header(KEY_HEADER), window, options)?;
    inbox
        .run(
            |record, transaction| {
                Box::pin(async move {
                    let item = item(record);
                    transaction.with(move |db| bill(db, &item)).await?;
                    Ok(())
                })
            },
            async move { drop(stop.wait_for(|stops| *stops).await) },
        )
        .await
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it says where it listens")]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let db = database();
    let store = Arc::new(SqliteStore::open(&db)?);
    open()?.execute_batch(
        "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT NOT NULL)",
    )?;
    let log: Arc<dyn Log> = Arc::new(KafkaLog::connect(option("--brokers", "127.0.0.1:9092"))?);
    let ledger = Arc::new(SqliteLedger::open(&db)?);

    let guard = Guard::builder(Arc::clone(&store) as _)
        .operation("create_order")?
        .effect(Effect::Transactional)
        .wait(Wait::UpTo(Duration::from_secs(20)))
        .build()?;
    let layer = IdempotencyLayer::builder(guard)
        .secret(FingerprintKey::from_secret(store.secret())?)
        .tenant_from_authorization()
        .transactional(store)
        .build()?;
    let app = Router::new().route("/orders", post(create)).layer(layer.clone());
    let app = app.route("/invoices", axum::routing::get(invoices)).with_state(());

    let (stop, stopped) = watch::channel(false);
    let relay = Relay::new(Arc::clone(&log), Arc::clone(&ledger) as _, OUTBOX, ORDERS)?;
    let mut relay_stopped = stopped.clone();
    let relayed = tokio::spawn(async move {
        relay.run(async move { drop(relay_stopped.wait_for(|stops| *stops).await) }).await
    });
    let relayed = async { Ok::<_, BoxError>(relayed.await??) };
    let consumed = tokio::spawn(consume(log, ledger, stopped));
    let consumed = async { Ok(consumed.await??) };

    let listener = tokio::net::TcpListener::bind(option("--listen", "127.0.0.1:0")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let ended = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    let served = async {
        axum::serve(listener, app).with_graceful_shutdown(ended).await?;
        layer.drained().await;
        stop.send_replace(true);
        Ok(())
    };
    // When one of them fails, the others end as well, and whoever runs this is told.
    tokio::try_join!(served, relayed, consumed)?;
    Ok(())
}
