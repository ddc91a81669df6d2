//! Commands of the async side, on the consumer's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use semel::{Clock, SystemClock};

use super::super::{convert, fault};
use super::desk::{Command, Desk, Member};
use super::turn::{Client, told};
use crate::log::{LogError, LogErrorKind, Membership, Position, TopicPartition};

/// How long a partition may take until it can be moved.
const SEEK_MAX: Duration = Duration::from_secs(10);
const SEEK_RETRY: Duration = Duration::from_millis(5);

pub(super) fn serve(consumer: &Client, command: Command) {
    // Whoever stopped waiting for a reply has decided to do without it.
    match command {
        Command::Assign(starts, reply) => match assign(consumer, starts) {
            Ok(true) => consumer.context().desk.lock().assigns.push(reply),
            Ok(false) => drop(reply.send(Ok(()))),
            Err(error) => drop(reply.send(Err(error))),
        },
        Command::Unassign(partitions, reply) => {
            let mut state = consumer.context().desk.lock();
            partitions.iter().for_each(|it| state.unassign(it));
            drop(state);
            drop(reply.send(Ok(())));
        }
        Command::Seek(positions, reply) => drop(reply.send(seek(consumer, &positions))),
        Command::Pause(partitions, reply) => drop(reply.send(pause(consumer, &partitions))),
        Command::Resume(partitions, reply) => drop(reply.send(resume(consumer, &partitions))),
        Command::Commit(positions, reply) => drop(reply.send(commit(consumer, &positions))),
        Command::Committed(partitions, reply) => {
            drop(reply.send(committed(consumer, &partitions)));
        }
        Command::Membership(reply) => drop(reply.send(membership(consumer))),
    }
}

fn desk(consumer: &Client) -> &Arc<Desk> {
    &consumer.context().desk
}

/// Whether the reply waits for librdkafka's own assignment.
fn assign(consumer: &Client, starts: Vec<(TopicPartition, Option<i64>)>) -> Result<bool, LogError> {
    for (partition, start) in &starts {
        let offset = start.map_or(Offset::Invalid, Offset::Offset);
        convert::list([(partition, offset)])?;
    }
    let mut late = Vec::new();
    let mut state = desk(consumer).lock();
    let mut is_pending = false;
    for (partition, start) in starts {
        let is_known = state.is_known(&partition);
        let Some(place) = state.places.get_mut(&partition).filter(|_| is_known) else {
            // It was taken away in the meantime, and perhaps given again; events say so. What
            // others have done in between is not in this answer.
            continue;
        };
        if place.start.is_some() {
            // It is read already; `seek` moves it.
            continue;
        }
        place.start = Some(start);
        // A pause that was asked for before meant an earlier assignment.
        place.is_paused = false;
        if place.is_late {
            place.is_late = false;
            late.push((partition, start));
        } else {
            is_pending = true;
        }
    }
    drop(state);
    if !late.is_empty() {
        begin_late(consumer, &late)?;
    }
    Ok(is_pending)
}

/// Begins to read partitions that librdkafka already has, paused.
fn begin_late(consumer: &Client, late: &[(TopicPartition, Option<i64>)]) -> Result<(), LogError> {
    let partitions: Vec<_> = late.iter().map(|(partition, _)| partition.clone()).collect();
    let known = committed(consumer, &partitions)?;
    let begin = consumer.context().times.begin;
    let starts = late.iter().zip(known).map(|((partition, start), committed)| {
        (partition, start.or(committed).map_or(begin, Offset::Offset))
    });
    move_to(consumer, &convert::list(starts)?)?;
    unpause(consumer, &partitions)
}

fn seek(consumer: &Client, positions: &[Position]) -> Result<(), LogError> {
    let list = convert::positions(positions)?;
    desk(consumer).check(positions)?;
    let mut state = desk(consumer).lock();
    for position in positions {
        if let Some(place) = state.places.get_mut(&position.partition)
            && place.start.is_none()
        {
            let message =
                format!("{} is not assigned yet; say where it begins", position.partition);
            return Err(LogError::new(LogErrorKind::Invalid, message));
        }
        state.strip(&position.partition);
    }
    drop(state);
    move_to(consumer, &list)
}

/// Moves partitions; those that librdkafka is about to start are tried again.
fn move_to(consumer: &Client, list: &TopicPartitionList) -> Result<(), LogError> {
    let over = SystemClock.now().after(SEEK_MAX);
    let mut open = list.clone();
    while open.count() > 0 {
        let tried = consumer.seek_partitions(open.clone(), SEEK_MAX);
        let tried = tried.map_err(|error| fault::plain("move partitions", error))?;
        let mut left = TopicPartitionList::new();
        let mut failure = None;
        for element in tried.elements() {
            if let Err(error) = element.error() {
                let offset = open.find_partition(element.topic(), element.partition());
                let offset = offset.map_or(Offset::Invalid, |it| it.offset());
                let partition = TopicPartition::new(element.topic(), element.partition());
                let added =
                    left.add_partition_offset(&partition.topic, partition.partition, offset);
                told("move partitions", added)?;
                failure = Some(error);
            }
        }
        open = left;
        if let Some(error) = failure {
            if SystemClock.now() >= over || desk(consumer).lock().is_closing {
                let message = format!("partitions could not be moved in time: {error}; try again");
                return Err(LogError::new(LogErrorKind::Unavailable, message));
            }
            desk(consumer).pause(SEEK_RETRY);
        }
    }
    Ok(())
}

fn pause(consumer: &Client, partitions: &[TopicPartition]) -> Result<(), LogError> {
    let list = convert::bare(partitions)?;
    let mut back = Vec::new();
    let mut state = desk(consumer).lock();
    for partition in partitions {
        if let Some(place) = state.places.get_mut(partition) {
            place.is_paused = true;
            if let Some(first) = state.strip(partition) {
                back.push((partition, Offset::Offset(first)));
            }
        }
    }
    drop(state);
    told("pause partitions", consumer.pause(&list))?;
    // What was on its way is read again later.
    move_to(consumer, &convert::list(back)?)
}

fn resume(consumer: &Client, partitions: &[TopicPartition]) -> Result<(), LogError> {
    let mut state = desk(consumer).lock();
    for partition in partitions {
        if let Some(place) = state.places.get_mut(partition) {
            place.is_paused = false;
        }
    }
    drop(state);
    unpause(consumer, partitions)
}

/// Lets librdkafka read what nothing keeps paused.
pub(super) fn unpause(consumer: &Client, partitions: &[TopicPartition]) -> Result<(), LogError> {
    if consumer.context().is_held.load(Ordering::Relaxed) {
        return Ok(());
    }
    let state = desk(consumer).lock();
    let is_free = |partition: &&TopicPartition| {
        let place = state.places.get(*partition);
        place.is_some_and(|place| !place.is_paused && !place.is_late)
    };
    let free: Vec<_> = partitions.iter().filter(is_free).collect();
    let list = convert::bare(free)?;
    drop(state);
    told("resume partitions", consumer.resume(&list))
}

fn commit(consumer: &Client, positions: &[Position]) -> Result<(), LogError> {
    if positions.is_empty() {
        return Ok(());
    }
    desk(consumer).check(positions)?;
    let list = convert::positions(positions)?;
    told("commit positions", consumer.commit(&list, CommitMode::Sync))
}

fn committed(
    consumer: &Client,
    partitions: &[TopicPartition],
) -> Result<Vec<Option<i64>>, LogError> {
    let time = consumer.context().times.request;
    let list = consumer.committed_offsets(convert::bare(partitions)?, time);
    let list = list.map_err(|error| fault::plain("tell committed positions", error))?;
    convert::offsets(&list, partitions)
}

fn membership(consumer: &Client) -> Result<Membership, LogError> {
    let none = || {
        let message = "the consumer has no group yet; try again";
        LogError::new(LogErrorKind::Unavailable, message)
    };
    let metadata = Arc::new(consumer.group_metadata().ok_or_else(none)?);
    Ok(Membership::new(Member { metadata, desk: Some(Arc::clone(desk(consumer))) }))
}
