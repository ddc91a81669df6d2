//! The guard keeps its promises: goal, method and result of every case are its name.
//!
//! Time is a manual clock and nothing sleeps: futures are polled until nothing moves any more,
//! then the clock is moved.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use semel::{
    Answer, Clock, Context, Effect, Ending, Error, ErrorKind, Event, Executed, Failure, Guard, Key,
    OnUnknown, Outcome, Settings, StepFailure, Store, Tenant, Verdict, Wait,
};
use support::{Bench, Fault, HOLD, RETRY, Task, fingerprint, settle, start};

const LEASE: Duration = Duration::from_secs(30);

/// Runs a handler that counts and answers with the count.
fn count(guard: &Guard, effects: &Arc<AtomicUsize>) -> Task<'static, Result<Answer<usize>, Error>> {
    let (guard, effects) = (guard.clone(), Arc::clone(effects));
    start(async move {
        let work = |_| async move { Ok(effects.fetch_add(1, Ordering::SeqCst) + 1) };
        guard.run(&tenant(), &key(), fingerprint("one"), work).await
    })
}

fn panicking() -> Result<usize, Failure> {
    panic!("after the effect")
}

fn tenant() -> Tenant {
    Tenant::single()
}

fn key() -> Key {
    Key::parse("order-17").unwrap()
}

/// Runs a handler that waits until the test lets it go.
fn gated(
    bench: &Bench,
    guard: &Guard,
    name: &'static str,
) -> Task<'static, Result<Answer<String>, Error>> {
    let (guard, gate) = (guard.clone(), bench.gate.clone());
    start(async move {
        let work = move |_| async move {
            gate.pass(name).await;
            Ok(name.to_owned())
        };
        guard.run(&tenant(), &key(), fingerprint("one"), work).await
    })
}

#[test]
fn a_retry_gets_the_first_answer_and_runs_nothing() {
    let bench = Bench::new();
    let guard = bench.guard(RETRY);
    let effects = Arc::default();
    let first = count(&guard, &effects).finish().unwrap();
    let retry = count(&guard, &effects).finish().unwrap();
    assert_eq!((first.value, first.replayed), (1, false));
    assert_eq!((retry.value, retry.replayed), (1, true));
    assert_eq!(first.expires_at, retry.expires_at);
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

#[test]
fn after_retention_the_key_is_new() {
    let bench = Bench::new();
    let guard = bench.guard(RETRY);
    let effects = Arc::default();
    let first = count(&guard, &effects).finish().unwrap();
    bench.clock.advance(Settings::default().retention);
    let later = count(&guard, &effects).finish().unwrap();
    assert_eq!((first.value, later.value, later.replayed), (1, 2, false));
}

#[test]
fn a_duplicate_of_a_running_call_is_refused_with_a_time_to_come_back() {
    let bench = Bench::new();
    let guard = bench.guard(HOLD);
    let mut running = gated(&bench, &guard, "first");
    settle(&mut [&mut running]);
    let error = gated(&bench, &guard, "second").finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InFlight);
    assert!(error.is_retryable() && !error.outcome_unknown());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
    bench.gate.open("first");
    assert_eq!(running.finish().unwrap().value, "first");
}

#[test]
fn a_panic_is_unknown_and_follows_the_mode() {
    for (effect, expected) in [(HOLD, Err(ErrorKind::OutcomeUnknown)), (RETRY, Ok(1))] {
        let bench = Bench::new();
        let guard = bench.guard(effect);
        let died = {
            let guard = guard.clone();
            start(async move {
                let work = |_| async move { panicking() };
                guard.run(&tenant(), &key(), fingerprint("one"), work).await
            })
        };
        let error = died.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        assert!(error.to_string().contains("after the effect"), "{error}");
        let retry = count(&guard, &Arc::default()).finish();
        assert_eq!(retry.map(|it| it.value).map_err(|it| it.kind()), expected);
    }
}

#[test]
fn a_dropped_call_is_unknown_once_its_lease_is_over() {
    for (effect, after) in [(HOLD, Err(ErrorKind::OutcomeUnknown)), (RETRY, Ok(1))] {
        let bench = Bench::new();
        let guard = bench.guard(effect);
        let mut dropped = gated(&bench, &guard, "dropped");
        settle(&mut [&mut dropped]);
        drop(dropped);
        let effects = Arc::default();
        let before = count(&guard, &effects).finish().unwrap_err();
        assert_eq!(before.kind(), ErrorKind::InFlight);
        bench.clock.advance(LEASE);
        let retry = count(&guard, &effects).finish();
        assert_eq!(retry.map(|it| it.value).map_err(|it| it.kind()), after);
    }
}

#[test]
fn an_error_that_nobody_classified_is_never_a_release() {
    let bench = Bench::new();
    let guard = bench.guard(HOLD);
    let fail = |guard: Guard| {
        start(async move {
            let work = |_| async move { Err::<usize, _>(std::io::Error::other("500").into()) };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    assert!(fail(guard.clone()).finish().unwrap_err().outcome_unknown());
    let retry = count(&guard, &Arc::default()).finish().unwrap_err();
    assert_eq!(retry.kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn a_handler_that_proves_nothing_happened_frees_the_key() {
    let bench = Bench::new();
    let guard = bench.guard(HOLD);
    let free = {
        let guard = guard.clone();
        start(async move {
            let work = |_| async { Err::<usize, _>(Failure::not_applied("connection refused")) };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    let error = free.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied);
    assert!(!error.outcome_unknown());
    assert_eq!(count(&guard, &Arc::default()).finish().unwrap().value, 1);
}

#[test]
fn a_refusal_is_stored_and_given_to_everybody() {
    let bench = Bench::new();
    let guard = bench.guard(HOLD);
    for attempt in ["declined", "approved by now"] {
        let guard = guard.clone();
        let call = start(async move {
            let work = |_| async move { Err::<usize, _>(Failure::final_answer(&attempt)) };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        });
        let error = call.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(error.refusal().unwrap().to_json::<String>().unwrap(), "declined");
    }
}

#[test]
fn a_late_owner_answers_with_the_winners_outcome() {
    let bench = Bench::new();
    let guard = bench.guard(RETRY);
    // Frozen: neither its handler nor its heartbeat is polled while the lease runs out.
    let mut late = gated(&bench, &guard, "late");
    settle(&mut [&mut late]);
    bench.clock.advance(LEASE);
    bench.gate.open("winner");
    assert_eq!(gated(&bench, &guard, "winner").finish().unwrap().value, "winner");
    bench.gate.open("late");
    let answer = late.finish().unwrap();
    assert_eq!((answer.value.as_str(), answer.replayed), ("winner", true));
    assert!(bench.saw(Event::ClaimLost));
}

#[test]
fn a_late_owner_whose_winner_still_runs_says_in_flight_not_success() {
    let bench = Bench::new();
    let guard = bench.guard(RETRY);
    let mut late = gated(&bench, &guard, "late");
    settle(&mut [&mut late]);
    bench.clock.advance(LEASE);
    let mut winner = gated(&bench, &guard, "winner");
    settle(&mut [&mut winner]);
    bench.gate.open("late");
    let error = late.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InFlight);
    assert!(error.outcome_unknown(), "its own effect has happened");
    bench.gate.open("winner");
    assert_eq!(winner.finish().unwrap().value, "winner");
}

#[test]
fn a_late_owner_never_answers_with_the_outcome_of_another_payload() {
    let bench = Bench::new();
    let guard = bench.guard(RETRY);
    let mut late = gated(&bench, &guard, "late");
    settle(&mut [&mut late]);
    bench.clock.advance(LEASE);
    // The next claim frees the key, and then somebody uses it for something else.
    let free = {
        let guard = guard.clone();
        start(async move {
            let work = |_| async { Err::<String, _>(Failure::not_applied("nothing")) };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    assert_eq!(free.finish().unwrap_err().kind(), ErrorKind::NotApplied);
    let other = {
        let guard = guard.clone();
        start(async move {
            let work = |_| async { Ok("another operation's answer".to_owned()) };
            guard.run(&tenant(), &key(), fingerprint("two"), work).await
        })
    };
    other.finish().unwrap();
    bench.gate.open("late");
    let error = late.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn a_late_owner_that_proves_nothing_happened_does_not_free_the_winners_key() {
    let bench = Bench::new();
    let guard = bench.guard(RETRY);
    let mut late = {
        let (guard, gate) = (guard.clone(), bench.gate.clone());
        start(async move {
            let work = |_| async move {
                gate.pass("late").await;
                Err::<String, _>(Failure::not_applied("nothing"))
            };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    settle(&mut [&mut late]);
    bench.clock.advance(LEASE);
    bench.gate.open("winner");
    gated(&bench, &guard, "winner").finish().unwrap();
    bench.gate.open("late");
    assert_eq!(late.finish().unwrap().value, "winner");
    assert!(gated(&bench, &guard, "again").finish().unwrap().replayed);
}

#[test]
fn the_heartbeat_keeps_a_long_execution_and_stops_at_its_ceiling() {
    let bench = Bench::new();
    let guard = bench.builder(RETRY).execution_max(Duration::from_secs(100)).build().unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let mut long = {
        let (guard, gate, told) = (guard.clone(), bench.gate.clone(), Arc::clone(&told));
        start(async move {
            let work = |ctx: Context| async move {
                ctx.lease_lost().await;
                told.fetch_add(1, Ordering::SeqCst);
                gate.pass("long").await;
                Ok("long".to_owned())
            };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    for _ in 0..9 {
        settle(&mut [&mut long]);
        bench.clock.advance(Duration::from_secs(10));
        settle(&mut [&mut long]);
        let error = gated(&bench, &guard, "other").finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InFlight);
    }
    assert_eq!(told.load(Ordering::SeqCst), 0);
    for _ in 0..5 {
        bench.clock.advance(Duration::from_secs(10));
        settle(&mut [&mut long]);
    }
    assert_eq!(told.load(Ordering::SeqCst), 1, "the handler hears of the ceiling");
    bench.gate.open("winner");
    assert_eq!(gated(&bench, &guard, "winner").finish().unwrap().value, "winner");
    bench.gate.open("long");
    assert_eq!(long.finish().unwrap().value, "winner");
}

#[test]
fn finished_steps_are_not_repeated_and_step_keys_stay() {
    let bench = Bench::new();
    let guard = bench.guard(Effect::Keyed);
    let charges = Arc::new(std::sync::Mutex::new(Vec::new()));
    let attempt = |crash: bool| {
        let (guard, charges) = (guard.clone(), Arc::clone(&charges));
        start(async move {
            let work = |ctx: Context| async move {
                let charged = Arc::clone(&charges);
                let charge: String = ctx
                    .step("charge", |step| async move {
                        charged.lock().unwrap().push(step.step_key().clone());
                        Ok::<_, StepFailure>("ch_1".to_owned())
                    })
                    .await?;
                assert!(!crash, "killed between the steps");
                let mailed: u32 = ctx.step("mail", |_| async { Ok::<_, StepFailure>(1) }).await?;
                Ok((charge, mailed, ctx.step_key("charge").as_str().to_owned()))
            };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    assert!(attempt(true).finish().is_err());
    let (charge, _, step_key) = attempt(false).finish().unwrap().value;
    assert_eq!(charge, "ch_1");
    let charges = charges.lock().unwrap();
    assert_eq!(charges.len(), 1);
    assert_eq!(charges[0].as_str(), step_key);
}

#[test]
fn a_step_of_a_late_owner_is_refused() {
    let bench = Bench::new();
    let guard = bench.guard(RETRY);
    let mut late = {
        let (guard, gate) = (guard.clone(), bench.gate.clone());
        start(async move {
            let work = |ctx: Context| async move {
                gate.pass("late").await;
                let step: Result<u32, _> =
                    ctx.step("charge", |_| async { Ok::<_, StepFailure>(1) }).await;
                assert!(ctx.is_lease_lost());
                step?;
                Ok("late".to_owned())
            };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    settle(&mut [&mut late]);
    bench.clock.advance(LEASE);
    bench.gate.open("winner");
    gated(&bench, &guard, "winner").finish().unwrap();
    bench.gate.open("late");
    assert_eq!(late.finish().unwrap().value, "winner");
}

#[test]
fn a_claim_whose_answer_was_lost_is_the_same_claim() {
    let bench = Bench::new();
    bench.store.fail("claim", Fault::AnswerLost, 2);
    let answer = count(&bench.guard(HOLD), &Arc::default()).finish_at(&bench).unwrap();
    assert_eq!((answer.value, answer.replayed), (1, false));
}

#[test]
fn a_store_that_is_down_runs_nothing_and_says_so() {
    for fault in [Fault::Down, Fault::AnswerLost] {
        let bench = Bench::new();
        bench.store.fail("claim", fault, usize::MAX);
        let effects = Arc::default();
        let error = count(&bench.guard(RETRY), &effects).finish_at(&bench).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_retryable() && !error.outcome_unknown());
        assert_eq!(effects.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_claim_ends_with_the_patience_or_with_its_first_attempt() {
    let patience = Settings::default().store_patience;
    for (attempt, attempts) in [(0, 3), (1_000, 3), (2_000, 2), (2_500, 1), (4_990, 1), (7_000, 1)]
    {
        let bench = Bench::new();
        let attempt = Duration::from_millis(attempt);
        bench.store.fail("claim", Fault::Slow(attempt), usize::MAX);
        let before = bench.clock.now();
        let error = count(&bench.guard(HOLD), &Arc::default()).finish_at(&bench).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(bench.store.calls("claim"), attempts, "{attempt:?}");
        let took = bench.clock.now().since(before);
        assert!(took <= patience.max(attempt), "{attempt:?}: {took:?}");
    }
}

#[test]
fn an_outcome_is_stored_when_the_store_comes_back() {
    for fault in [Fault::Down, Fault::AnswerLost] {
        let bench = Bench::new();
        bench.store.fail("complete", fault, 4);
        let guard = bench.guard(HOLD);
        let effects = Arc::default();
        assert_eq!(count(&guard, &effects).finish_at(&bench).unwrap().value, 1);
        assert!(count(&guard, &effects).finish().unwrap().replayed);
    }
}

#[test]
fn an_outcome_that_cannot_be_stored_is_never_told() {
    let bench = Bench::new();
    bench.store.fail("complete", Fault::Down, usize::MAX);
    let guard = bench.guard(HOLD);
    let effects = Arc::default();
    let error = count(&guard, &effects).finish_at(&bench).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.outcome_unknown());
    bench.store.heal();
    bench.clock.advance(LEASE);
    let retry = count(&guard, &effects).finish().unwrap_err();
    assert_eq!(retry.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

#[test]
fn a_thousand_waiters_get_one_answer_without_a_herd() {
    let bench = Bench::new();
    let guard = bench.builder(HOLD).wait(Wait::UpTo(Duration::from_secs(60))).build().unwrap();
    let mut running = gated(&bench, &guard, "first");
    settle(&mut [&mut running]);
    let mut waiting: Vec<_> = (0..1000).map(|_| gated(&bench, &guard, "duplicate")).collect();
    waiting.iter_mut().for_each(|it| settle(&mut [it]));
    let before = bench.store.calls("claim");
    assert_eq!(before, 1001);
    for _ in 0..60 {
        bench.clock.advance(Duration::from_millis(500));
        settle(&mut [&mut running]);
        waiting.iter_mut().for_each(|it| settle(&mut [it]));
    }
    // Half a minute of waiting: a few looks a second for all of them together.
    let looks = bench.store.calls("claim") - before;
    assert!((30..=300).contains(&looks), "{looks} looks in 30 s");
    bench.gate.open("first");
    assert_eq!(running.finish().unwrap().value, "first");
    for waiter in waiting {
        let answer = waiter.finish().unwrap();
        assert_eq!((answer.value.as_str(), answer.replayed), ("first", true));
    }
}

#[test]
fn one_waiter_finds_the_end_of_another_processs_execution_and_tells_the_others() {
    let bench = Bench::new();
    // Two guards over one store know nothing of each other, like two processes.
    let wait = Wait::UpTo(Duration::from_secs(60));
    let here = bench.builder(HOLD).wait(wait).build().unwrap();
    let there = bench.guard(HOLD);
    let mut running = gated(&bench, &there, "there");
    settle(&mut [&mut running]);
    let mut waiting: Vec<_> = (0..5).map(|_| gated(&bench, &here, "here")).collect();
    waiting.iter_mut().for_each(|it| settle(&mut [it]));
    bench.gate.open("there");
    running.finish().unwrap();
    let before = bench.store.calls("claim");
    bench.clock.advance(Duration::from_millis(500));
    waiting.iter_mut().for_each(|it| settle(&mut [it]));
    // Without more time: the one that looked woke the rest.
    for waiter in waiting {
        assert_eq!(waiter.finish().unwrap().value, "there");
    }
    assert!(bench.store.calls("claim") - before <= 6);
}

#[test]
fn waiting_ends_at_its_bound() {
    let bench = Bench::new();
    let guard = bench.builder(HOLD).wait(Wait::UpTo(Duration::from_secs(2))).build().unwrap();
    let mut running = gated(&bench, &guard, "first");
    settle(&mut [&mut running]);
    let waiting = gated(&bench, &guard, "second");
    let error = waiting.finish_at(&bench).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InFlight);
    bench.gate.open("first");
    running.finish().unwrap();
}

#[test]
fn a_full_waiting_room_refuses_at_once() {
    let bench = Bench::new();
    let mut settings = Settings::default();
    settings.wait = Wait::UpTo(Duration::from_secs(2));
    settings.waiters_max = 1;
    let guard = bench.builder(HOLD).settings(settings).build().unwrap();
    let mut running = gated(&bench, &guard, "first");
    settle(&mut [&mut running]);
    let mut waiting = gated(&bench, &guard, "second");
    settle(&mut [&mut waiting]);
    let error = gated(&bench, &guard, "third").finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InFlight);
    bench.gate.open("first");
    running.finish().unwrap();
    assert!(waiting.finish().unwrap().replayed);
}

#[test]
fn an_answer_over_the_limit_is_told_once_and_never_run_again() {
    let bench = Bench::new();
    let mut settings = Settings::default();
    settings.outcome_bytes_max = 100;
    let guard = bench.builder(RETRY).settings(settings).build().unwrap();
    let call = |guard: Guard| {
        start(async move {
            let work = |_| async { Ok("x".repeat(1000)) };
            guard.run(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    assert_eq!(call(guard.clone()).finish().unwrap().value.len(), 1000);
    let error = call(guard).finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(!error.is_retryable());
}

#[test]
fn a_doors_outcome_over_the_limit_is_unknown_at_once() {
    let bench = Bench::new();
    let mut settings = Settings::default();
    settings.outcome_bytes_max = 100;
    let guard = bench.builder(HOLD).settings(settings).build().unwrap();
    let large = {
        let guard = guard.clone();
        start(async move {
            let outcome = Outcome::json(Verdict::Succeeded, &"x".repeat(1000)).unwrap();
            let work = |_| async move { Ending::Completed { outcome, live: () } };
            guard.execute(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    let error = large.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.outcome_unknown());
    let retry = count(&guard, &Arc::default()).finish().unwrap_err();
    assert_eq!(retry.kind(), ErrorKind::OutcomeUnknown);
}

#[test]
fn another_payload_under_one_key_is_refused_in_every_state() {
    let bench = Bench::new();
    let guard = bench.guard(HOLD);
    let other = |guard: Guard| {
        start(async move {
            let work = |_| async { Ok(2) };
            guard.run(&tenant(), &key(), fingerprint("two"), work).await
        })
    };
    let mut running = gated(&bench, &guard, "first");
    settle(&mut [&mut running]);
    assert_eq!(other(guard.clone()).finish().unwrap_err().kind(), ErrorKind::Mismatch);
    bench.gate.open("first");
    running.finish().unwrap();
    assert_eq!(other(guard).finish().unwrap_err().kind(), ErrorKind::Mismatch);
}

#[test]
fn an_operator_decides_and_callers_hear_the_decision() {
    let bench = Bench::new();
    let guard = bench.guard(HOLD);
    let unknown = {
        let guard = guard.clone();
        start(async move {
            let work = |_| async {
                Ending::Unknown::<()> { detail: "upstream died".to_owned(), live: () }
            };
            guard.execute(&tenant(), &key(), fingerprint("one"), work).await
        })
    };
    assert!(matches!(unknown.finish().unwrap(), Executed::Unknown { .. }));
    let id = guard.record_id(&tenant(), &key());
    let outcome = Outcome::json(Verdict::Succeeded, &17).unwrap();
    let by = semel::operator::By { actor: "ops", reason: "order 17 is in the table" };
    let (store, random): (&dyn Store, _) = (&*bench.store, semel::SystemRandom);
    let retention = Duration::from_secs(3600);
    start(semel::operator::complete(store, &random, &id, by, outcome, retention)).finish().unwrap();
    let answer = count(&guard, &Arc::default()).finish().unwrap();
    assert_eq!((answer.value, answer.replayed), (17, true));
    let again = start(semel::operator::release(store, &random, &id, by)).finish().unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid);
    start(semel::operator::purge(store, &random, &id, by)).finish().unwrap();
    assert_eq!(count(&guard, &Arc::default()).finish().unwrap().value, 1);
    let silent =
        semel::operator::release(store, &random, &id, semel::operator::By { reason: " ", ..by });
    assert!(start(silent).finish().unwrap_err().to_string().contains("reason"));
}

#[test]
fn modes_that_run_again_are_at_least_once_and_hold_is_at_most_once() {
    // The whole difference, in one picture: the effect happened, then the process died.
    for (effect, effects_at_the_end) in [(HOLD, 1), (RETRY, 2)] {
        let bench = Bench::new();
        let guard = bench.guard(effect);
        let effects = Arc::new(AtomicUsize::new(0));
        let mut died = {
            let (guard, gate, effects) = (guard.clone(), bench.gate.clone(), Arc::clone(&effects));
            start(async move {
                let work = |_| async move {
                    effects.fetch_add(1, Ordering::SeqCst);
                    gate.pass("never").await;
                    Ok(0_usize)
                };
                guard.run(&tenant(), &key(), fingerprint("one"), work).await
            })
        };
        settle(&mut [&mut died]);
        drop(died);
        bench.clock.advance(LEASE);
        drop(count(&guard, &effects).finish());
        assert_eq!(effects.load(Ordering::SeqCst), effects_at_the_end, "{effect}");
    }
    assert_eq!(HOLD, Effect::Foreign(OnUnknown::Hold));
}

#[test]
fn a_failure_that_a_framework_boxes_keeps_its_meaning() {
    let boxed = |failure: Failure| Failure::from_boxed(failure.into());
    assert!(matches!(boxed(Failure::not_applied("x")), Failure::NotApplied(_)));
    assert!(matches!(boxed(Failure::final_answer(&"x")), Failure::Final(_)));
    assert!(matches!(boxed(std::io::Error::other("x").into()), Failure::Unknown(_)));
    assert!(matches!(Failure::from_boxed("x".into()), Failure::Unknown(_)));
    let step = StepFailure::NotApplied("x".into());
    assert!(matches!(Failure::from_boxed(step.into()), Failure::NotApplied(_)));
}
