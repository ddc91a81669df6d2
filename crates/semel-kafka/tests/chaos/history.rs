//! What writers did and readers saw, judged by the rules of Jepsen's checker for Kafka.

use std::collections::{BTreeMap, BTreeSet};

use super::reader::Entry;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Committed,
    Aborted,
}

/// Everything that was written, and what each reader of committed records got, poll by poll, from
/// the begin of each partition without a rebalance.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<(Entry, Fate)>,
    pub(crate) readers: Vec<Vec<Vec<Entry>>>,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Anomaly {
    /// A committed record that nobody read, although somebody read beyond it.
    LostWrite(Entry),
    /// One value that was read at two places.
    Duplicate(Entry, Entry),
    /// A record of an aborted transaction was read (G1a).
    AbortedRead(Entry),
    /// One place at which two records were read or written.
    InconsistentOffset(Entry, Entry),
    /// A reader went from one record to a later one over a committed record; within a poll, or
    /// from one to the next.
    PollSkip { from: Entry, to: Entry, over: Entry, is_within: bool },
    /// A reader went back, or stayed where it was.
    NonmonotonicPoll { from: Entry, to: Entry, is_within: bool },
}

type Place = (i32, i64);

fn place(entry: &Entry) -> Place {
    (entry.partition, entry.offset)
}

impl History {
    pub(crate) fn anomalies(&self) -> Vec<Anomaly> {
        let mut anomalies = self.lost_writes();
        anomalies.extend(self.duplicates());
        anomalies.extend(self.aborted_reads());
        anomalies.extend(self.inconsistent_offsets());
        anomalies.extend(self.poll_skips());
        anomalies.extend(self.nonmonotonic_polls());
        anomalies
    }

    fn reads(&self) -> impl Iterator<Item = &Entry> {
        self.readers.iter().flatten().flatten()
    }

    fn of(&self, fate: Fate) -> impl Iterator<Item = &Entry> {
        self.writes.iter().filter(move |(_, it)| *it == fate).map(|(entry, _)| entry)
    }

    pub(crate) fn lost_writes(&self) -> Vec<Anomaly> {
        let read: BTreeSet<Place> = self.reads().map(place).collect();
        let is_lost = |entry: &&Entry| {
            let at = place(entry);
            let beyond = (at.0, at.1 + 1)..=(at.0, i64::MAX);
            !read.contains(&at) && read.range(beyond).next().is_some()
        };
        let lost = self.of(Fate::Committed).filter(is_lost);
        lost.cloned().map(Anomaly::LostWrite).collect()
    }

    pub(crate) fn duplicates(&self) -> Vec<Anomaly> {
        let mut first: BTreeMap<u32, &Entry> = BTreeMap::new();
        let mut told = BTreeSet::new();
        let mut duplicates = Vec::new();
        for entry in self.reads() {
            let known = *first.entry(entry.value).or_insert(entry);
            if place(known) != place(entry) && told.insert(place(entry)) {
                duplicates.push(Anomaly::Duplicate(known.clone(), entry.clone()));
            }
        }
        duplicates
    }

    pub(crate) fn aborted_reads(&self) -> Vec<Anomaly> {
        let aborted: BTreeSet<&str> = self.of(Fate::Aborted).map(|it| &*it.attempt).collect();
        let read = self.reads().filter(|it| aborted.contains(&*it.attempt));
        read.cloned().map(Anomaly::AbortedRead).collect()
    }

    pub(crate) fn inconsistent_offsets(&self) -> Vec<Anomaly> {
        let mut known: BTreeMap<Place, &Entry> = BTreeMap::new();
        let mut inconsistent = Vec::new();
        let written = self.writes.iter().map(|(entry, _)| entry);
        for entry in written.chain(self.reads()) {
            let first = *known.entry(place(entry)).or_insert(entry);
            if first != entry {
                inconsistent.push(Anomaly::InconsistentOffset(first.clone(), entry.clone()));
            }
        }
        inconsistent
    }

    /// Each two records of a partition that a reader got one after the other, and whether both
    /// were in one poll.
    fn steps(&self) -> Vec<(&Entry, &Entry, bool)> {
        let mut steps = Vec::new();
        for reader in &self.readers {
            let mut latest: BTreeMap<i32, (usize, &Entry)> = BTreeMap::new();
            for (poll, entries) in reader.iter().enumerate() {
                for entry in entries {
                    let before = latest.insert(entry.partition, (poll, entry));
                    steps.extend(before.map(|(earlier, from)| (from, entry, earlier == poll)));
                }
            }
        }
        steps
    }

    pub(crate) fn poll_skips(&self) -> Vec<Anomaly> {
        let committed: BTreeMap<Place, &Entry> =
            self.of(Fate::Committed).map(|entry| (place(entry), entry)).collect();
        let mut skips = Vec::new();
        for (from, to, is_within) in self.steps() {
            if from.offset + 1 >= to.offset {
                continue;
            }
            let between = (from.partition, from.offset + 1)..place(to);
            if let Some((_, over)) = committed.range(between).next() {
                let (from, to, over) = (from.clone(), to.clone(), (*over).clone());
                skips.push(Anomaly::PollSkip { from, to, over, is_within });
            }
        }
        skips
    }

    pub(crate) fn nonmonotonic_polls(&self) -> Vec<Anomaly> {
        let back = self.steps().into_iter().filter(|(from, to, _)| from.offset >= to.offset);
        let tell = |(from, to, is_within): (&Entry, &Entry, bool)| {
            let (from, to) = (from.clone(), to.clone());
            Anomaly::NonmonotonicPoll { from, to, is_within }
        };
        back.map(tell).collect()
    }
}

/// A record of partition 0 whose attempt is told by its place.
fn at(offset: i64, value: u32) -> Entry {
    Entry { partition: 0, offset, value, attempt: format!("try at {offset}") }
}

fn history(writes: &[(Entry, Fate)], readers: &[&[Vec<Entry>]]) -> History {
    let polls = |reader: &&[Vec<Entry>]| reader.to_vec();
    History { writes: writes.to_vec(), readers: readers.iter().map(polls).collect() }
}

/// Three committed records with an aborted one among them.
fn written() -> Vec<(Entry, Fate)> {
    vec![
        (at(0, 10), Fate::Committed),
        (at(1, 11), Fate::Aborted),
        (at(3, 11), Fate::Committed),
        (at(5, 12), Fate::Committed),
    ]
}

#[test]
fn a_history_without_anomalies_has_none() {
    let (first, second, third) = (at(0, 10), at(3, 11), at(5, 12));
    let whole = [vec![first.clone(), second.clone()], vec![third]];
    // One that has not come to the end yet is fine as well.
    let short = [vec![first], vec![], vec![second]];
    assert_eq!(history(&written(), &[&whole, &short]).anomalies(), []);
    assert_eq!(history(&written(), &[&[vec![]]]).anomalies(), []);
    assert_eq!(History::default().anomalies(), []);
}

#[test]
fn a_write_is_lost_when_somebody_read_beyond_it_and_nobody_read_it() {
    let polls = [vec![at(0, 10)], vec![at(5, 12)]];
    let lost = history(&written(), &[&polls]);
    assert_eq!(lost.lost_writes(), [Anomaly::LostWrite(at(3, 11))]);
    // Another reader has it, so it is there; the first one has skipped it.
    let skipped = history(&written(), &[&polls, &[vec![at(0, 10), at(3, 11)]]]);
    assert_eq!(skipped.lost_writes(), []);
    let skip = |is_within| Anomaly::PollSkip {
        from: at(0, 10),
        to: at(5, 12),
        over: at(3, 11),
        is_within,
    };
    assert_eq!(skipped.anomalies(), [skip(false)]);
    let within = history(&written(), &[&[vec![at(0, 10), at(5, 12)]], &[vec![at(3, 11)]]]);
    assert_eq!(within.anomalies(), [skip(true)]);
}

#[test]
fn nothing_is_lost_before_the_end_was_read() {
    assert_eq!(history(&written(), &[&[vec![at(0, 10)]]]).lost_writes(), []);
}

#[test]
fn an_aborted_record_is_no_lost_one_and_must_not_be_read() {
    let read = history(&written(), &[&[vec![at(0, 10), at(1, 11)]]]);
    assert_eq!(read.anomalies(), [Anomaly::AbortedRead(at(1, 11))]);
}

#[test]
fn a_value_at_two_places_is_a_duplicate_whoever_reads_it() {
    let mut writes = written();
    writes.push((at(6, 10), Fate::Committed));
    let three = || vec![at(0, 10), at(3, 11), at(5, 12)];
    let all = || [three(), vec![at(6, 10)]].concat();
    let duplicate = [Anomaly::Duplicate(at(0, 10), at(6, 10))];
    assert_eq!(history(&writes, &[&[all()]]).anomalies(), duplicate);
    assert_eq!(history(&writes, &[&[three()], &[all()]]).anomalies(), duplicate);
    // Two readers of one place are none.
    assert_eq!(history(&writes, &[&[three()], &[three()]]).anomalies(), []);
}

#[test]
fn a_reader_that_goes_back_or_stays_is_told() {
    let back = |from, to, is_within| Anomaly::NonmonotonicPoll { from, to, is_within };
    let (first, second) = (at(0, 10), at(3, 11));
    let between = [vec![first.clone(), second.clone()], vec![first.clone()]];
    let between = history(&written(), &[&between]);
    assert_eq!(between.anomalies(), [back(second.clone(), first.clone(), false)]);
    let within = history(&written(), &[&[vec![first.clone(), second, first.clone()]]]);
    assert_eq!(within.anomalies(), [back(at(3, 11), first.clone(), true)]);
    let stays = history(&written(), &[&[vec![first.clone()], vec![first.clone()]]]);
    assert_eq!(stays.anomalies(), [back(first.clone(), first, false)]);
}

#[test]
fn two_records_at_one_place_are_told() {
    let other = Entry { value: 77, ..at(0, 10) };
    let read = history(&written(), &[&[vec![other.clone()]]]);
    assert_eq!(read.anomalies(), [Anomaly::InconsistentOffset(at(0, 10), other)]);
}

#[test]
fn partitions_have_their_own_order() {
    let elsewhere = |offset, value| Entry { partition: 1, ..at(offset, value) };
    let mut writes = written();
    writes.extend([(elsewhere(2, 20), Fate::Committed), (elsewhere(4, 21), Fate::Committed)]);
    let polls = [vec![at(0, 10), elsewhere(2, 20)], vec![elsewhere(4, 21), at(3, 11), at(5, 12)]];
    assert_eq!(history(&writes, &[&polls]).anomalies(), []);
}
