//! Chance as a component: the only file of this crate that may ask for random bytes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::fence::Nonce;

/// A source of random bytes.
pub trait Random: fmt::Debug + Send + Sync {
    /// Fills the buffer with unpredictable bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the system has no randomness to give; nothing may be
    /// claimed then, because two claims could share a nonce.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), Error>;
}

/// Randomness of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for randomness")]
    fn fill(&self, buffer: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(buffer).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the system gave no random bytes for a claim")
                .with_source(error)
        })
    }
}

/// A reproducible sequence for tests: the same seed gives the same bytes.
#[derive(Debug)]
pub struct SeededRandom(AtomicU64);

impl SeededRandom {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), Error> {
        for chunk in buffer.chunks_mut(8) {
            let seed = self.0.fetch_add(1, Ordering::Relaxed);
            let hash = blake3::hash(&seed.to_le_bytes());
            chunk.copy_from_slice(&hash.as_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// A fresh nonce for a claim.
pub(crate) fn nonce(random: &dyn Random) -> Result<Nonce, Error> {
    let mut bytes = [0; 16];
    random.fill(&mut bytes)?;
    Ok(Nonce::from_bytes(bytes))
}

/// "Full jitter": a uniformly random wait between zero and `ceiling`
/// (Brooker, "Exponential Backoff And Jitter", 2015). Spreads a herd better than any fixed wait.
pub fn jitter(random: &dyn Random, ceiling: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness the full wait is still a correct wait.
    if random.fill(&mut bytes).is_err() {
        return ceiling;
    }
    ceiling.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
