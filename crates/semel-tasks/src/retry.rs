//! When to try again what provably did nothing.

use std::time::Duration;

use semel::rng::jitter;
use semel::{Error, ErrorKind, Random};

/// How often a body runs within one call, and the pauses in between. Only what ended as proven
/// [`NotApplied`](semel::Failure::NotApplied) is tried again; everything else is for the record to
/// decide.
///
/// The pauses have "full jitter": before the n-th repetition a random wait between zero and
/// `backoff · 2ⁿ⁻¹`, at most `backoff_max`. The claim is given back before each pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often the body runs at most; 1 never repeats. Default 3.
    pub attempts_max: u32,
    /// The longest first pause. Default 500 ms.
    pub backoff: Duration,
    /// The longest pause of all. Default 30 s.
    pub backoff_max: Duration,
}

impl RetryPolicy {
    /// One attempt. Right below a queue that retries by itself.
    #[must_use]
    pub const fn never() -> Self {
        Self { attempts_max: 1, ..Self::DEFAULT }
    }

    const DEFAULT: Self = Self {
        attempts_max: 3,
        backoff: Duration::from_millis(500),
        backoff_max: Duration::from_secs(30),
    };

    /// Checks the numbers against each other.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`] names the two that contradict each other.
    pub fn validate(&self) -> Result<(), Error> {
        let Self { attempts_max, backoff, backoff_max } = *self;
        let problem = if attempts_max == 0 {
            "attempts_max is 0; a body has to run once: use 1 or more".to_owned()
        } else if backoff > backoff_max {
            format!("backoff ({backoff:?}) is longer than backoff_max ({backoff_max:?})")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Settings, problem))
    }

    /// The pause after so many failures in a row (1 is the first); for queues that keep the number
    /// themselves.
    #[must_use]
    pub fn pause(&self, failures: u32, random: &dyn Random) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        jitter(random, self.backoff.saturating_mul(doubled).min(self.backoff_max))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use semel::SeededRandom;

    #[test]
    fn pauses_grow_up_to_their_ceiling_and_are_spread_below_it() {
        let policy = RetryPolicy::default();
        let random = SeededRandom::new(17);
        let longest =
            |failures| (0..200).map(|_| policy.pause(failures, &random)).max().unwrap_or_default();
        let secs = Duration::from_secs_f64;
        assert!(longest(1) <= secs(0.5) && longest(1) > secs(0.4));
        assert!(longest(3) <= secs(2.0) && longest(3) > secs(1.6));
        assert!(longest(40) <= secs(30.0) && longest(u32::MAX) > secs(25.0));
    }

    #[test]
    fn numbers_that_contradict_each_other_are_refused_by_name() {
        let policy = RetryPolicy::default();
        assert!(policy.validate().is_ok() && RetryPolicy::never().validate().is_ok());
        let never = RetryPolicy { attempts_max: 0, ..policy };
        assert!(never.validate().unwrap_err().to_string().contains("attempts_max"));
        let long = RetryPolicy { backoff: Duration::from_secs(31), ..policy };
        assert!(long.validate().unwrap_err().to_string().contains("backoff_max"));
    }
}
