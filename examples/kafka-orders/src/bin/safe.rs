//! The twin of `listener` whose invoices happen once: the id, the invoice and the position are
//! rows of one file and commit in one transaction.
//!
//! ```console
//! $ cargo run -p kafka-orders --bin safe -- --brokers 127.0.0.1:9092 --db billing.db
//! ```

use std::sync::Arc;
use std::time::Duration;

use kafka_orders::{BoxError, ORDERS, bill, database, item, open, option};
use semel_kafka::{
    Clockwork, ConsumerOptions, Identity, Inbox, KafkaLog, Poison, Refresh, SqliteLedger, Window,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let log = KafkaLog::connect(option("--brokers", "127.0.0.1:9092"))?;
    drop(open()?);
    let ledger = SqliteLedger::open(database())?;
    // Longer than the topic's retention, so that reading it again bills nobody again.
    let month = Duration::from_secs(30 * 86_400);
    let window = Window::of(month, Clockwork::Event, Refresh::Fixed)?;
    let options = ConsumerOptions::new("billing", [ORDERS], Poison::stop(5));
    let id = Identity::header("Idempotency-Key");
    let inbox = Inbox::new(Arc::new(log), Arc::new(ledger), id, window, options)?;
    let stop = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    inbox
        .run(
            |record, transaction| {
                Box::pin(async move {
                    let item = item(record);
                    transaction.with(move |db| bill(db, &item)).await?;
                    Ok(())
                })
            },
            stop,
        )
        .await?;
    Ok(())
}
