//! A saga goes forward or back, each effect once, whatever fails or is killed in between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may panic, print and watch real processes"
)]

mod kills;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use semel::{Answer, Effect, Error, ErrorKind, Failure};
use semel_tasks::{Compensated, Decision, Part, RetryPolicy, Saga, TaskGuard};
use support::{Bench, HOLD, key, secret};

/// What the steps of a saga are told to do, and what they did.
#[derive(Clone, Default)]
struct World {
    did: Arc<Mutex<Vec<String>>>,
    fails: Arc<Mutex<Vec<Fails>>>,
}

/// Which step fails, and how.
type Fails = (&'static str, fn() -> Failure);

impl World {
    /// The step of this name fails so from now on, until [`Self::mend`].
    fn fail(&self, name: &'static str, failure: fn() -> Failure) {
        self.fails.lock().unwrap().push((name, failure));
    }

    fn mend(&self) {
        self.fails.lock().unwrap().clear();
    }

    fn run(&self, name: &str) -> Result<String, Failure> {
        self.did.lock().unwrap().push(name.to_owned());
        let fails = self.fails.lock().unwrap().clone();
        match fails.into_iter().find(|(fails, _)| *fails == name) {
            Some((_, failure)) => Err(failure()),
            None => Ok(format!("{name} done")),
        }
    }

    /// What was done since the last look.
    fn did(&self) -> Vec<String> {
        std::mem::take(&mut self.did.lock().unwrap())
    }

    /// Four steps; the second has no compensation.
    fn saga(&self) -> Saga<u32> {
        let retry = RetryPolicy { backoff: Duration::ZERO, ..RetryPolicy::default() };
        let mut builder = Saga::builder().retry(retry);
        for name in ["reserve", "price", "charge", "ship"] {
            let world = self.clone();
            builder = builder.step(name, move |_| {
                let world = world.clone();
                async move { world.run(name) }
            });
            if name != "price" {
                let world = self.clone();
                builder = builder.undo(move |part: Part<u32>, result: String| {
                    let world = world.clone();
                    async move {
                        assert_eq!(result, format!("{name} done"));
                        assert_ne!(part.step_key(), part.task().step_key(name));
                        world.run(&format!("undo {name}")).map(drop)
                    }
                });
            }
        }
        builder.build().unwrap()
    }

    async fn order(&self, tasks: &TaskGuard) -> Result<Answer<String>, Error> {
        let answer = async |part: Part<u32>| part.result::<String>("ship");
        tasks.run_saga(&key(), 17, &self.saga(), answer).await
    }
}

fn declined() -> Failure {
    Failure::final_answer(&"declined")
}

fn no_answer() -> Failure {
    std::io::Error::other("no answer").into()
}

fn closed() -> Failure {
    Failure::not_applied("closed")
}

fn door(effect: Effect) -> TaskGuard {
    TaskGuard::new(Bench::new().guard(effect), secret())
}

#[tokio::test]
async fn a_saga_that_goes_through_is_replayed() {
    let (world, tasks) = (World::default(), door(Effect::Keyed));
    assert_eq!(world.order(&tasks).await.unwrap().value, "ship done");
    assert_eq!(world.did(), ["reserve", "price", "charge", "ship"]);
    assert!(world.order(&tasks).await.unwrap().replayed);
    assert!(world.did().is_empty());
}

#[tokio::test]
async fn a_refused_step_undoes_the_finished_ones_in_reverse_order_and_says_so_for_ever() {
    let (world, tasks) = (World::default(), door(Effect::Keyed));
    world.fail("ship", declined);
    for round in 0..3 {
        let error = world.order(&tasks).await.unwrap_err();
        assert_eq!(Decision::of(&error), Decision::Acknowledge);
        let expected = Compensated {
            refused: "ship".to_owned(),
            refusal: "declined".into(),
            undone: vec!["charge".to_owned(), "reserve".to_owned()],
        };
        assert_eq!(Compensated::of(&error).unwrap(), expected);
        let did = ["reserve", "price", "charge", "ship", "undo charge", "undo reserve"];
        assert_eq!(world.did(), if round == 0 { &did[..] } else { &[] });
        world.mend();
    }
}

#[tokio::test]
async fn once_turned_round_it_never_goes_forward_again() {
    let (world, tasks) = (World::default(), door(Effect::Keyed));
    world.fail("ship", declined);
    world.fail("undo reserve", || panic!("killed"));
    let (first, again) = (world.clone(), tasks.clone());
    let killed = tokio::spawn(async move { first.order(&again).await });
    assert!(killed.await.unwrap_err().is_panic());
    world.did();
    // The step that was refused would work now.
    world.mend();
    let error = loop {
        match world.order(&tasks).await.unwrap_err() {
            // The ending of the first attempt is on its way to the store.
            busy if busy.kind() == ErrorKind::InFlight => tokio::task::yield_now().await,
            error => break error,
        }
    };
    assert_eq!(Compensated::of(&error).unwrap().undone, ["charge", "reserve"]);
    assert_eq!(world.did(), ["undo reserve"]);
}

#[tokio::test]
async fn a_compensation_that_keeps_failing_holds_the_record_with_its_reason() {
    for failure in [no_answer, closed, declined] {
        let (world, tasks) = (World::default(), door(Effect::Keyed));
        world.fail("ship", declined);
        world.fail("undo charge", failure);
        let error = world.order(&tasks).await.unwrap_err();
        let Decision::Park { reason } = Decision::of(&error) else { panic!("{error}") };
        assert!(reason.contains("compensation of step `charge` keeps failing"), "{reason}");
        assert_eq!(world.did()[4..], ["undo charge"; 3]);
        world.mend();
        let again = world.order(&tasks).await.unwrap_err();
        assert!(again.is_held() && again.to_string().contains("`charge`"), "{again}");
        assert!(world.did().is_empty(), "nothing loops");
    }
}

#[tokio::test]
async fn an_unknown_step_is_taken_up_by_the_next_attempt_and_finished_ones_are_not_repeated() {
    let (world, tasks) = (World::default(), door(Effect::Keyed));
    world.fail("charge", no_answer);
    let error = world.order(&tasks).await.unwrap_err();
    assert!(matches!(Decision::of(&error), Decision::Reschedule { .. }), "{error}");
    assert_eq!(world.did(), ["reserve", "price", "charge"]);
    world.mend();
    assert_eq!(world.order(&tasks).await.unwrap().value, "ship done");
    assert_eq!(world.did(), ["charge", "ship"]);
}

#[tokio::test]
async fn a_step_that_provably_did_nothing_is_tried_again_and_never_forgets_the_others() {
    let (world, tasks) = (World::default(), door(Effect::Keyed));
    world.fail("reserve", closed);
    let error = world.order(&tasks).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied, "the key is free");
    assert_eq!(world.did(), ["reserve"; 3]);
    world.mend();
    world.fail("ship", closed);
    let error = world.order(&tasks).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "the record stays");
    assert_eq!(world.did(), ["reserve", "price", "charge", "ship", "ship", "ship"]);
    world.mend();
    world.order(&tasks).await.unwrap();
    assert_eq!(world.did(), ["ship"]);
}

#[tokio::test]
async fn under_hold_an_unknown_effect_parks_the_saga_forward_and_back() {
    let (world, tasks) = (World::default(), door(HOLD));
    world.fail("charge", no_answer);
    assert!(world.order(&tasks).await.unwrap_err().is_held());
    let (world, tasks) = (World::default(), door(HOLD));
    world.fail("ship", declined);
    world.fail("undo charge", no_answer);
    assert!(world.order(&tasks).await.unwrap_err().is_held());
    assert_eq!(world.did()[4..], ["undo charge"], "not tried again");
}

#[test]
fn names_that_would_meet_are_refused() {
    let step = |builder: semel_tasks::SagaBuilder<u32>, name: &str| {
        builder.step(name, |_| async { Ok(1) })
    };
    let undo = |_, _: u32| async { Ok(()) };
    let named = |name| step(Saga::<u32>::builder(), name);
    for (builder, what) in [
        (Saga::builder(), "no step"),
        (step(named("one"), "one"), "`one` is there twice"),
        (named("undo:one"), "no colon"),
        (named(""), "1 to 200 bytes"),
        (Saga::builder().undo(undo), "belongs to the step before it"),
        (named("one").undo(undo).undo(undo), "one to each"),
        (named("one").retry(RetryPolicy { attempts_max: 0, ..RetryPolicy::never() }), "attempts"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(error.to_string().contains(what), "{error}");
    }
}
