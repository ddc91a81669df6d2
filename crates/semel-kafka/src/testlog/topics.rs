//! Topics, and partitions with their control markers.

use std::collections::BTreeMap;
use std::sync::Arc;

use semel::Timestamp;

use crate::log::{Bounds, Delivered, LogError, LogErrorKind, Outgoing, Record, TopicPartition};

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) partitions: Vec<Partition>,
    /// Where the next record without a key goes.
    turn: usize,
}

/// An append-only log. Only its end ever grows, and only the fate of a record ever changes.
#[derive(Debug, Default)]
pub(super) struct Partition {
    entries: Vec<Entry>,
    /// The first offset of each open transaction.
    open: BTreeMap<u64, usize>,
}

#[derive(Debug)]
enum Entry {
    Record(Box<Record>, Fate),
    /// The end of a transaction; takes an offset, as in Kafka.
    Marker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    Open(u64),
    Aborted,
}

impl Topic {
    pub(super) fn new(partitions: i32) -> Self {
        Self { partitions: (0..partitions).map(|_| Partition::default()).collect(), turn: 0 }
    }

    pub(super) fn count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    pub(super) fn partition(&self, number: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(number).ok()?)
    }

    /// Appends a record, which is committed unless it belongs to a transaction.
    pub(super) fn append(
        &mut self,
        record: Outgoing,
        now: Timestamp,
        transaction: Option<u64>,
    ) -> Result<Delivered, LogError> {
        let number = self.place(&record)?;
        let partition = TopicPartition::new(record.topic, number);
        let found = usize::try_from(number).ok().and_then(|at| self.partitions.get_mut(at));
        let log = found.ok_or_else(|| unknown(&partition))?;
        let at = log.entries.len();
        let offset = to_offset(at);
        if let Some(transaction) = transaction {
            log.open.entry(transaction).or_insert(at);
        }
        let record = Record {
            partition: partition.clone(),
            offset,
            key: record.key,
            value: record.value,
            headers: record.headers,
            timestamp: Some(record.timestamp.unwrap_or(now)),
        };
        let fate = transaction.map_or(Fate::Committed, Fate::Open);
        log.entries.push(Entry::Record(Box::new(record), fate));
        Ok(Delivered { partition, offset })
    }

    fn place(&mut self, record: &Outgoing) -> Result<i32, LogError> {
        let count = self.count();
        if let Some(number) = record.partition {
            if (0..count).contains(&number) {
                return Ok(number);
            }
            return Err(unknown(&TopicPartition::new(Arc::clone(&record.topic), number)));
        }
        if let Some(key) = &record.key {
            return Ok(positive(murmur2(key)) % count);
        }
        let number = i32::try_from(self.turn % self.partitions.len()).unwrap_or_default();
        self.turn += 1;
        Ok(number)
    }
}

impl Partition {
    pub(super) fn bounds(&self) -> Bounds {
        let high = self.entries.len();
        Bounds { low: 0, stable: to_offset(self.stable()), high: to_offset(high) }
    }

    fn stable(&self) -> usize {
        self.open.values().copied().min().unwrap_or(self.entries.len())
    }

    /// Up to `max` committed records from `next` on, and where to go on.
    pub(super) fn read(&self, next: i64, max: usize) -> (Vec<Record>, i64) {
        let mut at = usize::try_from(next).unwrap_or(0);
        let mut records = Vec::new();
        let stable = self.stable();
        while at < stable && records.len() < max {
            if let Some(Entry::Record(record, Fate::Committed)) = self.entries.get(at) {
                records.push(Record::clone(record));
            }
            at += 1;
        }
        (records, to_offset(at))
    }

    /// All committed records, also those that an open transaction hides.
    pub(super) fn committed(&self) -> impl Iterator<Item = &Record> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Record(record, Fate::Committed) => Some(&**record),
            Entry::Record(..) | Entry::Marker => None,
        })
    }

    /// Decides a transaction's records and writes the marker.
    pub(super) fn decide(&mut self, transaction: u64, commit: bool) {
        let Some(first) = self.open.remove(&transaction) else { return };
        for entry in self.entries.iter_mut().skip(first) {
            if let Entry::Record(_, fate) = entry
                && *fate == Fate::Open(transaction)
            {
                *fate = if commit { Fate::Committed } else { Fate::Aborted };
            }
        }
        self.entries.push(Entry::Marker);
    }
}

pub(super) fn unknown(partition: &TopicPartition) -> LogError {
    let message = format!("the partition {partition} does not exist; create its topic first");
    LogError::new(LogErrorKind::Invalid, message)
}

fn to_offset(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

fn positive(hash: u32) -> i32 {
    i32::try_from(hash & 0x7fff_ffff).unwrap_or_default()
}

/// The hash by which Kafka's own clients choose a partition.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        word = word.wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of `UtilsTest.testMurmur2` in Apache Kafka.
    #[test]
    fn keys_are_hashed_as_by_kafkas_own_clients() {
        let hash = |key: &str| murmur2(key.as_bytes()).cast_signed();
        assert_eq!(hash("21"), -973_932_308);
        assert_eq!(hash("foobar"), -790_332_482);
        assert_eq!(hash("a-little-bit-long-string"), -985_981_536);
        assert_eq!(hash("a-little-bit-longer-string"), -1_486_304_829);
        assert_eq!(hash("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8"), -58_897_971);
        assert_eq!(hash("abc"), 479_470_107);
    }
}
