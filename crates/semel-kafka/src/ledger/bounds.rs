//! A window in the numbers that tables hold.

use super::{Sighting, millis_of};
use crate::window::{Clockwork, Refresh, Window};

/// A window as the ledgers' statements take it; none is no bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) millis: Option<i64>,
    pub(super) ids: Option<i64>,
    pub(super) slides: bool,
    pub(super) by_event: bool,
}

impl Bounds {
    pub(super) fn of(window: &Window) -> Self {
        let time = window.time();
        Self {
            millis: time.map(|time| i64::try_from(time.length.as_millis()).unwrap_or(i64::MAX)),
            ids: window.count().map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
            slides: time.is_some_and(|time| time.refresh == Refresh::Sliding),
            by_event: time.is_some_and(|time| time.clockwork == Clockwork::Event),
        }
    }

    /// The time that counts for a record; none is the ledger's own.
    pub(super) fn time_of(&self, sighting: &Sighting) -> Option<i64> {
        if self.by_event { sighting.timestamp.map(millis_of) } else { None }
    }
}
