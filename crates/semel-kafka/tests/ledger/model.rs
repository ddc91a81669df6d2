//! What a window means, written down naively.

use std::collections::{BTreeMap, HashSet};

use semel_kafka::Window;
use semel_kafka::{Clockwork, Refresh};

/// How long a unit of the model's time is.
pub(crate) const UNIT_MS: u64 = 1_000_000;

/// Sees everything and forgets nothing.
#[derive(Debug, Default)]
pub(crate) struct Model {
    seen: BTreeMap<String, Seen>,
    ordinals: BTreeMap<i32, i64>,
    pub(crate) now: i64,
}

#[derive(Debug)]
struct Seen {
    at: i64,
    partition: i32,
    ordinal: i64,
}

impl Model {
    /// Ids with their partition and time, in units.
    pub(crate) fn remember(
        &mut self,
        window: &Window,
        sightings: &[(String, i32, i64)],
    ) -> Vec<bool> {
        let before = self.ordinals.clone();
        let mut is_new = vec![false; sightings.len()];
        let mut ids = HashSet::new();
        let (firsts, others): (Vec<_>, Vec<_>) =
            (0..sightings.len()).partition(|place| ids.insert(&sightings[*place].0));
        for place in firsts.into_iter().chain(others) {
            let (id, partition, event) = &sightings[place];
            let time = window.time();
            let is_wall = time.is_some_and(|time| time.clockwork == Clockwork::Wall);
            let at = if is_wall { self.now } else { *event };
            if let Some(seen) = self.seen.get_mut(id) {
                let length = time.map(|time| time.length.as_millis() / u128::from(UNIT_MS));
                let is_near =
                    length.is_none_or(|length| u128::from((at - seen.at).unsigned_abs()) < length);
                let behind = before.get(&seen.partition).unwrap_or(&0) - seen.ordinal;
                if is_near && window.count().is_none_or(|count| behind < count.cast_signed()) {
                    if time.is_some_and(|time| time.refresh == Refresh::Sliding) {
                        seen.at = seen.at.max(at);
                    }
                    continue;
                }
            }
            is_new[place] = true;
            let ordinal = self.ordinals.entry(*partition).or_default();
            *ordinal += 1;
            let seen = Seen { at, partition: *partition, ordinal: *ordinal };
            self.seen.insert(id.clone(), seen);
        }
        is_new
    }
}
