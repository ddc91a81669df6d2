//! Every broken design keeps its counterexample, and the suite that every store runs walks it.
//!
//! A row is the shortest story of how a design fails that looks right. The model must be able to
//! take each step of it, must see the promise break at the last step and not before, and must
//! still find a way to break it by itself. Caller 0 is the `A` of the suite, caller 1 its `B`.

use std::collections::BTreeSet;

use semel::Effect;
use semel::conformance;
use semel::store::Action;
use semel_spec::design::Faults;
use semel_spec::record::Mark;
use semel_spec::world::{HOLD, RETRY};
use semel_spec::{Act, Design, Mistake, Sink, World, judge};
use stateright::Model;

/// A story.
struct Story {
    /// What looks like a promise.
    broken: &'static str,
    /// The case of the public suite that walks the same path on a real store.
    case: &'static str,
    design: Design,
    faults: Faults,
    /// The property that breaks.
    breaks: &'static str,
    path: &'static [Act],
}

const PAUSES: Faults = Faults { pauses: true, ..Faults::NONE };
const LOSS: Faults = Faults { record_losses: 1, ..Faults::NONE };

const STORIES: [Story; 11] = [
    Story {
        broken: "look, act, remember",
        case: "two_that_found_nothing_are_one_executor",
        design: Design::right(RETRY).with(Mistake::CheckThenAct),
        faults: Faults::NONE,
        breaks: "once",
        path: &[
            Act::Claim(1, true),
            Act::Claim(0, true),
            Act::Apply(1),
            Act::Complete(1),
            Act::Apply(0),
        ],
    },
    Story {
        broken: "retry with a fencing token, one crash",
        case: "a_crash_costs_what_the_mode_says",
        design: Design::right(RETRY).into(Sink::Fence),
        faults: Faults { crashes: 1, ..Faults::NONE },
        breaks: "once",
        path: &[
            Act::Claim(0, true),
            Act::Apply(0),
            Act::Crash(0),
            Act::Expire,
            Act::Claim(1, true),
            Act::Apply(1),
        ],
    },
    Story {
        broken: "retry with a look at the lease, a pause",
        case: "a_lease_that_was_good_when_checked_is_no_permission",
        design: Design::right(RETRY).with(Mistake::LeaseCheck),
        faults: PAUSES,
        breaks: "once",
        path: &[
            Act::Claim(0, true),
            Act::Check(0),
            Act::Expire,
            Act::Claim(1, true),
            Act::Check(1),
            Act::Apply(1),
            Act::Apply(0),
        ],
    },
    Story {
        broken: "hold with a fencing token, and an operator who runs what is not there",
        case: "a_zombie_after_an_early_release_is_caught_by_the_sink_alone",
        design: Design::right(HOLD).into(Sink::Fence).with(Mistake::NaiveReconcile),
        faults: PAUSES,
        breaks: "once",
        path: &[
            Act::Claim(0, true),
            Act::Expire,
            Act::Claim(1, true),
            Act::TakeOver(Action::Release),
            Act::Decide,
            Act::Apply(0),
            Act::Complete(0),
            Act::Read(0),
            Act::Claim(0, true),
            Act::Apply(0),
        ],
    },
    Story {
        broken: "hold, but a time-out frees the key",
        case: "a_timeout_is_held_and_never_freed",
        design: Design::right(HOLD).with(Mistake::ReleaseOnTimeout),
        faults: Faults { delays: true, ..Faults::NONE },
        breaks: "once",
        path: &[
            Act::Claim(0, true),
            Act::Apply(0),
            Act::TimeOut(0),
            Act::Claim(0, true),
            Act::Apply(0),
            Act::Deliver(0, Mark { counter: 1, nonce: 1 }),
            Act::Deliver(0, Mark { counter: 2, nonce: 2 }),
        ],
    },
    Story {
        broken: "same transaction, the record expires",
        case: "a_forgotten_outcome_is_kept_by_the_sink_alone",
        design: Design::right(Effect::Transactional),
        faults: LOSS,
        breaks: "once",
        path: &[
            Act::Claim(0, true),
            Act::Apply(0),
            Act::Answer(0),
            Act::Lose,
            Act::Claim(1, true),
            Act::Apply(1),
        ],
    },
    Story {
        broken: "same transaction, the record is purged",
        case: "a_forgotten_outcome_is_kept_by_the_sink_alone",
        design: Design::right(Effect::Transactional),
        faults: LOSS,
        breaks: "once",
        path: &[
            Act::Claim(0, true),
            Act::Apply(0),
            Act::Answer(0),
            Act::TakeOver(Action::Purge),
            Act::Decide,
            Act::Claim(1, true),
            Act::Apply(1),
        ],
    },
    Story {
        broken: "hold, the record is lost",
        case: "an_unfinished_record_cannot_be_lost",
        design: Design::right(HOLD),
        faults: LOSS,
        breaks: "once",
        path: &[Act::Claim(0, true), Act::Lose, Act::Claim(1, true), Act::Apply(1), Act::Apply(0)],
    },
    Story {
        broken: "fence-then-query with a bare counter, the counter is lost",
        case: "a_reissued_counter_opens_nothing",
        design: Design::right(Effect::FencedQuery).with(Mistake::BareCounter),
        faults: Faults { counter_resets: true, delays: true, ..LOSS },
        breaks: "once",
        path: &[
            Act::Claim(0, true),
            Act::Apply(0),
            Act::Lose,
            Act::Claim(1, true),
            Act::Deliver(0, Mark { counter: 1, nonce: 1 }),
            Act::Apply(1),
            Act::Deliver(0, Mark { counter: 1, nonce: 2 }),
        ],
    },
    Story {
        broken: "fence-then-query with a bare counter, a failover to a replica that lagged behind",
        case: "a_store_that_lost_everything_is_caught_by_the_sink_alone",
        design: Design::right(Effect::FencedQuery).with(Mistake::BareCounter),
        faults: Faults { failover: true, ..LOSS },
        breaks: "once",
        path: &[
            Act::Lag,
            Act::Claim(0, true),
            Act::Lose,
            Act::Claim(1, true),
            Act::Apply(1),
            Act::Apply(0),
        ],
    },
    Story {
        broken: "two steps with recovery points and a sink without a fence",
        case: "a_finished_step_is_never_redone_by_a_zombie",
        design: Design::right(RETRY).two_steps(),
        faults: PAUSES,
        breaks: "no finished step again",
        path: &[
            Act::Claim(0, true),
            Act::Expire,
            Act::Claim(1, true),
            Act::Apply(1),
            Act::Complete(1),
            Act::Apply(0),
        ],
    },
];

impl Story {
    fn world(&self, folded: bool) -> World {
        let (design, faults) = (self.design, self.faults);
        World { design, faults, callers: 2, claims_max: 4, folded }
    }
}

#[test]
fn every_counterexample_breaks_its_design_at_its_last_step() {
    for story in STORIES {
        let (broken, world) = (story.broken, story.world(false));
        let holds = world.property(story.breaks).condition;
        let mut moment = world.init_states().remove(0);
        for (at, act) in story.path.iter().enumerate() {
            assert!(holds(&world, &moment), "{broken}: broken before step {at}");
            let mut acts = Vec::new();
            world.actions(&moment, &mut acts);
            assert!(acts.contains(act), "{broken}: {act:?} cannot happen in {moment:#?}");
            moment = world.next_state(&moment, *act).unwrap();
        }
        assert!(!holds(&world, &moment), "{broken}: nothing is broken in {moment:#?}");
    }
}

#[test]
fn the_model_finds_each_of_them_by_itself() {
    for story in STORIES {
        let verdict = judge(story.world(true));
        let found = match story.breaks {
            "once" => verdict.once,
            _ => verdict.no_finished_step_again,
        };
        assert!(found.is_some(), "{}: the model sees nothing wrong", story.broken);
    }
}

#[test]
fn the_same_path_is_walked_on_every_store() {
    let cases: BTreeSet<_> = conformance::cases().map(|case| case.name).collect();
    for story in STORIES {
        let (broken, case) = (story.broken, story.case);
        assert!(cases.contains(case), "{broken}: the suite has no case `{case}`");
    }
}
