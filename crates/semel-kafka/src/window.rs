//! For how long the id of a record is remembered.

use std::time::Duration;

use semel::{Error, ErrorKind};

/// How long a consumer remembers ids: a record whose id is remembered is a duplicate.
///
/// A window must be longer than the longest time after which a record can come again: retries of
/// its producer, replays by people, retries and downtime of this consumer. Nothing
/// about it is a default; each choice is named.
///
/// ```
/// use std::time::Duration;
/// use semel_kafka::{Clockwork, Refresh, Window};
///
/// let day = Window::of(Duration::from_secs(86_400), Clockwork::Event, Refresh::Fixed)?;
/// let bounded = day.at_most(10_000_000)?;
/// # Ok::<(), semel::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    time: Option<TimeWindow>,
    count: Option<u64>,
}

/// The part of a [`Window`] that is measured in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWindow {
    /// How long.
    pub length: Duration,
    /// By which clock.
    pub clockwork: Clockwork,
    /// Whether a duplicate prolongs it.
    pub refresh: Refresh,
}

/// Which time of a record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clockwork {
    /// The record's own timestamp. Reading a topic again after a week gives the same duplicates. A
    /// record without a timestamp counts as now. One that is late is a duplicate when its time is
    /// within one length of the remembered one, before or after.
    Event,
    /// The time at which the record is handled, by the ledger's clock.
    Wall,
}

/// What a duplicate does to the time of the id it repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Nothing: the window begins with the first record and ends after its length.
    Fixed,
    /// It begins anew: an id is forgotten after one length of silence.
    Sliding,
}

impl Window {
    /// Remembers ids for a time.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for less than a second or more than ten years.
    pub fn of(length: Duration, clockwork: Clockwork, refresh: Refresh) -> Result<Self, Error> {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(10 * 366 * 86_400));
        if length < min || length > max {
            let message =
                format!("a window of {length:?} is refused; take one second to ten years");
            return Err(Error::new(ErrorKind::Settings, message));
        }
        let time = Some(TimeWindow { length, clockwork, refresh });
        Ok(Self { time, count: None })
    }

    /// Remembers the latest ids of each partition, however old.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for none.
    pub fn latest(count: u64) -> Result<Self, Error> {
        Self { time: None, count: None }.at_most(count)
    }

    /// Remembers everything for ever. The table grows without end.
    #[must_use]
    pub fn endless() -> Self {
        Self { time: None, count: None }
    }

    /// Also forgets all but the latest ids of each partition, whichever bound comes first.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] for none.
    pub fn at_most(mut self, count: u64) -> Result<Self, Error> {
        if count == 0 || i64::try_from(count).is_err() {
            let message = "a window of that many ids is refused; take at least one";
            return Err(Error::new(ErrorKind::Settings, message));
        }
        self.count = Some(count);
        Ok(self)
    }

    /// The bound in time.
    #[must_use]
    pub fn time(&self) -> Option<TimeWindow> {
        self.time
    }

    /// The bound in ids for each partition.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        self.count
    }
}
