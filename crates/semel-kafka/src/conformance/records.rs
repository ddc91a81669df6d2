//! What is written is what is read.

use bytes::Bytes;
use semel::Timestamp;

use super::kit::{Checked, Kit, check, partition, same};
use crate::log::{Begin, Bounds, Header, LogErrorKind, Outgoing};

super::declare! {
    Nothing:
        records_of_a_partition_keep_their_order,
        records_that_are_queued_at_once_keep_their_order,
        a_key_decides_the_partition_as_for_kafkas_own_clients,
        headers_timestamps_and_tombstones_survive,
        a_topic_that_is_missing_is_invalid,
        a_record_that_is_too_large_is_invalid,
        bounds_tell_what_consumers_can_read;
}

async fn records_of_a_partition_keep_their_order(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    let producer = kit.producer(None).await?;
    let delivered = kit.send(&producer, &only, &["a", "b", "c", "d"]).await?;
    let offsets: Vec<i64> = delivered.iter().map(|it| it.offset).collect();
    check(offsets.is_sorted_by(|one, next| one < next), "the offsets do not grow")?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["a", "b", "c", "d"]).await?;
    let read: Vec<i64> = member.records.iter().map(|it| it.offset).collect();
    same("the offsets read", read, offsets)
}

async fn records_that_are_queued_at_once_keep_their_order(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let producer = kit.producer(None).await?;
    let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let sent = names
        .iter()
        .map(|name| producer.send(Outgoing::to(topic.as_str()).key("same").value(name.clone())));
    for delivery in sent.collect::<Vec<_>>() {
        kit.done("a delivery", delivery).await?;
    }
    let mut member = kit.member(&topic, Begin::Earliest)?;
    let expected: Vec<&str> = names.iter().map(String::as_str).collect();
    kit.read(&mut member, &expected).await
}

async fn a_key_decides_the_partition_as_for_kafkas_own_clients(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(4).await?;
    same("the partitions", kit.done("asking", kit.log().partitions(&topic)).await?, Some(4))?;
    let producer = kit.producer(None).await?;
    // The last two bits of what murmur2 makes of these keys.
    for (key, expected) in [("21", 0), ("foobar", 2), ("a-little-bit-long-string", 0)] {
        for _ in 0..2 {
            let record = Outgoing::to(topic.as_str()).key(key).value("x");
            let delivered = kit.done("a send", producer.send(record)).await?;
            same(&format!("the place of {key}"), delivered.partition, partition(&topic, expected))?;
        }
    }
    Ok(())
}

async fn headers_timestamps_and_tombstones_survive(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let producer = kit.producer(None).await?;
    let made = Timestamp::from_millis(1_700_000_000_123);
    let mut full = Outgoing::to(topic.as_str()).key("key").value("value");
    full = full.header("twice", "one").header("empty", "").header("twice", "two");
    full.headers.push(Header { name: "none".into(), value: None });
    full.timestamp = Some(made);
    let tombstone = Outgoing::to(topic.as_str()).key("key");
    let bare = Outgoing::to(topic.as_str()).value("");
    for record in [&full, &tombstone, &bare] {
        kit.done("a send", producer.send(record.clone())).await?;
    }
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["value", "", ""]).await?;
    for (seen, sent) in member.records.iter().zip([&full, &tombstone, &bare]) {
        same("the key", &seen.key, &sent.key)?;
        same("the value", &seen.value, &sent.value)?;
        same("the headers", &seen.headers, &sent.headers)?;
        check(seen.timestamp.is_some(), "a record has no timestamp")?;
    }
    let first = member.records.first().ok_or("no record")?;
    same("the timestamp", first.timestamp, Some(made))?;
    same("the last header", first.header("twice"), Some(&Bytes::from_static(b"two")))
}

async fn a_topic_that_is_missing_is_invalid(kit: &Kit<'_>) -> Checked {
    let missing = format!("{}-missing", kit.topic(1).await?);
    let log = kit.log();
    same("the partitions", kit.done("asking", log.partitions(&missing)).await?, None)?;
    let bounds = partition(&missing, 0);
    kit.refused("its bounds", log.bounds(&bounds), LogErrorKind::Invalid).await?;
    let producer = kit.producer(None).await?;
    let record = Outgoing::to(missing.as_str()).value("x");
    kit.refused("a send", producer.send(record), LogErrorKind::Invalid).await
}

async fn a_record_that_is_too_large_is_invalid(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let producer = kit.producer(None).await?;
    let large = Outgoing::to(topic.as_str()).value(vec![0; 16 * 1024 * 1024]);
    kit.refused("a large record", producer.send(large), LogErrorKind::Invalid).await?;
    kit.send(&producer, &partition(&topic, 0), &["small"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["small"]).await
}

async fn bounds_tell_what_consumers_can_read(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    let empty = Bounds { low: 0, stable: 0, high: 0 };
    same("bounds of an empty partition", kit.bounds(&only).await?, empty)?;
    kit.write(&only, &["a", "b"]).await?;
    let two = Bounds { low: 0, stable: 2, high: 2 };
    same("bounds with two records", kit.stable(&only).await?, two)?;
    let producer = kit.producer(Some(&topic)).await?;
    kit.done("begin", producer.begin()).await?;
    kit.send(&producer, &only, &["c"]).await?;
    let open = Bounds { low: 0, stable: 2, high: 3 };
    same("bounds with an open transaction", kit.bounds(&only).await?, open)?;
    kit.done("commit", producer.commit()).await?;
    let after = kit.stable(&only).await?;
    check(after.low == 0 && after.stable >= 3, &format!("bounds after the commit: {after:?}"))
}
