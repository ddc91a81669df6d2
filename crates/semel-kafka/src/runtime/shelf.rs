//! The records of one partition that wait to be handled.

use std::collections::VecDeque;

use semel::Timestamp;

use super::entry::Entry;
use crate::rejected::Rejected;

/// One partition of this member.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) records: VecDeque<Entry>,
    /// A record that failed and has to be handled alone.
    pub(super) trial: Option<Trial>,
    /// It is a partition of a retry topic.
    pub(super) is_companion: bool,
    /// The group knows from where it is read.
    pub(super) is_assigned: bool,
    pub(super) is_paused: bool,
    /// A record could not be handled, and nothing that follows may be.
    pub(super) is_stopped: bool,
    /// The first offset that was read since the partition came.
    pub(super) first: Option<i64>,
    /// The offset behind what is finished.
    pub(super) done: Option<i64>,
}

/// A record that failed.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) offset: i64,
    pub(super) attempts: u32,
    pub(super) not_before: Timestamp,
    /// It is not tried here any more.
    pub(super) leaving: Option<Leaving>,
}

/// Where a record that failed goes.
#[derive(Clone, Debug)]
pub(super) enum Leaving {
    /// To the retry topic.
    Parked(Rejected),
    /// It is over.
    Doomed(Rejected),
}

/// What a shelf offers now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// Nothing, or nothing before this time.
    Nothing(Option<Timestamp>),
    /// Its first so many records, with those of others.
    Many(usize),
    /// Its first record, and that alone.
    Alone,
}

impl Shelf {
    pub(super) fn put(&mut self, entry: Entry) {
        self.first.get_or_insert(entry.offset);
        self.records.push_back(entry);
    }

    pub(super) fn offer(&self, now: Timestamp) -> Offer {
        let Some(head) = self.records.front().filter(|_| !self.is_stopped) else {
            return Offer::Nothing(None);
        };
        let trial = self.trial.as_ref().filter(|trial| trial.offset >= head.offset);
        let tried = trial.map(|trial| trial.offset);
        let not_before = match trial {
            Some(trial) if trial.offset == head.offset => trial.not_before,
            _ if head.attempts > 0 => head.not_before,
            _ => {
                let is_new = |entry: &&Entry| entry.attempts == 0 && Some(entry.offset) != tried;
                return Offer::Many(self.records.iter().take_while(is_new).count());
            }
        };
        if now < not_before { Offer::Nothing(Some(not_before)) } else { Offer::Alone }
    }

    /// Takes a finished record off the shelf.
    pub(super) fn finish(&mut self, offset: i64) {
        self.done = self.done.max(Some(offset + 1));
        if self.trial.as_ref().is_some_and(|trial| trial.offset <= offset) {
            self.trial = None;
        }
    }

    /// How often this record was tried, this time included.
    pub(super) fn attempts(&self, entry: &Entry) -> u32 {
        let earlier = self.trial.as_ref().filter(|trial| trial.offset == entry.offset);
        earlier.map_or(entry.attempts, |trial| trial.attempts) + 1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::log::{Record, TopicPartition};

    fn shelf(offsets: &[i64]) -> Shelf {
        let mut shelf = Shelf::default();
        for &offset in offsets {
            shelf.put(Entry::new(Record {
                partition: TopicPartition::new("t", 0),
                offset,
                key: None,
                value: None,
                headers: Vec::new(),
                timestamp: None,
            }));
        }
        shelf
    }

    #[test]
    fn a_record_that_failed_is_offered_alone_once_its_pause_is_over() {
        let (early, late) = (Timestamp::from_millis(1), Timestamp::from_millis(2));
        let mut shelf = shelf(&[3, 5, 9]);
        assert_eq!(shelf.offer(early), Offer::Many(3));
        shelf.trial = Some(Trial { offset: 5, attempts: 1, not_before: late, leaving: None });
        assert_eq!(shelf.offer(early), Offer::Many(1));
        shelf.records.pop_front();
        shelf.finish(3);
        assert_eq!(shelf.offer(early), Offer::Nothing(Some(late)));
        assert_eq!(shelf.offer(late), Offer::Alone);
        assert_eq!(shelf.attempts(&shelf.records[0]), 2);
        shelf.records.pop_front();
        shelf.finish(5);
        assert_eq!(shelf.offer(early), Offer::Many(1));
        assert_eq!((shelf.first, shelf.done), (Some(3), Some(6)));
    }

    #[test]
    fn a_record_that_failed_elsewhere_is_offered_alone_at_its_time() {
        let (early, late) = (Timestamp::from_millis(1), Timestamp::from_millis(2));
        let mut shelf = shelf(&[3, 5, 9]);
        shelf.records[1].attempts = 2;
        shelf.records[1].not_before = late;
        assert_eq!(shelf.offer(late), Offer::Many(1));
        shelf.records.pop_front();
        assert_eq!(shelf.offer(early), Offer::Nothing(Some(late)));
        assert_eq!(shelf.offer(late), Offer::Alone);
        assert_eq!(shelf.attempts(&shelf.records[0]), 3);
    }
}
