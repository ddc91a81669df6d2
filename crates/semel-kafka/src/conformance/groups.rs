//! Members come and go, and every partition has one owner.

use super::kit::{Checked, Kit, Member, check, group, partition, position, said, same, strings};
use crate::log::{Begin, LogErrorKind};

super::declare! {
    Nothing:
        two_members_share_the_partitions,
        a_revoked_partition_waits_for_its_old_owner,
        a_member_that_closes_hands_over_and_nothing_committed_is_read_again,
        what_a_dropped_member_did_not_commit_is_read_again,
        positions_of_a_member_are_committed_by_its_producer,
        positions_of_an_old_generation_are_refused;
}

/// All partitions have an owner, and nobody has more than his share.
fn shared(members: &[&mut Member], partitions: usize) -> bool {
    let most = partitions.div_ceil(members.len());
    members.iter().map(|member| member.owned.len()).sum::<usize>() == partitions
        && members.iter().all(|member| member.owned.len() <= most)
}

async fn two_members_share_the_partitions(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(4).await?;
    let mut first = kit.member(&topic, Begin::Earliest)?;
    kit.until("owning all", &mut [&mut first], |all| shared(all, 4)).await?;
    let mut second = kit.member(&topic, Begin::Earliest)?;
    kit.until("sharing", &mut [&mut first, &mut second], |all| shared(all, 4)).await?;
    check(first.owned.is_disjoint(&second.owned), "a partition has two owners")?;
    for number in 0..4 {
        kit.write(&partition(&topic, number), &["x"]).await?;
    }
    kit.until("reading all", &mut [&mut first, &mut second], |all| {
        all.iter().map(|it| it.records.len()).sum::<usize>() >= 4
    })
    .await?;
    kit.calm(&mut [&mut first, &mut second]).await?;
    same("records read by the first", first.records.len(), 2)?;
    same("records read by the second", second.records.len(), 2)
}

async fn a_revoked_partition_waits_for_its_old_owner(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(2).await?;
    for number in 0..2 {
        kit.write(&partition(&topic, number), &["old"]).await?;
    }
    let mut first = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut first, &["old", "old"]).await?;
    first.clings = true;
    let mut second = kit.member(&topic, Begin::Earliest)?;
    kit.until("a revocation", &mut [&mut first, &mut second], |all| {
        all.iter().any(|it| !it.revoked.is_empty())
    })
    .await?;
    kit.calm(&mut [&mut first, &mut second]).await?;
    let revoked = first.revoked.clone();
    check(second.owned.is_disjoint(&revoked), "the new owner did not wait for the old one")?;
    said("commit of what is revoked", first.consumer.commit(first.positions()).await)?;
    first.clings = false;
    first.let_go(revoked.iter().cloned().collect()).await?;
    kit.until("sharing", &mut [&mut first, &mut second], |all| shared(all, 2)).await?;
    for number in 0..2 {
        kit.write(&partition(&topic, number), &["new"]).await?;
    }
    kit.until("reading all", &mut [&mut first, &mut second], |all| {
        all.iter().map(|it| it.records.len()).sum::<usize>() >= 4
    })
    .await?;
    kit.calm(&mut [&mut first, &mut second]).await?;
    same("what the first read", first.values(), strings(&["old", "old", "new"]))?;
    same("what the second read", second.values(), strings(&["new"]))
}

async fn a_member_that_closes_hands_over_and_nothing_committed_is_read_again(
    kit: &Kit<'_>,
) -> Checked {
    let topic = kit.topic(2).await?;
    for number in 0..2 {
        kit.write(&partition(&topic, number), &["a", "b"]).await?;
    }
    let mut first = kit.member(&topic, Begin::Earliest)?;
    kit.until("reading all", &mut [&mut first], |all| all.iter().all(|it| it.records.len() >= 4))
        .await?;
    said("commit", first.consumer.commit(first.positions()).await)?;
    let mut second = kit.member(&topic, Begin::Earliest)?;
    kit.until("sharing", &mut [&mut first, &mut second], |all| shared(all, 2)).await?;
    kit.done("close", first.consumer.close()).await?;
    kit.until("taking over", &mut [&mut second], |all| shared(all, 2)).await?;
    for number in 0..2 {
        kit.write(&partition(&topic, number), &["new"]).await?;
    }
    kit.read(&mut second, &["new", "new"]).await
}

async fn what_a_dropped_member_did_not_commit_is_read_again(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b", "c"]).await?;
    let mut first = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut first, &["a", "b", "c"]).await?;
    said("commit", first.consumer.commit(vec![position(&only, 1)]).await)?;
    drop(first);
    let mut second = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut second, &["b", "c"]).await
}

async fn positions_of_a_member_are_committed_by_its_producer(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["a", "b"]).await?;
    let producer = kit.producer(Some(&topic)).await?;
    kit.done("begin", producer.begin()).await?;
    let membership = said("membership", member.consumer.membership().await)?;
    let positions = member.positions();
    kit.done("send_positions", producer.send_positions(positions, &membership)).await?;
    kit.done("commit", producer.commit()).await?;
    let behind = member.positions().first().map(|it| it.next);
    same("the position", kit.committed(&group(&topic), &[only]).await?, vec![behind])
}

async fn positions_of_an_old_generation_are_refused(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(2).await?;
    let both = [partition(&topic, 0), partition(&topic, 1)];
    for it in &both {
        kit.write(it, &["a", "b"]).await?;
    }
    let mut first = kit.member(&topic, Begin::Earliest)?;
    kit.until("owning all", &mut [&mut first], |all| shared(all, 2)).await?;
    let old = said("membership", first.consumer.membership().await)?;
    let mut second = kit.member(&topic, Begin::Earliest)?;
    kit.until("sharing", &mut [&mut first, &mut second], |all| shared(all, 2)).await?;

    let producer = kit.producer(Some(&topic)).await?;
    kit.done("begin", producer.begin()).await?;
    let moved = second.owned.iter().map(|it| position(it, 2)).collect::<Vec<_>>();
    let sent = kit.answer("old positions", producer.send_positions(moved, &old)).await?;
    match sent {
        Err(error) if error.kind() == LogErrorKind::Abortable => {}
        // A client may also keep it for the commit.
        Ok(()) => kit.refused("commit", producer.commit(), LogErrorKind::Abortable).await?,
        Err(error) => return Err(format!("old positions: saw {error:?}")),
    }
    kit.done("abort", producer.abort()).await?;
    same("the positions", kit.committed(&group(&topic), &both).await?, vec![None, None])?;

    kit.done("begin", producer.begin()).await?;
    let kept = first.owned.iter().map(|it| position(it, 1)).collect::<Vec<_>>();
    let new = said("membership", first.consumer.membership().await)?;
    kit.done("new positions", producer.send_positions(kept, &new)).await?;
    kit.done("commit", producer.commit()).await?;
    let seen = kit.committed(&group(&topic), &both).await?;
    same("positions that are committed", seen.into_iter().flatten().collect(), vec![1])
}
