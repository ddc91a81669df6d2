//! Runs a world to its end and says what held.

use stateright::{Checker, Model};

use crate::world::{Act, World};

/// What held in every moment of a world. `None` means that nothing broke it; otherwise the
/// shortest way to break it.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Moments seen.
    pub moments: usize,
    /// No step's effect happened twice.
    pub once: Option<Vec<Act>>,
    /// Where nothing can happen any more, every effect happened.
    pub not_lost: Option<Vec<Act>>,
    /// Whoever was answered, was answered about an effect that happened.
    pub told_is_done: Option<Vec<Act>>,
    /// All answered callers got the same answer.
    pub one_answer: Option<Vec<Act>>,
    /// No effect happened after one with a newer fence.
    pub no_stale_effect: Option<Vec<Act>>,
    /// No finished step happened again.
    pub no_finished_step_again: Option<Vec<Act>>,
    /// No outcome replaced another, and no claim but the latest wrote.
    pub never_overwritten: Option<Vec<Act>>,
    /// Nobody was told "outcome unknown".
    pub never_unknown: Option<Vec<Act>>,
    /// A way to answer everybody. A world without one is a mistake of the model.
    pub everybody_is_answered: Option<Vec<Act>>,
}

/// Visits every moment of the world.
#[must_use]
pub fn judge(world: World) -> Verdict {
    let checker = world.checker().threads(threads()).spawn_bfs().join();
    let found = checker.discoveries();
    let path = |name: &str| found.get(name).map(|path| path.clone().into_actions());
    Verdict {
        moments: checker.unique_state_count(),
        once: path("once"),
        not_lost: path("not lost"),
        told_is_done: path("told is done"),
        one_answer: path("one answer"),
        no_stale_effect: path("no stale effect"),
        no_finished_step_again: path("no finished step again"),
        never_overwritten: path("never overwritten"),
        never_unknown: path("never unknown"),
        everybody_is_answered: path("everybody is answered"),
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Verdict {
    /// The promise in the words of the documentation.
    #[must_use]
    pub fn promise(&self) -> &'static str {
        let once = self.once.is_none();
        let lost = self.not_lost.is_some() || self.never_unknown.is_some();
        match (once, lost) {
            (true, false) => "exactly once",
            (true, true) => "at most once",
            (false, false) => "at least once",
            (false, true) => "none",
        }
    }
}
