//! The three acts: what happens to every service some night.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::client::{Heard, Order};
use super::program;
use super::side::Side;
use crate::failure::Failure;

/// Requests with one key that arrive at the same moment.
pub(super) const AT_ONCE: usize = 5;
/// How long an impatient client waits.
pub(super) const IMPATIENT: Duration = Duration::from_millis(100);
/// How long the handler of an impatient client's order takes.
pub(super) const SLOW_MS: u64 = 400;

/// Tries of a client with one order before it waits patiently.
const IMPATIENT_TRIES: usize = 3;
const PATIENT: Duration = Duration::from_secs(10);
/// What a client does between two tries.
const PAUSE: Duration = Duration::from_millis(150);
/// No client of the demo asks more often.
const TRIES_MAX: usize = 60;

/// Act 1: every order is sent several times at once (a double click, two tabs, a load balancer
/// that tries again).
pub(super) fn duplicates(side: &Side, keys: &[String]) {
    thread::scope(|scope| {
        for key in keys {
            for _ in 0..AT_ONCE {
                scope.spawn(move || {
                    insist(side, Order { key, work_ms: 150, crashes: false });
                });
            }
            // The keys come one after the other, the duplicates of a key together.
            thread::sleep(Duration::from_millis(120));
        }
    });
}

/// Act 2: clients give up before the handler is done, and try again.
pub(super) fn time_outs(side: &Side, keys: &[String]) {
    thread::scope(|scope| {
        for key in keys {
            scope.spawn(move || {
                let order = Order { key, work_ms: SLOW_MS, crashes: false };
                for _ in 0..IMPATIENT_TRIES {
                    if is_made(&side.ask(order, IMPATIENT)) {
                        return;
                    }
                    thread::sleep(PAUSE);
                }
                insist(side, order);
            });
            thread::sleep(Duration::from_millis(200));
        }
    });
}

/// Somebody who resolves a held key.
pub(super) type Decide<'a> = &'a dyn Fn(&Side, &str) -> Result<(), Failure>;

/// Act 3: the service is killed after it made the order and before it answered.
pub(super) fn kills(
    side: &Side,
    keys: &[String],
    decide: Option<Decide<'_>>,
) -> Result<(), Failure> {
    for (at, key) in keys.iter().enumerate() {
        let order = Order { key, work_ms: 50, crashes: true };
        side.ask(order, PATIENT);
        side.restart_service()?;
        thread::sleep(PAUSE);
        let heard = side.ask(order, PATIENT);
        let is_last = at + 1 == keys.len();
        if let (Some(decide), false, false) = (decide, is_made(&heard), is_last) {
            // The client cannot know; somebody looks, decides, and the next try is answered.
            decide(side, key)?;
            side.ask(order, PATIENT);
        }
    }
    Ok(())
}

/// What an operator does about a held key: look whether the order is there, and say so.
pub(super) fn decide(store: &str, side: &Side, key: &str) -> Result<(), Failure> {
    let Some(order) = side.order_of(key) else {
        return Err(Failure::runtime("the service does not know the order it was killed after"));
    };
    let body = format!("{{\"order\":{order},\"item\":\"book\"}}");
    let reason = format!("order {order} is in the orders table");
    let arguments = ["records", "complete", key, "--store", store, "--status", "201"];
    let answer = ["--header", "Content-Type: application/json", "--body", &body];
    let because = ["--reason", &reason, "--actor", "demo"];
    let decided = program::command()
        .and_then(|mut it| it.args([&arguments[..], &answer, &because].concat()).output())
        .map_err(|error| Failure::runtime("`semel records` did not start").caused_by(&error))?;
    if decided.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&decided.stderr).into_owned();
    Err(Failure::runtime(format!("`semel records complete` failed: {}", said.trim())))
}

/// Asks until the order is made, as a good client does.
fn insist(side: &Side, order: Order<'_>) {
    for _ in 0..TRIES_MAX {
        if is_made(&side.ask(order, PATIENT)) {
            return;
        }
        thread::sleep(PAUSE);
    }
}

fn is_made(heard: &Heard) -> bool {
    matches!(heard, Heard::Answer(answer) if answer.status == 201)
}

/// Runs an act on both sides at once.
pub(super) fn on_both<'a>(
    sides: [&'a Side; 2],
    act: impl Fn(&'a Side) -> Result<(), Failure> + Sync,
) -> Result<(), Failure> {
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for side in sides {
            let (act, failures) = (&act, &failures);
            scope.spawn(move || {
                if let Err(failure) = act(side)
                    && let Ok(mut failures) = failures.lock()
                {
                    failures.push(failure);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    failures.into_iter().next().map_or(Ok(()), Err)
}
