//! The guard's own cost over the memory store, in instructions.
//!
//! Instruction counts hardly depend on what else the machine does, so they can be watched over
//! months. A loop runs under callgrind with N and with 2 N iterations; the difference, divided by
//! N, is the cost of one without start-up.

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use semel::guard::{Ending, Executed};
use semel::outcome::{Outcome, Verdict as Ended};
use semel::{Effect, FingerprintKey, Guard, Key, MemoryStore, OnUnknown, SeededRandom, Tenant};

use crate::extent::Extent;
use crate::{Error, Verdict};

/// Measures both loops under valgrind.
pub(crate) fn run(extent: Extent) -> Result<Verdict, Error> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("guard: SKIPPED valgrind missing (apt-get install valgrind)");
        return Ok(Verdict::Skipped);
    }
    let iterations = extent.iterations;
    for (what, name) in [("fresh", "claim + complete"), ("replay", "replay")] {
        let once = instructions(what, iterations)?;
        let twice = instructions(what, 2 * iterations)?;
        let each = twice.saturating_sub(once) / iterations;
        println!("guard, memory store, {name}: {each} instructions");
    }
    println!("command: cargo xtask bench guard ({iterations} iterations, 100-byte answers)");
    Ok(Verdict::Met)
}

/// Runs the loop itself: what callgrind counts.
pub(crate) fn run_loop(what: &str, count: &str) -> Result<Verdict, Error> {
    let count: u64 = count.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let guard = guard()?;
        let tenant = Tenant::single();
        if what == "replay" {
            call(&guard, &tenant, "0", true).await?;
        }
        for number in 0..count {
            match what {
                "fresh" => call(&guard, &tenant, &number.to_string(), true).await?,
                "replay" => call(&guard, &tenant, "0", false).await?,
                _ => return Err("the loop is `fresh` or `replay`".into()),
            }
        }
        Ok(Verdict::Met)
    })
}

fn guard() -> Result<Guard, Error> {
    let guard = Guard::builder(Arc::new(MemoryStore::new()))
        .operation("bench")?
        .effect(Effect::Foreign(OnUnknown::Hold))
        .random(Arc::new(SeededRandom::new(1)))
        .build()?;
    Ok(guard)
}

/// One guarded call; fails when it did not go the expected way, for then it measures nothing.
async fn call(guard: &Guard, tenant: &Tenant, key: &str, is_fresh: bool) -> Result<(), Error> {
    let secret = FingerprintKey::from_secret(b"sixteen bytes or more")?;
    let fingerprint = secret.fingerprint().part(b"POST").part(b"/orders").finish();
    let outcome = Outcome {
        verdict: Ended::Succeeded,
        format: "http/1".to_owned(),
        head: Bytes::from_static(b"201"),
        body: Bytes::from_static(&[b'x'; 100]),
    };
    let handler = |_| std::future::ready(Ending::Completed { outcome, live: () });
    let executed = guard.execute(tenant, &Key::parse(key)?, fingerprint, handler).await?;
    match (executed, is_fresh) {
        (Executed::Fresh { .. }, true) | (Executed::Replayed { .. }, false) => Ok(()),
        (other, _) => Err(format!("the call went another way: {other:?}").into()),
    }
}

fn instructions(what: &str, count: u64) -> Result<u64, Error> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["guard-loop", what, &count.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the loop failed under valgrind: {said}").into());
    }
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    collected.ok_or_else(|| format!("valgrind did not say what it counted: {said}").into())
}
