//! Ids and positions, one statement after the other in a transaction that nobody else is in.

use std::collections::{BTreeMap, HashSet};

use rusqlite::{Connection, OptionalExtension};
use semel::Timestamp;

use super::fault::Fault;
use crate::ledger::bounds::Bounds;
use crate::ledger::{Move, Owned, Sighting, lost, millis_of, untaken};
use crate::log::TopicPartition;

pub(super) fn take(
    connection: &Connection,
    group: &str,
    partitions: &[TopicPartition],
) -> Result<Vec<Owned>, Fault> {
    let mut take = connection.prepare_cached(include_str!("take.sql"))?;
    let taken = partitions.iter().map(|partition| {
        let key = (group, &*partition.topic, partition.partition);
        let (epoch, next) = take.query_row(key, |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(Owned { partition: partition.clone(), epoch, next })
    });
    taken.collect()
}

pub(super) fn advance(connection: &Connection, group: &str, moves: &[Move]) -> Result<(), Fault> {
    let mut advance = connection.prepare_cached(include_str!("advance.sql"))?;
    for Move { owned, next } in moves {
        let Owned { partition, epoch, next: was } = owned;
        let values = (group, &*partition.topic, partition.partition, epoch, was, next);
        if advance.execute(values)? != 1 {
            return Err(lost(group, partition).into());
        }
    }
    Ok(())
}

/// What one call has done to one partition so far.
struct Tally {
    start: i64,
    many: i64,
    reached: i64,
}

/// The window in ids is judged as it was before the call: positions change at its end only. Equal
/// ids come after all others, one after the other.
pub(super) fn remember(
    connection: &Connection,
    group: &str,
    bounds: Bounds,
    sightings: &[Sighting],
    now: Timestamp,
) -> Result<Vec<bool>, Fault> {
    let mut is_new = vec![false; sightings.len()];
    let mut tallies = BTreeMap::new();
    let mut ids = HashSet::new();
    let (first, repeated): (Vec<_>, Vec<_>) =
        sightings.iter().enumerate().partition(|(_, sighting)| ids.insert(&*sighting.id));
    let both = first.into_iter().map(|it| (it, false));
    for ((place, sighting), is_repeated) in both.chain(repeated.into_iter().map(|it| (it, true))) {
        let at = bounds.time_of(sighting).unwrap_or(millis_of(now));
        let partition = &sighting.partition;
        let tally = match tallies.entry(partition) {
            std::collections::btree_map::Entry::Occupied(tally) => tally.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let start = ordinal(connection, group, partition)?;
                free.insert(Tally { start, many: 0, reached: at })
            }
        };
        tally.reached = tally.reached.min(at);
        let seen = look(connection, group, &sighting.id)?;
        let is_inside = seen.is_some_and(|(was, behind)| {
            bounds.millis.is_none_or(|length| (at - was).abs() < length)
                && (is_repeated || bounds.ids.is_none_or(|count| behind < count))
        });
        if !is_inside {
            tally.many += 1;
            is_new[place] = true;
            let ordinal = tally.start + tally.many;
            let row = (group, &*sighting.id, at, &*partition.topic, partition.partition, ordinal);
            connection.prepare_cached(include_str!("remember.sql"))?.execute(row)?;
        } else if bounds.slides && seen.is_some_and(|(was, _)| was < at) {
            let slide = "UPDATE semel_kafka_seen SET at = ?3 WHERE grp = ?1 AND id = ?2";
            connection.prepare_cached(slide)?.execute((group, &*sighting.id, at))?;
        }
    }
    let count = "UPDATE semel_kafka_position SET ordinal = ordinal + ?4, reached = ?5 \
                 WHERE grp = ?1 AND topic = ?2 AND partition = ?3";
    let mut count = connection.prepare_cached(count)?;
    for (partition, Tally { many, reached, .. }) in tallies {
        count.execute((group, &*partition.topic, partition.partition, many, reached))?;
    }
    Ok(is_new)
}

fn ordinal(connection: &Connection, group: &str, partition: &TopicPartition) -> Result<i64, Fault> {
    let ordinal = "SELECT ordinal FROM semel_kafka_position \
                   WHERE grp = ?1 AND topic = ?2 AND partition = ?3";
    let mut ordinal = connection.prepare_cached(ordinal)?;
    let key = (group, &*partition.topic, partition.partition);
    let found = ordinal.query_row(key, |row| row.get(0)).optional()?;
    found.ok_or_else(|| untaken(group).into())
}

/// When an id was seen, and how many others of its partition have come since.
fn look(connection: &Connection, group: &str, id: &str) -> Result<Option<(i64, i64)>, Fault> {
    let mut look = connection.prepare_cached(include_str!("look.sql"))?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or_default()))
    };
    Ok(look.query_row((group, id), read).optional()?)
}

/// By the records' own times an id is kept for twice the window, so that one that is late still
/// finds its duplicate.
pub(super) fn forget(
    connection: &Connection,
    group: &str,
    bounds: Bounds,
    limit: usize,
    now: Timestamp,
) -> Result<usize, Fault> {
    let places = "SELECT topic, partition, ordinal, reached FROM semel_kafka_position \
                  WHERE grp = ?1 AND reached IS NOT NULL";
    let mut places = connection.prepare_cached(places)?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i32>(1)?, row.get(2)?, row.get(3)?))
    };
    let places: Vec<(String, i32, i64, i64)> =
        places.query_map([group], read)?.collect::<Result<_, _>>()?;
    let now = millis_of(now);
    let forget = include_str!("forget.sql");
    let mut by_at = connection.prepare_cached(&forget.replace("{column}", "at"))?;
    let mut by_ordinal = connection.prepare_cached(&forget.replace("{column}", "ordinal"))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let left = |gone: usize| limit.saturating_sub(i64::try_from(gone).unwrap_or(i64::MAX));
    let mut gone = 0;
    for (topic, partition, ordinal, reached) in places {
        if let Some(length) = bounds.millis {
            let at = if bounds.by_event { now.min(reached) - length * 2 } else { now - length };
            gone += by_at.execute((group, &topic, partition, at, left(gone)))?;
        }
        if let Some(count) = bounds.ids {
            let last = ordinal - count;
            gone += by_ordinal.execute((group, &topic, partition, last, left(gone)))?;
        }
    }
    Ok(gone)
}
