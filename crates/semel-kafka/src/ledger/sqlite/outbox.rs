//! Records that wait for the relay.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};
use semel::{BoxFuture, Error, ErrorKind, Timestamp};

use super::SqliteLedger;
use super::fault::Fault;
use crate::ledger::{Batch, OutboxTable, millis_of};
use crate::log::{Header, Outgoing};

/// Headers as they are stored: names with values in hexadecimal.
type Stored = Vec<(String, Option<String>)>;

impl SqliteLedger {
    /// Puts a record into an outbox, inside the caller's transaction on the ledger's file: it
    /// leaves if that commits, and never if not. Returns its id, which stays the same however
    /// often the relay sends it. Records leave in the order in which they were put in.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the file refuses; roll back then.
    pub fn enqueue(
        connection: &Connection,
        outbox: &str,
        record: &Outgoing,
    ) -> Result<String, Error> {
        let put = || -> Result<String, Fault> {
            let mut insert = connection.prepare_cached(include_str!("enqueue.sql"))?;
            let headers = stored(&record.headers)?;
            let timestamp = record.timestamp.map(millis_of);
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let row = (outbox, &*record.topic, record.partition, key, value, headers, timestamp);
            Ok(insert.query_row(row, |row| row.get(0))?)
        };
        let path = connection.path().unwrap_or_default();
        put().map_err(|fault| fault.into_error(path.as_ref()))
    }
}

impl OutboxTable for SqliteLedger {
    fn seal<'a>(
        &'a self,
        outbox: &'a str,
        limit: usize,
    ) -> BoxFuture<'a, Result<Option<Batch>, Error>> {
        let outbox = outbox.to_owned();
        let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        Box::pin(self.at_once(move |connection| seal(connection, &outbox, limit)))
    }

    fn discard<'a>(&'a self, outbox: &'a str, number: i64) -> BoxFuture<'a, Result<(), Error>> {
        let outbox = outbox.to_owned();
        Box::pin(self.at_once(move |connection| {
            let delete = "DELETE FROM semel_kafka_outbox WHERE outbox = ?1 AND batch = ?2";
            connection.prepare_cached(delete)?.execute((outbox, number))?;
            Ok(())
        }))
    }

    fn waiting<'a>(
        &'a self,
        outbox: &'a str,
    ) -> BoxFuture<'a, Result<(u64, Option<Timestamp>), Error>> {
        let outbox = outbox.to_owned();
        Box::pin(self.at_once(move |connection| {
            let count = "SELECT count(*), min(created_at) FROM semel_kafka_outbox \
                         WHERE outbox = ?1";
            let mut count = connection.prepare_cached(count)?;
            let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?));
            let (many, since) = count.query_row([outbox], read)?;
            Ok((many.cast_unsigned(), since.map(time_of)))
        }))
    }
}

fn seal(connection: &Connection, outbox: &str, limit: i64) -> Result<Option<Batch>, Fault> {
    let sealed = "SELECT min(batch) FROM semel_kafka_outbox \
                  WHERE outbox = ?1 AND batch IS NOT NULL";
    let sealed: Option<i64> =
        connection.prepare_cached(sealed)?.query_row([outbox], |row| row.get(0))?;
    let number = match sealed {
        Some(number) => number,
        None => {
            let next = "SELECT next FROM semel_kafka_outbox_batch WHERE outbox = ?1";
            let next: Option<i64> = connection
                .prepare_cached(next)?
                .query_row([outbox], |row| row.get(0))
                .optional()?;
            let number = next.unwrap_or(0);
            let mut seal = connection.prepare_cached(include_str!("seal.sql"))?;
            if seal.execute((outbox, number, limit))? == 0 {
                return Ok(None);
            }
            let count = "INSERT INTO semel_kafka_outbox_batch (outbox, next) VALUES (?1, ?2) \
                         ON CONFLICT (outbox) DO UPDATE SET next = excluded.next";
            connection.prepare_cached(count)?.execute((outbox, number + 1))?;
            number
        }
    };
    let mut rows = connection.prepare_cached(include_str!("batch.sql"))?;
    let mut rows = rows.query((outbox, number))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(record_of(row)?);
    }
    Ok(Some(Batch { number, records }))
}

fn record_of(row: &Row<'_>) -> Result<(String, Outgoing), Fault> {
    let bytes = |place: usize| row.get::<_, Option<Vec<u8>>>(place).map(|it| it.map(Bytes::from));
    let topic: String = row.get(1)?;
    let headers: String = row.get(5)?;
    let record = Outgoing {
        topic: topic.into(),
        partition: row.get(2)?,
        key: bytes(3)?,
        value: bytes(4)?,
        headers: headers_of(&headers)?,
        timestamp: row.get::<_, Option<i64>>(6)?.map(time_of),
    };
    Ok((row.get(0)?, record))
}

/// What is before 1970 counts as 1970.
fn time_of(millis: i64) -> Timestamp {
    Timestamp::from_millis(u64::try_from(millis).unwrap_or_default())
}

fn stored(headers: &[Header]) -> Result<String, Error> {
    let hex = |value: &Bytes| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let pairs = headers.iter().map(|it| (it.name.to_string(), it.value.as_ref().map(hex)));
    let stored: Stored = pairs.collect();
    serde_json::to_string(&stored).map_err(|error| {
        let message = "the record's headers cannot be written as JSON";
        Error::new(ErrorKind::Invalid, message).with_source(error)
    })
}

fn headers_of(stored: &str) -> Result<Vec<Header>, Error> {
    let stored: Stored =
        serde_json::from_str(stored).map_err(|error| damaged().with_source(error))?;
    let header = |(name, value): (String, Option<String>)| {
        let value = value.map(|value| unhex(&value).ok_or_else(damaged)).transpose()?;
        Ok(Header { name: name.into(), value })
    };
    stored.into_iter().map(header).collect()
}

fn damaged() -> Error {
    let message = "the headers of a record in the outbox cannot be read; mend its row by hand";
    Error::new(ErrorKind::Corrupt, message)
}

fn unhex(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    let bytes = text.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
}
