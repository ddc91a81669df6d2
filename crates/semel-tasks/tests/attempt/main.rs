//! An attempt keeps its claim whatever its holder does with its thread, and never ends in silence
//! while the process lives.
//!
//! Time is a manual clock. A body that "blocks" really blocks the only thread that there is for
//! it, and is let go by what the store has answered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

use bytes::Bytes;
use semel::{Ending, Error, ErrorKind, Executed, Guard, Outcome, Settings, State, Store, Verdict};
use semel_tasks::{Attempt, Begun, Heart, TaskGuard};
use support::{Bench, HOLD, LEASE, RETRY, fingerprint, key, secret, tenant};

fn door(guard: Guard) -> TaskGuard {
    TaskGuard::new(guard, secret())
}

fn begin(tasks: &TaskGuard) -> Result<Begun, Error> {
    tasks.begin_blocking(&tenant(), &key(), fingerprint("one"))
}

fn attempt(tasks: &TaskGuard) -> Attempt {
    match begin(tasks).unwrap() {
        Begun::Run(attempt) => attempt,
        Begun::Replay { .. } => panic!("nothing was finished"),
    }
}

fn completed(value: &str) -> Ending<()> {
    let outcome = Outcome::json(Verdict::Succeeded, &value).unwrap();
    Ending::Completed { outcome, live: () }
}

fn state(bench: &Bench, tasks: &TaskGuard) -> Option<State> {
    let id = tasks.guard().record_id(&tenant(), &key());
    pollster::block_on(bench.store.get(&id)).unwrap().map(|record| record.state)
}

#[test]
fn a_body_that_blocks_its_thread_for_many_leases_keeps_its_claim() {
    let bench = Bench::new();
    let tasks = door(bench.guard(HOLD));
    let attempt = attempt(&tasks);
    bench.beat(5);
    assert!(!attempt.is_lease_lost());
    assert_eq!(begin(&tasks).unwrap_err().kind(), ErrorKind::InFlight);
    let executed = attempt.finish_blocking(completed("done")).unwrap();
    assert!(matches!(executed, Executed::Fresh { .. }), "{executed:?}");
}

#[tokio::test]
async fn a_body_that_blocks_its_event_loop_keeps_its_claim() {
    let bench = Bench::new();
    let tasks = door(bench.guard(HOLD));
    let begun = tasks.begin(&tenant(), &key(), fingerprint("one")).await.unwrap();
    let Begun::Run(attempt) = begun else { panic!("nothing was finished") };
    bench.beat(5);
    let executed = attempt.finish(completed("done")).await.unwrap();
    assert!(matches!(executed, Executed::Fresh { .. }), "{executed:?}");
}

/// What the two tests above would be worth if blocking were harmless anyway.
#[test]
fn the_same_body_inside_a_call_of_the_guard_loses_its_claim() {
    let bench = Bench::new();
    let (guard, tasks) = (bench.guard(RETRY), door(bench.guard(RETRY)));
    let body = async |_| {
        bench.clock.advance(LEASE * 5);
        drop(attempt(&tasks));
        completed("too late")
    };
    let (tenant, key) = (tenant(), key());
    let executed = guard.execute(&tenant, &key, fingerprint("one"), body);
    assert!(pollster::block_on(executed).is_err(), "another claim took over");
}

#[test]
fn a_finished_attempt_is_replayed_and_another_payload_is_refused() {
    let bench = Bench::new();
    let tasks = door(bench.guard(HOLD));
    attempt(&tasks).finish_blocking(completed("done")).unwrap();
    let Begun::Replay { outcome, .. } = begin(&tasks).unwrap() else { panic!("it ran again") };
    assert_eq!(outcome.to_json::<String>().unwrap(), "done");
    let other = tasks.begin_blocking(&tenant(), &key(), fingerprint("other"));
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Mismatch);
}

#[test]
fn a_dropped_attempt_is_unknown_at_once_and_its_mode_decides() {
    for (mode, is_held) in [(HOLD, true), (RETRY, false)] {
        let bench = Bench::new();
        let tasks = door(bench.guard(mode));
        drop(attempt(&tasks));
        bench.wait_for("release");
        match begin(&tasks) {
            Ok(Begun::Run(attempt)) => assert!(!is_held && attempt.attempts() == 2),
            Ok(Begun::Replay { .. }) => panic!("nothing was finished"),
            Err(error) => assert!(is_held && error.outcome_unknown(), "{error}"),
        }
    }
}

#[test]
fn the_last_handle_gone_does_not_lose_what_a_dropped_attempt_says() {
    let bench = Bench::new();
    let attempt = attempt(&door(bench.guard(RETRY)));
    drop(attempt);
    bench.wait_for("release");
    let tasks = door(bench.guard(RETRY));
    assert!(matches!(state(&bench, &tasks), Some(State::Interrupted { .. })));
}

#[test]
fn a_caller_that_goes_away_before_it_has_the_attempt_leaves_the_key_free() {
    let bench = Bench::new();
    let tasks = door(bench.guard(HOLD));
    let (tenant, key) = (tenant(), key());
    let mut begin = Box::pin(tasks.begin(&tenant, &key, fingerprint("one")));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = begin.as_mut().poll(&mut context);
    drop((polled, begin));
    bench.wait_for("release");
    assert_eq!(state(&bench, &tasks), None);
}

#[test]
fn a_proof_that_nothing_happened_frees_the_key() {
    let bench = Bench::new();
    let tasks = door(bench.guard(HOLD));
    let executed = attempt(&tasks).finish_blocking(Ending::NotApplied { live: () }).unwrap();
    assert!(matches!(executed, Executed::NotApplied { .. }), "{executed:?}");
    assert_eq!(attempt(&tasks).attempts(), 1);
}

#[test]
fn steps_reach_the_next_attempt_under_the_same_step_key() {
    let bench = Bench::new();
    let tasks = door(bench.guard(RETRY));
    let first = attempt(&tasks);
    let step_key = first.step_key("charge");
    first.store_step_blocking("charge", Bytes::from_static(b"17")).unwrap();
    drop(first);
    bench.wait_for("release");
    let second = attempt(&tasks);
    assert_eq!(second.step_result("charge").unwrap(), "17");
    assert_eq!(second.step_result("ship"), None);
    assert_eq!(second.step_key("charge"), step_key);
}

#[test]
fn a_late_owner_is_told_and_can_write_nothing() {
    let bench = Bench::new();
    let tasks = door(bench.guard(RETRY));
    let late = attempt(&tasks);
    // The ceiling of an execution at once, so that its heartbeat gives it up.
    bench.clock.advance(Settings::default().execution_max);
    pollster::block_on(late.lease_lost());
    let winner = attempt(&door(bench.guard(RETRY)));
    assert!(winner.fence().counter > late.fence().counter);
    let step = late.store_step_blocking("late", Bytes::new());
    assert_eq!(step.unwrap_err().kind(), ErrorKind::ClaimLost);
    winner.finish_blocking(completed("the winner's")).unwrap();
    match late.finish_blocking(completed("the late one's")).unwrap() {
        Executed::Replayed { outcome, .. } => {
            assert_eq!(outcome.to_json::<String>().unwrap(), "the winner's");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_more_attempts_are_open_than_the_heart_allows() {
    let bench = Bench::new();
    let heart = Heart::with_attempts_max(1);
    let tasks = door(bench.guard(HOLD)).with_heart(heart.clone());
    let only = attempt(&tasks);
    let refused = begin(&tasks).unwrap_err();
    assert!(refused.is_retryable() && !refused.outcome_unknown(), "{refused}");
    only.finish_blocking(completed("done")).unwrap();
    assert!(heart.drain_blocking(LEASE));
    assert!(matches!(begin(&tasks).unwrap(), Begun::Replay { .. }));
}
