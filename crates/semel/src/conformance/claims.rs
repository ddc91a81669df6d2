//! Who may execute, and what the others hear.

use super::declare;
use super::kit::{
    Checked, HOLD, Kit, RETRY, acquired, check, done, nonce, outcome, payload, same, together,
    unknown,
};
use crate::store::{Claimed, ReleaseVerdict};

declare! {
    Nothing:
        a_fresh_key_is_acquired,
        a_second_claim_is_in_flight,
        concurrent_claims_have_one_winner,
        same_nonce_claims_twice_once,
        mismatch_reveals_nothing,
        other_tenants_and_operations_are_other_records,
        hostile_names_are_just_names,
        failed_handler_is_not_a_duplicate,
        counters_rise_with_every_claim;
}

async fn a_fresh_key_is_acquired(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    same("a fresh key", kit.get(&id).await?, None)?;
    match kit.claim(&id, RETRY).await? {
        Claimed::Acquired { steps, attempts, .. } => {
            same("steps", steps.len(), 0)?;
            same("attempts", attempts, 1)?;
        }
        other => return Err(format!("expected Acquired, saw {other:?}")),
    }
    let record = kit.record(&id).await?;
    same("state", record.state.name(), "in-progress")?;
    same("fingerprint", record.fingerprint, payload("one"))?;
    same("effect", record.effect, RETRY)
}

async fn a_second_claim_is_in_flight(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    kit.acquire(&id, RETRY).await?;
    match kit.claim(&id, RETRY).await? {
        Claimed::InFlight { lease_left } => {
            check(!lease_left.is_zero(), "the lease that is left is zero")?;
            check(lease_left <= kit.units(10), "the lease that is left exceeds the lease")
        }
        other => Err(format!("expected InFlight, saw {other:?}")),
    }
}

async fn concurrent_claims_have_one_winner(kit: &Kit<'_>) -> Checked {
    for _ in 0..5 {
        let id = kit.id();
        let claims = (0..40).map(|_| kit.claim(&id, RETRY)).collect();
        let answers = together(claims).await.into_iter().collect::<Checked<Vec<_>>>()?;
        let won = answers.iter().filter(|it| matches!(it, Claimed::Acquired { .. })).count();
        let flying = answers.iter().filter(|it| matches!(it, Claimed::InFlight { .. })).count();
        same("winners and losers of 40 claims", (won, flying), (1, 39))?;
    }
    Ok(())
}

async fn same_nonce_claims_twice_once(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let request = kit.request(&id, HOLD);
    let first = acquired(kit.send(&request).await?)?;
    let second = acquired(kit.send(&request).await?)?;
    same("the fence of a claim sent twice", second, first)?;
    same("attempts", kit.record(&id).await?.attempts, 1)?;
    // Even when the lease ran out before the retry arrived: nobody else came in between.
    kit.elapse(11).await;
    let third = acquired(kit.send(&request).await?)?;
    same("the fence of a late retry", third, first)?;
    done("complete", kit.complete(&id, first, outcome(b"x")).await)?;
    let after = kit.send(&request).await?;
    check(matches!(after, Claimed::Completed { .. }), "a claim of a finished record acquired")
}

async fn mismatch_reveals_nothing(kit: &Kit<'_>) -> Checked {
    let (flying, finished, held, given_up) = (kit.id(), kit.id(), kit.id(), kit.id());
    kit.acquire(&flying, RETRY).await?;
    kit.finish(&finished, outcome(b"secret")).await?;
    let fence = kit.acquire(&held, HOLD).await?;
    done("release", kit.release(&held, fence, unknown("x")).await)?;
    let fence = kit.acquire(&given_up, RETRY).await?;
    done("release", kit.release(&given_up, fence, unknown("x")).await)?;
    for id in [&flying, &finished, &held, &given_up] {
        let before = kit.record(id).await?;
        let mut request = kit.request(id, RETRY);
        request.fingerprint = payload("two");
        same("another payload", kit.send(&request).await?, Claimed::Mismatch)?;
        same("the record after it", kit.record(id).await?, before)?;
    }
    // A silent claim is no free key either.
    kit.elapse(11).await;
    let mut request = kit.request(&flying, RETRY);
    request.fingerprint = payload("two");
    same("another payload after the lease", kit.send(&request).await?, Claimed::Mismatch)
}

async fn other_tenants_and_operations_are_other_records(kit: &Kit<'_>) -> Checked {
    let tenant = kit.tenant().to_owned();
    let other = format!("{tenant}-2");
    kit.finish(&kit.named(&tenant, "pay", "k"), outcome(b"mine")).await?;
    for id in [kit.named(&other, "pay", "k"), kit.named(&tenant, "refund", "k")] {
        same("another scope", kit.get(&id).await?, None)?;
        let mut request = kit.request(&id, RETRY);
        request.fingerprint = payload("two");
        acquired(kit.send(&request).await?)?;
    }
    Ok(())
}

async fn hostile_names_are_just_names(kit: &Kit<'_>) -> Checked {
    let tenant = kit.tenant().to_owned();
    let long = "k".repeat(255);
    let names = [
        "'",
        "\"",
        "%",
        "_",
        "*",
        "\\",
        "{a}:b",
        "a/b",
        "';--",
        "$1",
        "[x]",
        "session:42",
        "K",
        "k",
        long.as_str(),
    ];
    for name in names {
        let id = kit.named(&tenant, "o", name);
        kit.finish(&id, outcome(name.as_bytes())).await?;
    }
    for name in names {
        match kit.claim(&kit.named(&tenant, "o", name), RETRY).await? {
            Claimed::Completed { outcome, .. } => {
                same("the answer of a hostile name", &outcome.body[..], name.as_bytes())?;
            }
            other => return Err(format!("key {name}: expected Completed, saw {other:?}")),
        }
    }
    Ok(())
}

async fn failed_handler_is_not_a_duplicate(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let fence = kit.acquire(&id, HOLD).await?;
    done("release", kit.release(&id, fence, ReleaseVerdict::NotApplied).await)?;
    same("a released key", kit.get(&id).await?, None)?;
    let mut request = kit.request(&id, HOLD);
    request.fingerprint = payload("two");
    acquired(kit.send(&request).await?)?;
    Ok(())
}

async fn counters_rise_with_every_claim(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let mut highest = 0;
    for _ in 0..5 {
        let mut request = kit.request(&id, RETRY);
        request.nonce = nonce();
        let fence = acquired(kit.send(&request).await?)?;
        same("the nonce in the fence", fence.nonce, request.nonce)?;
        check(fence.counter > highest, "the counter did not rise")?;
        highest = fence.counter;
        done("release", kit.release(&id, fence, ReleaseVerdict::NotApplied).await)?;
    }
    Ok(())
}
