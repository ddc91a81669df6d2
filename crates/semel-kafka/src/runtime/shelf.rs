//! The records of one partition that wait to be handled.

use std::collections::VecDeque;
use std::sync::Arc;

use semel::Timestamp;

use crate::log::Record;
use crate::rejected::Rejected;

/// One partition of this member.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) records: VecDeque<Arc<Record>>,
    /// A record that failed and has to be handled alone.
    pub(super) trial: Option<Trial>,
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
    /// It is not tried any more.
    pub(super) doomed: Option<Rejected>,
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
    pub(super) fn put(&mut self, record: Arc<Record>) {
        self.first.get_or_insert(record.offset);
        self.records.push_back(record);
    }

    pub(super) fn offer(&self, now: Timestamp) -> Offer {
        let Some(head) = self.records.front().filter(|_| !self.is_stopped) else {
            return Offer::Nothing(None);
        };
        let Some(trial) = self.trial.as_ref().filter(|trial| trial.offset >= head.offset) else {
            return Offer::Many(self.records.len());
        };
        if head.offset < trial.offset {
            let before = |record: &&Arc<Record>| record.offset < trial.offset;
            return Offer::Many(self.records.iter().take_while(before).count());
        }
        if now < trial.not_before { Offer::Nothing(Some(trial.not_before)) } else { Offer::Alone }
    }

    /// Takes a finished record off the shelf.
    pub(super) fn finish(&mut self, offset: i64) {
        self.done = Some(offset + 1);
        if self.trial.as_ref().is_some_and(|trial| trial.offset <= offset) {
            self.trial = None;
        }
    }

    /// How often this record was tried, this time included.
    pub(super) fn attempts(&self, offset: i64) -> u32 {
        let earlier = self.trial.as_ref().filter(|trial| trial.offset == offset);
        earlier.map_or(0, |trial| trial.attempts) + 1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::log::TopicPartition;

    fn shelf(offsets: &[i64]) -> Shelf {
        let mut shelf = Shelf::default();
        for &offset in offsets {
            shelf.put(Arc::new(Record {
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
        shelf.trial = Some(Trial { offset: 5, attempts: 1, not_before: late, doomed: None });
        assert_eq!(shelf.offer(early), Offer::Many(1));
        shelf.records.pop_front();
        shelf.finish(3);
        assert_eq!(shelf.offer(early), Offer::Nothing(Some(late)));
        assert_eq!(shelf.offer(late), Offer::Alone);
        assert_eq!(shelf.attempts(5), 2);
        shelf.records.pop_front();
        shelf.finish(5);
        assert_eq!(shelf.offer(early), Offer::Many(1));
        assert_eq!((shelf.first, shelf.done), (Some(3), Some(6)));
    }
}
