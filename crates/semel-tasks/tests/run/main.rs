//! What a queue sees of a guarded function: one run, the stored answer, and for every error what
//! to do with the task.
//!
//! Time is a manual clock; nothing sleeps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use semel::{Effect, Error, ErrorKind, Failure, Settings, StepFailure};
use semel_tasks::{Begun, Decision, RetryPolicy, TaskGuard};
use support::{Bench, HOLD, RETRY, key, secret};

fn door(bench: &Bench, effect: Effect) -> TaskGuard {
    TaskGuard::new(bench.guard(effect), secret())
}

/// A body that counts how often it runs and then does as it is told.
struct Counted<'a>(&'a AtomicU32);

impl Counted<'_> {
    async fn run(
        &self,
        tasks: &TaskGuard,
        result: impl Fn(u32) -> Result<u32, Failure>,
    ) -> Result<u32, Error> {
        let body = async |_| result(self.0.fetch_add(1, Ordering::SeqCst) + 1);
        tasks.run(&key(), "payload", body).await.map(|answer| answer.value)
    }
}

fn unreachable() -> Failure {
    std::io::Error::other("the gateway hung up").into()
}

#[tokio::test]
async fn a_redelivered_task_gets_the_first_answer_and_runs_nothing() {
    let (bench, runs) = (Bench::new(), AtomicU32::new(0));
    let tasks = door(&bench, HOLD);
    for _ in 0..5 {
        assert_eq!(Counted(&runs).run(&tasks, Ok).await.unwrap(), 1);
    }
    assert_eq!(runs.into_inner(), 1);
}

#[tokio::test]
async fn a_task_that_another_worker_runs_is_rescheduled_and_never_acknowledged() {
    let (bench, runs) = (Bench::new(), AtomicU32::new(0));
    let (tasks, other) = (door(&bench, HOLD), door(&bench, HOLD));
    let fingerprint = semel_tasks::fingerprint(tasks.secret(), "payload").unwrap();
    let running = other.begin(other.tenant(), &key(), fingerprint).await.unwrap();
    let error = Counted(&runs).run(&tasks, Ok).await.unwrap_err();
    let after = Settings::default().retry_after;
    assert_eq!(Decision::of(&error), Decision::Reschedule { after });
    assert_eq!(runs.into_inner(), 0);
    drop(running);
}

#[tokio::test]
async fn a_key_that_is_used_for_another_payload_goes_to_the_dead_letters() {
    let bench = Bench::new();
    let tasks = door(&bench, HOLD);
    tasks.run(&key(), &("book", 1), async |_| Ok(())).await.unwrap();
    let error = tasks.run(&key(), &("book", 2), async |_| Ok(())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(matches!(Decision::of(&error), Decision::DeadLetter { .. }));
}

#[tokio::test]
async fn only_what_is_proven_not_to_have_happened_is_repeated_inside_the_call() {
    let policy = RetryPolicy { backoff: Duration::ZERO, ..RetryPolicy::default() };
    let not_applied = |_| Err(Failure::not_applied("the shop is closed"));

    let (bench, runs) = (Bench::new(), AtomicU32::new(0));
    let tasks = door(&bench, HOLD).with_retry(policy).unwrap();
    let error = Counted(&runs).run(&tasks, not_applied).await.unwrap_err();
    assert!(matches!(Decision::of(&error), Decision::Reschedule { .. }), "{error}");
    assert_eq!(runs.load(Ordering::SeqCst), policy.attempts_max);
    let opened = |run| if run < 6 { not_applied(run) } else { Ok(run) };
    assert_eq!(Counted(&runs).run(&tasks, opened).await.unwrap(), 6);

    let (bench, runs) = (Bench::new(), AtomicU32::new(0));
    let tasks = door(&bench, RETRY).with_retry(policy).unwrap();
    let error = Counted(&runs).run(&tasks, |_| Err(unreachable())).await.unwrap_err();
    assert_eq!((error.kind(), runs.into_inner()), (ErrorKind::OutcomeUnknown, 1));
}

#[tokio::test]
async fn an_unknown_outcome_is_parked_or_rescheduled_as_the_mode_says() {
    for (effect, name) in [(HOLD, "park"), (RETRY, "reschedule"), (Effect::Keyed, "reschedule")] {
        let (bench, runs) = (Bench::new(), AtomicU32::new(0));
        let tasks = door(&bench, effect);
        let error = Counted(&runs).run(&tasks, |_| Err(unreachable())).await.unwrap_err();
        assert_eq!(Decision::of(&error).name(), name, "{effect}");
        let again = Counted(&runs).run(&tasks, Ok).await;
        assert_eq!(again.is_err(), name == "park", "{effect}");
    }
}

#[tokio::test]
async fn a_task_that_loses_lease_after_lease_is_parked_with_its_reason() {
    let (bench, runs) = (Bench::new(), AtomicU32::new(0));
    let tasks = door(&bench, RETRY);
    let fingerprint = semel_tasks::fingerprint(tasks.secret(), "payload").unwrap();
    let mut silent = Vec::new();
    for _ in 0..Settings::default().lost_leases_max {
        let begun = tasks.begin(tasks.tenant(), &key(), fingerprint).await.unwrap();
        let Begun::Run(attempt) = begun else { panic!("nothing was finished") };
        // Hung: it never ends, and its heartbeat gives up at the ceiling.
        bench.clock.advance(Settings::default().execution_max);
        attempt.lease_lost().await;
        silent.push(attempt);
    }
    let error = Counted(&runs).run(&tasks, Ok).await.unwrap_err();
    let Decision::Park { reason } = Decision::of(&error) else { panic!("{error}") };
    assert!(reason.contains("3 claims in a row ended in silence"), "{reason}");
    assert_eq!(runs.into_inner(), 0);
}

#[tokio::test]
async fn a_stored_refusal_is_acknowledged_with_its_answer() {
    let (bench, runs) = (Bench::new(), AtomicU32::new(0));
    let tasks = door(&bench, HOLD);
    for _ in 0..2 {
        let declined = |_| Err(Failure::final_answer(&"card declined"));
        let error = Counted(&runs).run(&tasks, declined).await.unwrap_err();
        assert_eq!(Decision::of(&error), Decision::Acknowledge);
        assert_eq!(error.refusal().unwrap().to_json::<String>().unwrap(), "card declined");
    }
    assert_eq!(runs.into_inner(), 1);
}

#[tokio::test]
async fn a_body_that_panics_leaves_an_unknown_outcome_at_once() {
    let (bench, runs) = (Bench::new(), AtomicU32::new(0));
    let tasks = door(&bench, HOLD);
    let panicking = tasks.clone();
    let run = async move {
        let body = async |_| if true { panic!("after the effect") } else { Ok(()) };
        panicking.run(&key(), "payload", body).await.map(drop)
    };
    assert!(tokio::spawn(run).await.unwrap_err().is_panic());
    bench.wait_for("release");
    let error = Counted(&runs).run(&tasks, Ok).await.unwrap_err();
    assert_eq!((Decision::of(&error).name(), runs.into_inner()), ("park", 0));
}

#[tokio::test]
async fn a_body_that_is_cancelled_leaves_an_unknown_outcome_at_once() {
    let (bench, runs) = (Bench::new(), AtomicU32::new(0));
    let tasks = door(&bench, HOLD);
    let (key, started) = (key(), tokio::sync::Notify::new());
    let hung = tasks.run(&key, "payload", async |_| {
        started.notify_one();
        std::future::pending::<Result<(), Failure>>().await
    });
    tokio::select! {
        _ = hung => panic!("it hangs"),
        () = started.notified() => {}
    }
    bench.wait_for("release");
    let error = Counted(&runs).run(&tasks, Ok).await.unwrap_err();
    assert_eq!((Decision::of(&error).name(), runs.into_inner()), ("park", 0));
}

#[tokio::test]
async fn a_finished_step_does_not_run_again() {
    let bench = Bench::new();
    let tasks = door(&bench, Effect::Keyed);
    let (charges, ships) = (AtomicU32::new(0), AtomicU32::new(0));
    let (key, mut last) = (key(), None);
    for _ in 0..3 {
        let order = tasks.run(&key, "payload", async |task| {
            let receipt = task.step("charge", async |step| {
                charges.fetch_add(1, Ordering::SeqCst);
                Ok::<_, StepFailure>(step.step_key().as_str().to_owned())
            });
            let receipt = receipt.await?;
            assert_eq!(receipt, task.step_key("charge").as_str());
            let ship = task.step("ship", async |_| match ships.fetch_add(1, Ordering::SeqCst) {
                0 => Err(std::io::Error::other("no answer")),
                parcel => Ok(parcel),
            });
            Ok((receipt, ship.await?))
        });
        last = order.await.ok();
    }
    assert!(last.unwrap().replayed);
    assert_eq!((charges.into_inner(), ships.into_inner()), (1, 2));
}
