//! How long a benchmark runs.

use std::time::Duration;

/// The whole benchmark, or just enough of it to see that it still works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Interleaved pairs of runs.
    pub(crate) pairs: usize,
    /// The length of one run.
    pub(crate) run: Duration,
    /// Iterations of a counted loop.
    pub(crate) iterations: u64,
    /// Whether the bar counts. It does not for a short run or a debug build.
    pub(crate) is_judged: bool,
}

impl Extent {
    /// What figures in the documentation are made with.
    pub(crate) const FULL: Self =
        Self { pairs: 7, run: Duration::from_secs(3), iterations: 5_000, is_judged: true };

    /// What the tests run, so that the benchmarks do not rot.
    pub(crate) const SMOKE: Self =
        Self { pairs: 1, run: Duration::from_secs(1), iterations: 50, is_judged: false };
}
