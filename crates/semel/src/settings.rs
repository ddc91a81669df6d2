//! Numbers of a guard, with their defaults and reasons, and the rules between them.

use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::store::Limits;

/// What to do when another claim of the same key executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wait {
    /// Say so at once ([`ErrorKind::InFlight`]).
    Refuse,
    /// Wait for its outcome, at most this long, then say so.
    UpTo(Duration),
}

/// The numbers of a guard. Plain data; [`Settings::default`] is right for requests that take
/// seconds and clients that retry within a day.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// How long a claim stays valid without a heartbeat; a heartbeat comes every third of it.
    /// Default 30 s: longer than usual pauses of a process, short enough to wait for after a
    /// crash.
    pub lease: Duration,
    /// The ceiling of the heartbeat: a handler that runs longer loses its lease, so that a hung
    /// one does not keep its key for ever. Default 10 min.
    pub execution_max: Duration,
    /// How long an outcome is kept after completion. Part of the guarantee: a retry after that
    /// is a new operation. Default 24 h.
    pub retention: Duration,
    /// The longest time after which a caller may still retry, if known. `build` refuses a shorter
    /// retention. Default: unknown.
    pub retry_window: Option<Duration>,
    /// What a duplicate of a running operation hears. Default: [`Wait::Refuse`].
    pub wait: Wait,
    /// What a refused duplicate is told about when to come back. Default 1 s.
    pub retry_after: Duration,
    /// How many callers may wait in this process; more are refused at once. Default 10,000.
    pub waiters_max: usize,
    /// The longest pause between two looks at the store while waiting for another process. One
    /// caller per key looks, however many wait. Default 500 ms.
    pub poll_max: Duration,
    /// After so many leases lost in a row the record is held instead of run again. Default 3.
    pub lost_leases_max: u32,
    /// How long to keep trying to claim or to store an outcome while the store cannot be reached.
    /// Nothing cuts an attempt off, and no claim begins another one that would not fit. Default
    /// 5 s.
    pub store_patience: Duration,
    /// Refuse an unknown key that says it is older than the retention (UUID version 7), because
    /// its record may have expired. Default: yes.
    pub refuse_old_keys: bool,
    /// The largest answer that is stored. Default 4 MiB.
    pub outcome_bytes_max: usize,
    /// The largest result of a step. Default 256 KiB.
    pub step_bytes_max: usize,
    /// The most steps of one operation. Default 100.
    pub steps_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            execution_max: Duration::from_secs(600),
            retention: Duration::from_secs(24 * 3600),
            retry_window: None,
            wait: Wait::Refuse,
            retry_after: Duration::from_secs(1),
            waiters_max: 10_000,
            poll_max: Duration::from_millis(500),
            lost_leases_max: 3,
            store_patience: Duration::from_secs(5),
            refuse_old_keys: true,
            outcome_bytes_max: 4 * 1024 * 1024,
            step_bytes_max: 256 * 1024,
            steps_max: 100,
        }
    }
}

impl Settings {
    /// The shortest lease that heartbeats over a network can keep.
    pub const LEASE_MIN: Duration = Duration::from_millis(100);

    /// Checks every rule between the numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] names the two numbers that contradict each other and the way out.
    pub fn validate(&self) -> Result<(), Error> {
        let wait = match self.wait {
            Wait::Refuse => Duration::ZERO,
            Wait::UpTo(wait) => wait,
        };
        let (lease, retention) = (self.lease, self.retention);
        let rules = [
            (
                lease >= Self::LEASE_MIN,
                format!("lease is {lease:?}; heartbeats need at least {:?}", Self::LEASE_MIN),
            ),
            (
                lease <= self.execution_max,
                format!(
                    "lease ({lease:?}) is longer than execution_max ({:?}); the ceiling on an \
                     execution must not be shorter than one lease",
                    self.execution_max
                ),
            ),
            (
                retention >= lease,
                format!(
                    "retention ({retention:?}) is shorter than lease ({lease:?}); an outcome \
                     must outlive the claim that made it"
                ),
            ),
            (
                wait < retention,
                format!(
                    "wait ({wait:?}) is not shorter than retention ({retention:?}); a waiter \
                     could sleep through the outcome and run the operation again"
                ),
            ),
            (
                self.retry_window.is_none_or(|window| window <= retention),
                format!(
                    "retention ({retention:?}) is shorter than retry_window ({:?}); a late retry \
                     would run the operation again: keep records longer or retry for a shorter \
                     time",
                    self.retry_window.unwrap_or_default()
                ),
            ),
            (
                self.store_patience < lease,
                format!(
                    "store_patience ({:?}) is not shorter than lease ({lease:?}); the claim \
                     would be lost while its outcome waits for the store",
                    self.store_patience
                ),
            ),
            (self.lost_leases_max > 0, "lost_leases_max is 0; use 1 or more".to_owned()),
            (self.poll_max > Duration::ZERO, "poll_max is zero; use 1 ms or more".to_owned()),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, problem)) => Err(Error::new(ErrorKind::Settings, problem)),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            outcome_bytes_max: self.outcome_bytes_max,
            step_bytes_max: self.step_bytes_max,
            steps_max: self.steps_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_break_the_promise_are_refused_with_both_names() {
        type Break = fn(&mut Settings);
        let secs = Duration::from_secs;
        let broken: [(&str, &str, Break); 6] = [
            ("lease", "heartbeats", |it| it.lease = Duration::from_millis(99)),
            ("lease", "execution_max", |it| it.execution_max = Duration::from_secs(29)),
            ("retention", "lease", |it| it.retention = Duration::from_secs(29)),
            ("retention", "retry_window", |it| it.retry_window = Some(Duration::from_secs(90_000))),
            ("wait", "retention", |it| it.wait = Wait::UpTo(Duration::from_secs(86_400))),
            ("store_patience", "lease", |it| it.store_patience = Duration::from_secs(30)),
        ];
        for (one, other, change) in broken {
            let mut settings = Settings::default();
            assert!(settings.validate().is_ok());
            change(&mut settings);
            let error = settings.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Settings);
            let text = error.to_string();
            assert!(text.contains(one) && text.contains(other), "{text}");
        }
        let edge = Settings { retry_window: Some(secs(86_400)), ..Settings::default() };
        assert!(edge.validate().is_ok());
    }
}
