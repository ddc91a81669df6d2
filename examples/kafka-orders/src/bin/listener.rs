//! An idempotent listener as it is usually written: exists, process, save.
//!
//! It bills twice when it dies between `bill` and `save`, and when a rebalance gives its partition
//! to another member before the position is committed. Written the other way round, it loses
//! orders. `safe` is its twin.
//!
//! ```console
//! $ cargo run -p kafka-orders --bin listener -- --brokers 127.0.0.1:9092 --db billing.db
//! ```

use kafka_orders::{BoxError, ORDERS, bill, item, open, option};
use rusqlite::Connection;
use semel_kafka::KafkaLog;
use semel_kafka::log::{ConsumerSettings, Event, Log, Position, Record};

fn exists_by_id(db: &Connection, id: &str) -> rusqlite::Result<bool> {
    db.prepare("SELECT 1 FROM processed WHERE id = ?1")?.exists([id])
}

fn save(db: &Connection, id: &str) -> rusqlite::Result<()> {
    db.execute("INSERT INTO processed (id) VALUES (?1)", [id]).map(drop)
}

fn on_order(db: &Connection, record: &Record) -> Result<(), BoxError> {
    let id = record.header("Idempotency-Key").ok_or("the order has no id")?;
    let id = std::str::from_utf8(id)?;
    if exists_by_id(db, id)? {
        return Ok(());
    }
    bill(db, &item(record))?;
    save(db, id)?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let log = KafkaLog::connect(option("--brokers", "127.0.0.1:9092"))?;
    let db = open()?;
    let settings = ConsumerSettings::new("billing", [ORDERS]);
    let mut consumer = log.consumer(&settings)?;
    loop {
        match consumer.next().await? {
            Event::Assigned(partitions) => {
                let starts = partitions.into_iter().map(|partition| (partition, None)).collect();
                consumer.assign(starts).await?;
            }
            Event::Revoked(partitions) | Event::Lost(partitions) => {
                consumer.unassign(partitions).await?;
            }
            Event::Records(records) => {
                for record in records {
                    on_order(&db, &record)?;
                    let next = record.offset + 1;
                    let position = Position { partition: record.partition, next };
                    consumer.commit(vec![position]).await?;
                }
            }
        }
    }
}
