//! Reading without a group.

use super::kit::{Checked, Kit, check, partition, position, said, same, strings, value_of};
use crate::log::{LogErrorKind, LogReader, Read, TopicPartition};

super::declare! {
    Nothing:
        a_reader_tells_the_end_of_an_empty_partition,
        a_reader_tells_the_end_behind_ends_of_transactions,
        a_reader_does_not_see_what_is_open,
        a_reader_that_is_started_again_begins_there,
        a_reader_returns_nothing_of_a_stopped_partition;
}

/// Reads until the end of a partition is told.
async fn to_end(
    kit: &Kit<'_>,
    reader: &mut Box<dyn LogReader>,
    partition: &TopicPartition,
) -> Checked<Vec<String>> {
    let mut values = Vec::new();
    loop {
        match kit.answer("the end of a partition", reader.next()).await? {
            Ok(Read::Records(records)) => {
                let mine = records.iter().filter(|record| record.partition == *partition);
                values.extend(mine.map(value_of));
            }
            Ok(Read::End(end)) if end == *partition => return Ok(values),
            Ok(Read::End(_)) => {}
            Err(error) if error.kind() == LogErrorKind::Unavailable => {}
            Err(error) => return Err(format!("reading failed: {error} ({:?})", error.kind())),
        }
    }
}

fn reader(kit: &Kit<'_>) -> Checked<Box<dyn LogReader>> {
    said("making a reader", kit.log().reader())
}

async fn a_reader_tells_the_end_of_an_empty_partition(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(2).await?;
    let (empty, full) = (partition(&topic, 0), partition(&topic, 1));
    kit.write(&full, &["a"]).await?;
    let mut reader = reader(kit)?;
    let started = reader.start(vec![position(&empty, 0)]);
    kit.done("start", started).await?;
    same("what is in it", to_end(kit, &mut reader, &empty).await?, strings(&[]))?;
    kit.done("start", reader.start(vec![position(&full, 1)])).await?;
    same("what is behind its last record", to_end(kit, &mut reader, &full).await?, strings(&[]))
}

async fn a_reader_tells_the_end_behind_ends_of_transactions(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    let producer = kit.producer(Some(&topic)).await?;
    for (value, commits) in [("a", true), ("lost", false), ("b", true), ("lost", false)] {
        kit.done("begin", producer.begin()).await?;
        kit.send(&producer, &only, &[value]).await?;
        let end = if commits { producer.commit() } else { producer.abort() };
        kit.done("the end of a transaction", end).await?;
    }
    kit.stable(&only).await?;
    let mut reader = reader(kit)?;
    kit.done("start", reader.start(vec![position(&only, 0)])).await?;
    same("what is read", to_end(kit, &mut reader, &only).await?, strings(&["a", "b"]))?;
    // The end of a transaction is all there is.
    kit.done("start", reader.start(vec![position(&only, 1)])).await?;
    same("what is read", to_end(kit, &mut reader, &only).await?, strings(&["b"]))?;
    let behind = kit.bounds(&only).await?.stable - 1;
    kit.done("start", reader.start(vec![position(&only, behind)])).await?;
    same("what is read", to_end(kit, &mut reader, &only).await?, strings(&[]))
}

async fn a_reader_does_not_see_what_is_open(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a"]).await?;
    let producer = kit.producer(Some(&topic)).await?;
    kit.done("begin", producer.begin()).await?;
    kit.send(&producer, &only, &["b"]).await?;
    let mut reader = reader(kit)?;
    kit.done("start", reader.start(vec![position(&only, 0)])).await?;
    same("what is read", to_end(kit, &mut reader, &only).await?, strings(&["a"]))?;
    kit.done("commit", producer.commit()).await?;
    match kit.done("what was committed", reader.next()).await? {
        Read::Records(records) => {
            same("what comes then", records.iter().map(value_of).collect(), strings(&["b"]))
        }
        Read::End(_) => Err("an end was told twice for one start".to_owned()),
    }
}

async fn a_reader_that_is_started_again_begins_there(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b", "c"]).await?;
    let mut reader = reader(kit)?;
    for (next, expected) in [(0, &["a", "b", "c"][..]), (2, &["c"]), (1, &["b", "c"])] {
        kit.done("start", reader.start(vec![position(&only, next)])).await?;
        same("what is read", to_end(kit, &mut reader, &only).await?, strings(expected))?;
    }
    Ok(())
}

async fn a_reader_returns_nothing_of_a_stopped_partition(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(2).await?;
    let (stopped, other) = (partition(&topic, 0), partition(&topic, 1));
    kit.write(&stopped, &["a"]).await?;
    kit.write(&other, &["b"]).await?;
    let mut reader = reader(kit)?;
    let both = vec![position(&stopped, 0), position(&other, 0)];
    kit.done("start", reader.start(both)).await?;
    kit.done("stop", reader.stop(vec![stopped])).await?;
    loop {
        match kit.done("a record", reader.next()).await? {
            Read::End(_) => {}
            Read::Records(records) => {
                let all = records.iter().all(|record| record.partition == other);
                return check(all, "a record of a stopped partition was returned");
            }
        }
    }
}
