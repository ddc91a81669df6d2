//! ```console
//! $ cargo xtask services postgres                   # prints a URL
//! $ cd examples/apalis-orders; export DATABASE_URL=postgres://…
//! $ cargo run -- order 17 book                      # as often as you like
//! $ cargo run -- work
//! order 17: receipt for a book
//! ```
//!
//! Queue and records are in one PostgreSQL.

use std::error::Error;
use std::sync::Arc;

use apalis_core::backend::TaskSink;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_orders::{Order, Payments, charge, once};
use apalis_postgres::{PgPool, PostgresStorage};
use semel_stores::postgres::{PostgresOptions, PostgresStore, migrate};

const USAGE: &str = "usage: apalis-orders work | order ID ITEM";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL to postgres://…")?;
    let pool = PgPool::connect(&url).await?;
    PostgresStorage::setup(&pool).await?;
    let mut queue = PostgresStorage::<Order>::new(&pool);
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["order", id, item] => {
            queue.push(Order { id: id.parse()?, item: item.to_owned() }).await?;
        }
        ["work"] => {
            migrate::up(&url, PostgresOptions::default()).await?;
            let store = Arc::new(PostgresStore::connect(&url).await?);
            let secret = *store.secret();
            WorkerBuilder::new(format!("orders-{}", std::process::id()))
                .backend(queue)
                .data(Payments::default())
                .layer(once(store, &secret)?)
                .build(charge)
                .run_until(tokio::signal::ctrl_c())
                .await?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}
