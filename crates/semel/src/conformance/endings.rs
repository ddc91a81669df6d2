//! Who may write, and what stays.

use super::declare;
use super::kit::{
    Checked, HOLD, Kit, RETRY, acquired, check, done, lost, outcome, payload, same, step, unknown,
};
use crate::effect::Effect;
use crate::fence::Fence;
use crate::outcome::{Outcome, Verdict};
use crate::record::{HoldCause, State};
use crate::store::{Claimed, ReleaseVerdict};

declare! {
    Nothing:
        an_outcome_is_replayed_byte_for_byte,
        completing_twice_keeps_the_first_outcome,
        late_owner_cannot_complete,
        late_owner_cannot_renew_release_or_store_a_step,
        a_foreign_fence_cannot_write,
        an_unknown_outcome_follows_the_mode,
        an_owner_can_have_its_record_held_in_every_mode,
        steps_survive_a_takeover_and_keep_their_first_result,
        a_hold_is_resolved_by_its_own_late_owner;
    Durability:
        an_acknowledged_completion_survives_a_restart,
        claims_holds_and_counters_survive_a_restart;
}

async fn an_outcome_is_replayed_byte_for_byte(kit: &Kit<'_>) -> Checked {
    let every_byte: Vec<u8> = (0..=255).collect();
    let large = every_byte.repeat(1024);
    let mut refusal = outcome(b"no");
    refusal.verdict = Verdict::Refused;
    for stored in [outcome(b""), outcome(&every_byte), outcome(&large), refusal] {
        let id = kit.id();
        let fence = kit.acquire(&id, RETRY).await?;
        let expires = done("complete", kit.complete(&id, fence, stored.clone()).await)?;
        match kit.claim(&id, RETRY).await? {
            Claimed::Completed { outcome, expires_at } => {
                check(outcome == stored, "the replayed outcome differs from the stored one")?;
                same("expiry", expires_at, expires)?;
            }
            other => return Err(format!("expected Completed, saw {other:?}")),
        }
        match kit.record(&id).await?.state {
            State::Completed { outcome, .. } => check(outcome == stored, "get shows another")?,
            other => return Err(format!("expected a completed record, saw {other:?}")),
        }
    }
    Ok(())
}

async fn completing_twice_keeps_the_first_outcome(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let fence = kit.acquire(&id, RETRY).await?;
    let first = done("complete", kit.complete(&id, fence, outcome(b"first")).await)?;
    let again = done("complete again", kit.complete(&id, fence, outcome(b"second")).await)?;
    same("expiry of the second completion", again, first)?;
    replays(kit, &id, b"first").await
}

async fn late_owner_cannot_complete(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let late = kit.acquire(&id, RETRY).await?;
    kit.elapse(11).await;
    let winner = kit.acquire(&id, RETRY).await?;
    check(winner.counter > late.counter, "the winner's counter is not higher")?;
    lost("complete before the winner", kit.complete(&id, late, outcome(b"late")).await)?;
    done("complete", kit.complete(&id, winner, outcome(b"winner")).await)?;
    lost("complete after the winner", kit.complete(&id, late, outcome(b"late")).await)?;
    replays(kit, &id, b"winner").await
}

async fn late_owner_cannot_renew_release_or_store_a_step(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let late = kit.acquire(&id, RETRY).await?;
    kit.elapse(11).await;
    let winner = kit.acquire(&id, RETRY).await?;
    for finished in [false, true] {
        if finished {
            done("complete", kit.complete(&id, winner, outcome(b"winner")).await)?;
        }
        let before = kit.record(&id).await?;
        lost("renew", kit.renew(&id, late, None).await)?;
        lost("a step", kit.renew(&id, late, Some(step("s", b"late"))).await)?;
        lost("release", kit.release(&id, late, ReleaseVerdict::NotApplied).await)?;
        lost("unknown", kit.release(&id, late, unknown("x")).await)?;
        same("the record after the late owner", kit.record(&id).await?, before)?;
    }
    lost("renewing a finished record", kit.renew(&id, winner, None).await)?;
    lost("releasing a finished record", kit.release(&id, winner, ReleaseVerdict::NotApplied).await)
}

async fn a_foreign_fence_cannot_write(kit: &Kit<'_>) -> Checked {
    let (id, absent) = (kit.id(), kit.id());
    let fence = kit.acquire(&id, HOLD).await?;
    let other_nonce = Fence { nonce: super::kit::nonce(), ..fence };
    let other_counter = Fence { counter: fence.counter + 1, ..fence };
    for foreign in [other_nonce, other_counter] {
        lost("complete", kit.complete(&id, foreign, outcome(b"x")).await)?;
        lost("renew", kit.renew(&id, foreign, None).await)?;
        lost("release", kit.release(&id, foreign, ReleaseVerdict::NotApplied).await)?;
    }
    lost("completing an absent record", kit.complete(&absent, fence, outcome(b"x")).await)?;
    lost("renewing an absent record", kit.renew(&absent, fence, None).await)?;
    same("the absent record", kit.get(&absent).await?, None)
}

async fn an_unknown_outcome_follows_the_mode(kit: &Kit<'_>) -> Checked {
    let held = kit.id();
    let fence = kit.acquire(&held, HOLD).await?;
    done("release", kit.release(&held, fence, unknown("lost after sending")).await)?;
    match kit.claim(&held, HOLD).await? {
        Claimed::Held(hold) => {
            same("cause", hold.cause, HoldCause::Reported)?;
            same("detail", hold.detail.as_str(), "lost after sending")?;
        }
        other => return Err(format!("hold: expected Held, saw {other:?}")),
    }
    for effect in [RETRY, Effect::Keyed, Effect::FencedQuery, Effect::Transactional] {
        let id = kit.id();
        let fence = kit.acquire(&id, effect).await?;
        done("release", kit.release(&id, fence, unknown("x")).await)?;
        same("state", kit.record(&id).await?.state.name(), "interrupted")?;
        let next = kit.acquire(&id, effect).await?;
        check(next.counter > fence.counter, "the next claim's counter is not higher")?;
        same("attempts", kit.record(&id).await?.attempts, 2)?;
    }
    // A change of mode in between breaks neither promise.
    let id = kit.id();
    let fence = kit.acquire(&id, RETRY).await?;
    done("release", kit.release(&id, fence, unknown("x")).await)?;
    match kit.claim(&id, HOLD).await? {
        Claimed::Held(hold) => same("cause", hold.cause, HoldCause::Reported),
        other => Err(format!("hold after retry: expected Held, saw {other:?}")),
    }
}

async fn an_owner_can_have_its_record_held_in_every_mode(kit: &Kit<'_>) -> Checked {
    for effect in [HOLD, RETRY, Effect::Keyed, Effect::FencedQuery, Effect::Transactional] {
        let id = kit.id();
        let fence = kit.acquire(&id, effect).await?;
        done("step", kit.renew(&id, fence, Some(step("charge", b"ch_1"))).await)?;
        let verdict = || ReleaseVerdict::Hold("the refund is stuck".to_owned());
        done("release", kit.release(&id, fence, verdict()).await)?;
        done("the same release again", kit.release(&id, fence, verdict()).await)?;
        match kit.claim(&id, effect).await? {
            Claimed::Held(hold) => {
                same("cause", hold.cause, HoldCause::Reported)?;
                same("detail", hold.detail.as_str(), "the refund is stuck")?;
            }
            other => return Err(format!("expected Held, saw {other:?}")),
        }
        same("steps", kit.record(&id).await?.steps.len(), 1)?;
        lost("renew", kit.renew(&id, fence, None).await)?;
    }
    Ok(())
}

async fn steps_survive_a_takeover_and_keep_their_first_result(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let first = kit.acquire(&id, RETRY).await?;
    done("step", kit.renew(&id, first, Some(step("charge", b"ch_1"))).await)?;
    done("step again", kit.renew(&id, first, Some(step("charge", b"ch_2"))).await)?;
    done("other step", kit.renew(&id, first, Some(step("mail", b""))).await)?;
    kit.elapse(11).await;
    match kit.claim(&id, RETRY).await? {
        Claimed::Acquired { steps, attempts, fence, .. } => {
            let expected = vec![step("charge", b"ch_1"), step("mail", b"")];
            check(steps == expected, "the steps of the first attempt are not there")?;
            same("attempts", attempts, 2)?;
            done("release", kit.release(&id, fence, unknown("x")).await)?;
        }
        other => return Err(format!("expected Acquired, saw {other:?}")),
    }
    same("steps after giving up", kit.record(&id).await?.steps.len(), 2)
}

async fn a_hold_is_resolved_by_its_own_late_owner(kit: &Kit<'_>) -> Checked {
    for completes in [true, false] {
        let id = kit.id();
        let owner = kit.acquire(&id, HOLD).await?;
        kit.elapse(11).await;
        let claimed = kit.claim(&id, HOLD).await?;
        check(matches!(claimed, Claimed::Held(_)), "a silent claim under hold was not held")?;
        lost("renewing a held record", kit.renew(&id, owner, None).await)?;
        if completes {
            done("complete", kit.complete(&id, owner, outcome(b"after all")).await)?;
            replays(kit, &id, b"after all").await?;
        } else {
            done("release", kit.release(&id, owner, ReleaseVerdict::NotApplied).await)?;
            acquired(kit.claim(&id, HOLD).await?)?;
        }
    }
    Ok(())
}

async fn an_acknowledged_completion_survives_a_restart(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    kit.finish(&id, outcome(b"durable")).await?;
    check(kit.harness.restart().await, "the harness did not restart the store")?;
    replays(kit, &id, b"durable").await
}

async fn claims_holds_and_counters_survive_a_restart(kit: &Kit<'_>) -> Checked {
    let (flying, held, free) = (kit.id(), kit.id(), kit.id());
    let fence = kit.acquire(&flying, RETRY).await?;
    done("step", kit.renew(&flying, fence, Some(step("one", b"1"))).await)?;
    let parked = kit.acquire(&held, HOLD).await?;
    done("release", kit.release(&held, parked, unknown("why")).await)?;
    let released = kit.acquire(&free, RETRY).await?;
    done("release", kit.release(&free, released, ReleaseVerdict::NotApplied).await)?;
    let before = (kit.record(&flying).await?, kit.record(&held).await?);
    check(kit.harness.restart().await, "the harness did not restart the store")?;
    let after = (kit.record(&flying).await?, kit.record(&held).await?);
    same("records after a restart", after, before)?;
    let next = kit.acquire(&free, RETRY).await?;
    check(next.counter > released.counter, "the counter fell back at the restart")?;
    let mut other = kit.request(&flying, RETRY);
    other.fingerprint = payload("two");
    same("another payload after a restart", kit.send(&other).await?, Claimed::Mismatch)?;
    done("complete", kit.complete(&flying, fence, outcome(b"x")).await)?;
    Ok(())
}

async fn replays(kit: &Kit<'_>, id: &crate::scope::RecordId, body: &[u8]) -> Checked {
    match kit.claim(id, RETRY).await? {
        Claimed::Completed { outcome: Outcome { body: seen, .. }, .. } => {
            same("the replayed body", &seen[..], body)
        }
        other => Err(format!("expected Completed, saw {other:?}")),
    }
}
