//! A cut of the model that every test run can afford: it must say what the documentation says,
//! find every mistake, and have seen enough to be believed.

use semel_spec::design::MODES;
use semel_spec::table::{Bounds, CLASSES, MISTAKES, tables};
use semel_spec::{Design, Faults, Verdict, document, judge};

const RETRY: semel::Effect = semel_spec::world::RETRY;

fn cut(design: Design, faults: Faults) -> Verdict {
    judge(Bounds::CUT.world(design, faults))
}

#[test]
fn the_documentation_says_what_the_model_says() {
    let made = tables(Bounds::CUT, |name, class, verdict| {
        let answered = verdict.everybody_is_answered.is_some();
        assert!(answered, "{name} / {class}: nobody is ever answered; the model is broken");
    });
    let page = document::read().unwrap();
    assert_eq!(
        page.table(),
        made.markdown,
        "docs/guarantees.md differs from the model; `cargo run --release -p semel-spec -- --write`"
    );
    assert!(made.moments > 2_000_000, "only {} moments: too little to believe", made.moments);
}

#[test]
fn while_the_record_lives_no_mode_breaks_what_it_never_may() {
    for mode in MODES {
        for design in [Design::right(mode), Design::right(mode).two_steps()] {
            for faults in [Faults::NONE, Faults::CRASH] {
                let verdict = cut(design, faults);
                assert!(verdict.never_overwritten.is_none(), "{:?}", verdict.never_overwritten);
                assert!(verdict.one_answer.is_none(), "{:?}", verdict.one_answer);
                assert!(verdict.told_is_done.is_none(), "{:?}", verdict.told_is_done);
                let again = verdict.no_finished_step_again;
                assert!(again.is_none(), "{mode}: {again:?}");
            }
        }
    }
}

#[test]
fn a_late_owner_never_writes_whatever_is_delayed_lost_or_rolled_back() {
    for mode in MODES {
        for (class, faults) in CLASSES {
            let verdict = cut(Design::right(mode), faults);
            let overwritten = verdict.never_overwritten;
            assert!(overwritten.is_none(), "{mode} / {class}: {overwritten:?}");
            let forgets = faults.record_losses > 0;
            let answers = verdict.one_answer;
            assert!(forgets || answers.is_none(), "{mode} / {class}: {answers:?}");
        }
    }
}

#[test]
fn every_mistake_is_found() {
    for (name, design) in MISTAKES {
        let broken = CLASSES.iter().find_map(|(_, faults)| cut(design, *faults).once);
        assert!(broken.is_some(), "{name}: the model does not see what it breaks");
    }
}

#[test]
fn a_fence_alone_keeps_order_and_not_once() {
    let fenced = cut(Design::right(RETRY).into(semel_spec::Sink::Fence), Faults::ALL_ALIVE);
    assert!(fenced.no_stale_effect.is_none());
    assert!(fenced.once.is_some());
    let unfenced = cut(Design::right(RETRY), Faults::ALL_ALIVE);
    assert!(unfenced.no_stale_effect.is_some());
}

#[test]
fn only_the_step_in_flight_can_ever_run_again() {
    let bounds = Bounds { callers: 2, claims_max: 3, crashes_max: 2 };
    for (sink, holds) in [(semel_spec::Sink::Fence, true), (semel_spec::Sink::Anything, false)] {
        let design = Design::right(RETRY).into(sink).two_steps();
        let verdict = judge(bounds.world(design, Faults::ALL_ALIVE));
        assert_eq!(verdict.no_finished_step_again.is_none(), holds, "{sink:?}");
    }
}
