//! The guarantee table of `docs/guarantees.md`, made from verdicts.

use std::collections::BTreeMap;

use semel::Effect;

use crate::design::{Design, Faults, MODES, Mistake, Sink};
use crate::verdict::{Verdict, judge};
use crate::world::{HOLD, RETRY, World};

/// The fault classes of the table, in its order.
pub const CLASSES: [(&str, Faults); 6] = [
    ("concurrent retries", Faults::NONE),
    ("crashes", Faults::CRASH),
    ("crashes, pauses, late messages", Faults::ALL_ALIVE),
    ("the record is lost", Faults::RECORD_LOST),
    ("record and counter are lost", Faults::COUNTER_LOST),
    ("failover loses acknowledged writes", Faults::FAILOVER),
];

/// Mistakes that look harmless, with the name under which the documentation lists them.
pub const MISTAKES: [(&str, Design); 7] = [
    ("look, act, remember (GET, work, SET)", Design::right(RETRY).with(Mistake::CheckThenAct)),
    ("a fencing token alone", Design::right(RETRY).into(Sink::Fence)),
    ("a look at the lease right before the effect", Design::right(RETRY).with(Mistake::LeaseCheck)),
    ("the key is freed on a time-out", Design::right(HOLD).with(Mistake::ReleaseOnTimeout)),
    (
        "\"not there, so run it again\" by an operator",
        Design::right(HOLD).with(Mistake::NaiveReconcile),
    ),
    (
        "the same with a fencing token",
        Design::right(HOLD).into(Sink::Fence).with(Mistake::NaiveReconcile),
    ),
    (
        "fence-then-query with a bare counter",
        Design::right(Effect::FencedQuery).with(Mistake::BareCounter),
    ),
];

/// How far the worlds go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Callers with one key.
    pub callers: usize,
    /// Claims in a run.
    pub claims_max: u8,
    /// Crashes in a run, where the faults have any.
    pub crashes_max: u8,
}

impl Bounds {
    /// Quick enough for every test run.
    pub const CUT: Self = Self { callers: 2, claims_max: 3, crashes_max: 1 };
    /// What the documentation is made from.
    pub const FULL: Self = Self { callers: 3, claims_max: 4, crashes_max: 2 };

    /// The world of a design under faults within these bounds.
    #[must_use]
    pub const fn world(self, design: Design, mut faults: Faults) -> World {
        if faults.crashes > self.crashes_max {
            faults.crashes = self.crashes_max;
        }
        let Self { callers, claims_max, .. } = self;
        World { design, faults, callers, claims_max, folded: true }
    }
}

/// Everything the documentation says, and how many moments it rests on.
#[derive(Debug)]
pub struct Tables {
    /// Markdown, without the counts, so that it is the same for every bound that agrees.
    pub markdown: String,
    /// Moments seen in all worlds.
    pub moments: usize,
}

/// Judges every mode and mistake under every class of faults. `told` hears of each world.
pub fn tables(bounds: Bounds, mut told: impl FnMut(&str, &str, &Verdict)) -> Tables {
    let mut tables = Tables { markdown: String::new(), moments: 0 };
    let mut judged = |name: &str, design: Design| -> Vec<Verdict> {
        let each = CLASSES.iter().map(|(class, faults)| {
            let verdict = judge(bounds.world(design, *faults));
            told(name, class, &verdict);
            verdict
        });
        each.collect()
    };
    let modes: BTreeMap<_, _> = MODES
        .iter()
        .enumerate()
        .map(|(at, mode)| ((at, mode.name()), judged(mode.name(), Design::right(*mode))))
        .collect();
    let mistakes: Vec<_> =
        MISTAKES.iter().map(|(name, design)| (*name, judged(name, *design))).collect();
    let rows = modes.iter().map(|((_, name), verdicts)| (*name, verdicts.as_slice()));
    header(&mut tables.markdown, "effect mode");
    for (name, verdicts) in rows.clone() {
        row(&mut tables.markdown, &format!("`{name}`"), verdicts.iter().map(cell));
    }
    let same = (0..CLASSES.len()).map(|class| {
        let same = modes.values().all(|verdicts| verdicts[class].one_answer.is_none());
        if same { "yes" } else { "no" }.to_owned()
    });
    row(&mut tables.markdown, "all answered callers get the same answer", same);
    tables.markdown.push('\n');
    header(&mut tables.markdown, "what looks like a promise and is none");
    for (name, verdicts) in &mistakes {
        row(&mut tables.markdown, name, verdicts.iter().map(cell));
    }
    let all = modes.values().chain(mistakes.iter().map(|(_, verdicts)| verdicts));
    tables.moments = all.flatten().map(|verdict| verdict.moments).sum();
    tables
}

fn cell(verdict: &Verdict) -> String {
    let told = if verdict.told_is_done.is_some() { " †" } else { "" };
    format!("{}{told}", verdict.promise())
}

fn header(markdown: &mut String, first: &str) {
    row(markdown, first, CLASSES.iter().map(|(name, _)| (*name).to_owned()));
    row(markdown, "---", CLASSES.iter().map(|_| "---".to_owned()));
}

fn row(markdown: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    markdown.push_str(&format!("| {first} |"));
    for cell in cells {
        markdown.push_str(&format!(" {cell} |"));
    }
    markdown.push('\n');
}
