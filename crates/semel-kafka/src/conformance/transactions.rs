//! All of a transaction or nothing, by one producer at a time.

use std::sync::Arc;

use futures_util::future::{Either, select};
use semel::{Clock, SystemClock};

use super::kit::{Checked, Kit, check, group, partition, position, same};
use crate::log::{Begin, LogErrorKind, LogProducer, Outgoing, ProducerSettings, TopicPartition};

super::declare! {
    Nothing:
        an_open_transaction_hides_what_comes_after_it,
        aborted_records_are_never_read,
        a_transaction_spans_partitions,
        one_transaction_follows_the_other,
        an_abort_without_a_transaction_succeeds,
        positions_appear_with_the_commit,
        positions_vanish_with_the_abort,
        nobody_reads_a_position_that_is_about_to_change,
        a_second_producer_fences_the_first_and_ends_its_transaction,
        after_fenced_every_call_is_fenced,
        a_fenced_producer_moves_no_position;
    Timeout:
        a_transaction_that_is_open_for_too_long_is_aborted;
}

async fn begun(kit: &Kit<'_>, id: &str) -> Checked<Arc<dyn LogProducer>> {
    let producer = kit.producer(Some(id)).await?;
    kit.done("begin", producer.begin()).await?;
    Ok(producer)
}

async fn an_open_transaction_hides_what_comes_after_it(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["before"]).await?;
    let producer = begun(kit, &topic).await?;
    kit.send(&producer, &only, &["inside"]).await?;
    kit.write(&only, &["after"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["before"]).await?;
    kit.done("commit", producer.commit()).await?;
    kit.read(&mut member, &["before", "inside", "after"]).await
}

async fn aborted_records_are_never_read(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    let producer = begun(kit, &topic).await?;
    kit.send(&producer, &only, &["no", "never"]).await?;
    kit.write(&only, &["between"]).await?;
    kit.done("abort", producer.abort()).await?;
    kit.done("begin", producer.begin()).await?;
    kit.send(&producer, &only, &["yes"]).await?;
    kit.done("commit", producer.commit()).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["between", "yes"]).await?;
    let offsets: Vec<i64> = member.records.iter().map(|it| it.offset).collect();
    check(offsets.is_sorted_by(|one, next| one < next), "the offsets do not grow")
}

async fn a_transaction_spans_partitions(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(3).await?;
    let producer = begun(kit, &topic).await?;
    for number in 0..3 {
        kit.send(&producer, &partition(&topic, number), &["x"]).await?;
    }
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.until("an assignment", &mut [&mut member], |all| all.iter().all(|it| it.owned.len() == 3))
        .await?;
    kit.read(&mut member, &[]).await?;
    kit.done("commit", producer.commit()).await?;
    kit.read(&mut member, &["x", "x", "x"]).await
}

async fn one_transaction_follows_the_other(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    let producer = kit.producer(Some(&topic)).await?;
    for (value, commits) in [("a", true), ("b", false), ("c", true), ("d", true)] {
        kit.done("begin", producer.begin()).await?;
        kit.send(&producer, &only, &[value]).await?;
        if commits {
            kit.done("commit", producer.commit()).await?;
        } else {
            kit.done("abort", producer.abort()).await?;
        }
    }
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["a", "c", "d"]).await
}

async fn an_abort_without_a_transaction_succeeds(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let producer = kit.producer(Some(&topic)).await?;
    kit.done("abort before all", producer.abort()).await?;
    kit.done("begin", producer.begin()).await?;
    kit.done("abort of nothing", producer.abort()).await?;
    kit.done("abort again", producer.abort()).await?;
    kit.done("begin", producer.begin()).await?;
    kit.send(&producer, &partition(&topic, 0), &["x"]).await?;
    kit.done("commit", producer.commit()).await
}

/// Sends a position in the name of a group that has no members.
async fn send_position(
    kit: &Kit<'_>,
    producer: &Arc<dyn LogProducer>,
    only: &TopicPartition,
    next: i64,
) -> Checked {
    let outsider = kit.log().outsider(&group(&only.topic));
    let outsider = outsider.map_err(|error| format!("outsider failed: {error}"))?;
    let sent = producer.send_positions(vec![position(only, next)], &outsider);
    kit.done("send_positions", sent).await
}

async fn committed(kit: &Kit<'_>, only: &TopicPartition) -> Checked<Vec<Option<i64>>> {
    kit.committed(&group(&only.topic), std::slice::from_ref(only)).await
}

async fn positions_appear_with_the_commit(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b", "c"]).await?;
    let producer = begun(kit, &topic).await?;
    same("before all", committed(kit, &only).await?, vec![None])?;
    send_position(kit, &producer, &only, 1).await?;
    send_position(kit, &producer, &only, 2).await?;
    kit.done("commit", producer.commit()).await?;
    same("after the commit", committed(kit, &only).await?, vec![Some(2)])?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["c"]).await
}

async fn positions_vanish_with_the_abort(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b", "c"]).await?;
    let producer = begun(kit, &topic).await?;
    send_position(kit, &producer, &only, 1).await?;
    kit.done("commit", producer.commit()).await?;
    kit.done("begin", producer.begin()).await?;
    send_position(kit, &producer, &only, 3).await?;
    kit.done("abort", producer.abort()).await?;
    same("after the abort", committed(kit, &only).await?, vec![Some(1)])
}

async fn nobody_reads_a_position_that_is_about_to_change(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b"]).await?;
    let producer = begun(kit, &topic).await?;
    send_position(kit, &producer, &only, 1).await?;
    let asked = Box::pin(committed(kit, &only));
    let calm = SystemClock.sleep(kit.harness.calm());
    let asked = match select(asked, calm).await {
        Either::Left((answer, _)) => return Err(format!("it did not wait but said {answer:?}")),
        Either::Right(((), asked)) => asked,
    };
    kit.done("commit", producer.commit()).await?;
    same("after the commit", asked.await?, vec![Some(1)])
}

async fn a_second_producer_fences_the_first_and_ends_its_transaction(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    let first = begun(kit, &topic).await?;
    kit.send(&first, &only, &["lost"]).await?;
    let second = kit.producer(Some(&topic)).await?;
    kit.stable(&only).await?;
    kit.refused("the first one's commit", first.commit(), LogErrorKind::Fenced).await?;
    kit.done("begin", second.begin()).await?;
    kit.send(&second, &only, &["kept"]).await?;
    kit.done("commit", second.commit()).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["kept"]).await
}

async fn after_fenced_every_call_is_fenced(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    let first = begun(kit, &topic).await?;
    kit.send(&first, &only, &["lost"]).await?;
    let second = kit.producer(Some(&topic)).await?;
    let fenced = LogErrorKind::Fenced;
    kit.refused("commit", first.commit(), fenced).await?;
    for _ in 0..2 {
        kit.refused("begin", first.begin(), fenced).await?;
        let record = Outgoing::to(topic.as_str()).value("lost too");
        kit.refused("send", first.send(record), fenced).await?;
        let outsider = kit.log().outsider(&group(&topic));
        let outsider = outsider.map_err(|error| format!("outsider failed: {error}"))?;
        let positions = vec![position(&only, 1)];
        let sent = first.send_positions(positions, &outsider);
        kit.refused("send_positions", sent, fenced).await?;
        kit.refused("commit", first.commit(), fenced).await?;
        kit.refused("abort", first.abort(), fenced).await?;
    }
    kit.done("begin of the second", second.begin()).await?;
    kit.done("abort of the second", second.abort()).await
}

async fn a_fenced_producer_moves_no_position(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b"]).await?;
    let first = begun(kit, &topic).await?;
    send_position(kit, &first, &only, 1).await?;
    let second = begun(kit, &topic).await?;
    same("after the fencing", committed(kit, &only).await?, vec![None])?;
    kit.refused("the first one's commit", first.commit(), LogErrorKind::Fenced).await?;
    send_position(kit, &second, &only, 2).await?;
    kit.done("commit", second.commit()).await?;
    same("in the end", committed(kit, &only).await?, vec![Some(2)])
}

async fn a_transaction_that_is_open_for_too_long_is_aborted(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    let settings = ProducerSettings {
        transactional_id: Some(topic.clone()),
        transaction_timeout: kit.harness.transaction_timeout(),
    };
    let producer = kit.done("making a producer", kit.log().producer(&settings)).await?;
    kit.done("begin", producer.begin()).await?;
    kit.send(&producer, &only, &["late"]).await?;
    kit.write(&only, &["hidden"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.until("the abort", &mut [&mut member], |all| all.iter().all(|it| !it.records.is_empty()))
        .await?;
    match kit.answer("the late commit", producer.commit()).await? {
        Err(error) if matches!(error.kind(), LogErrorKind::Fenced | LogErrorKind::Abortable) => {}
        other => return Err(format!("the late commit: expected a refusal, saw {other:?}")),
    }
    kit.read(&mut member, &["hidden"]).await
}
