//! Records that wait for the relay.

use bytes::Bytes;
use semel::{BoxFuture, Error, Timestamp};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use super::PostgresLedger;
use super::fault::{Fault, unreadable};
use super::link::{Parameters, column};
use crate::ledger::{Batch, OutboxTable, millis_of};
use crate::log::{Header, Outgoing};

impl PostgresLedger {
    /// Puts a record into an outbox, inside the caller's transaction on the ledger's database: it
    /// leaves if that commits, and never if not. Returns its id, which stays the same however
    /// often the relay sends it.
    ///
    /// Records leave in the order in which they were put in. Between two transactions that are
    /// open at the same time there is no order, so records whose order matters should be put in
    /// by transactions that exclude each other, such as those that lock the same row first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](semel::ErrorKind::Invalid) when the database cannot hold it (a NUL
    /// in a name); [`ErrorKind::Unavailable`](semel::ErrorKind::Unavailable) otherwise. Roll back
    /// after any.
    pub async fn enqueue(
        client: &impl GenericClient,
        outbox: &str,
        record: &Outgoing,
    ) -> Result<String, Error> {
        let (topic, partition) = (&*record.topic, record.partition);
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let names: Vec<_> = record.headers.iter().map(|header| &*header.name).collect();
        let values: Vec<_> = record.headers.iter().map(|header| header.value.as_deref()).collect();
        let timestamp = record.timestamp.map(millis_of);
        let values: Parameters<'_> = &[
            (&outbox, Type::TEXT),
            (&topic, Type::TEXT),
            (&partition, Type::INT4),
            (&key, Type::BYTEA),
            (&value, Type::BYTEA),
            (&names, Type::TEXT_ARRAY),
            (&values, Type::BYTEA_ARRAY),
            (&timestamp, Type::INT8),
        ];
        let id = async {
            let rows = client.query_typed(include_str!("enqueue.sql"), values).await?;
            column(rows.first().ok_or(Fault::Silent)?, "uid")
        };
        id.await.map_err(Fault::into_error)
    }

    async fn seal_now(&self, outbox: &str, limit: usize) -> Result<Option<Batch>, Fault> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX).max(1);
        let sql = "SELECT * FROM semel_kafka.seal($1, $2)";
        let rows = self.link.call(sql, &[(&outbox, Type::TEXT), (&limit, Type::INT8)]).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let number = column(first, "batch")?;
        let records = rows.iter().map(record_of).collect::<Result<_, _>>()?;
        Ok(Some(Batch { number, records }))
    }

    async fn waiting_now(&self, outbox: &str) -> Result<(u64, Option<Timestamp>), Fault> {
        let rows = self.link.call(include_str!("waiting.sql"), &[(&outbox, Type::TEXT)]).await?;
        let row = rows.first().ok_or(Fault::Silent)?;
        let (many, since): (i64, Option<i64>) = (column(row, "many")?, column(row, "since")?);
        let many = u64::try_from(many).map_err(|error| unreadable("many", error))?;
        Ok((many, since.and_then(|since| u64::try_from(since).ok()).map(Timestamp::from_millis)))
    }
}

impl OutboxTable for PostgresLedger {
    fn seal<'a>(
        &'a self,
        outbox: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Option<Batch>, Error>> {
        Box::pin(
            async move { self.seal_now(outbox, limit).await.map_err(Fault::into_error_of_effect) },
        )
    }

    fn discard<'a>(&'a self, outbox: &'a str, number: i64) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let sql = "DELETE FROM semel_kafka.outbox WHERE outbox = $1 AND batch = $2";
            let values = [(&outbox as _, Type::TEXT), (&number as _, Type::INT8)];
            let deleted = self.link.call(sql, &values).await;
            deleted.map(drop).map_err(Fault::into_error_of_effect)
        })
    }

    fn waiting<'a>(
        &'a self,
        outbox: &'a str,
    ) -> BoxFuture<'a, Result<(u64, Option<Timestamp>), Error>> {
        Box::pin(async move { self.waiting_now(outbox).await.map_err(Fault::into_error) })
    }
}

fn record_of(row: &Row) -> Result<(String, Outgoing), Fault> {
    let bytes = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
    let names: Vec<&str> = column(row, "header_names")?;
    let values: Vec<Option<&[u8]>> = column(row, "header_values")?;
    let headers = names.into_iter().zip(values);
    let timestamp: Option<i64> = column(row, "timestamp")?;
    let timestamp = timestamp.map(u64::try_from).transpose();
    let timestamp = timestamp.map_err(|error| unreadable("timestamp", error))?;
    let record = Outgoing {
        topic: column::<&str>(row, "topic")?.into(),
        partition: column(row, "partition")?,
        key: bytes(column(row, "key")?),
        value: bytes(column(row, "value")?),
        headers: headers
            .map(|(name, value)| Header { name: name.into(), value: bytes(value) })
            .collect(),
        timestamp: timestamp.map(Timestamp::from_millis),
    };
    Ok((column(row, "uid")?, record))
}
