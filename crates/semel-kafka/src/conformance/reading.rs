//! Where a consumer reads.

use super::kit::{Checked, Kit, check, group, partition, position, said, same, value_of};
use crate::log::Begin;

super::declare! {
    Nothing:
        a_given_start_is_where_reading_begins,
        earliest_begins_at_the_first_record,
        latest_begins_at_the_end,
        a_committed_position_is_the_next_one_to_read,
        a_seek_reads_again,
        a_paused_partition_is_silent_until_it_is_resumed;
}

async fn a_given_start_is_where_reading_begins(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b", "c", "d"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    member.starts.insert(only, 2);
    kit.read(&mut member, &["c", "d"]).await
}

async fn earliest_begins_at_the_first_record(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["a", "b"]).await?;
    kit.write(&only, &["c"]).await?;
    kit.read(&mut member, &["a", "b", "c"]).await
}

async fn latest_begins_at_the_end(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["old", "old"]).await?;
    let mut member = kit.member(&topic, Begin::Latest)?;
    kit.until("an assignment", &mut [&mut member], |all| all.iter().all(|it| !it.owned.is_empty()))
        .await?;
    // Where the end is may be asked only after the assignment, so one new record may be missed.
    for _ in 0..20 {
        kit.write(&only, &["new"]).await?;
        kit.calm(&mut [&mut member]).await?;
        if !member.records.is_empty() {
            break;
        }
    }
    check(!member.records.is_empty(), "no record that is new was read")?;
    check(member.records.iter().all(|it| value_of(it) == "new"), "an old record was read")
}

async fn a_committed_position_is_the_next_one_to_read(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(2).await?;
    let (first, second) = (partition(&topic, 0), partition(&topic, 1));
    kit.write(&first, &["a", "b", "c"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["a", "b", "c"]).await?;
    said("commit", member.consumer.commit(vec![position(&first, 2)]).await)?;
    let both = [second, first];
    let asked = member.consumer.committed(both.to_vec());
    same("what the member sees", kit.done("committed", asked).await?, vec![None, Some(2)])?;
    let seen = kit.committed(&group(&topic), &both).await?;
    same("what others see", seen, vec![None, Some(2)])?;
    said("close", member.consumer.close().await)?;
    let mut next = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut next, &["c"]).await
}

async fn a_seek_reads_again(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(1).await?;
    let only = partition(&topic, 0);
    kit.write(&only, &["a", "b", "c"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["a", "b", "c"]).await?;
    said("seek", member.consumer.seek(vec![position(&only, 1)]).await)?;
    kit.read(&mut member, &["a", "b", "c", "b", "c"]).await?;
    said("seek", member.consumer.seek(vec![position(&only, 3)]).await)?;
    kit.write(&only, &["d"]).await?;
    kit.read(&mut member, &["a", "b", "c", "b", "c", "d"]).await
}

async fn a_paused_partition_is_silent_until_it_is_resumed(kit: &Kit<'_>) -> Checked {
    let topic = kit.topic(2).await?;
    let (loud, quiet) = (partition(&topic, 0), partition(&topic, 1));
    kit.write(&quiet, &["a"]).await?;
    let mut member = kit.member(&topic, Begin::Earliest)?;
    kit.read(&mut member, &["a"]).await?;
    said("pause", member.consumer.pause(vec![quiet.clone()]).await)?;
    kit.write(&quiet, &["c"]).await?;
    kit.write(&loud, &["b"]).await?;
    kit.read(&mut member, &["a", "b"]).await?;
    said("resume", member.consumer.resume(vec![quiet]).await)?;
    kit.read(&mut member, &["a", "b", "c"]).await
}
