//! Leases, retention, age: what time does to a record.

use super::declare;
use super::kit::{
    Checked, HOLD, Kit, RETRY, acquired, check, done, outcome, payload, same, unknown,
};
use crate::clock::Timestamp;
use crate::record::{HoldCause, State};
use crate::store::{Claimed, ReleaseVerdict};

declare! {
    Nothing:
        expired_lease_is_unknown_not_free,
        a_heartbeat_keeps_the_claim,
        a_renewal_never_shortens_the_lease,
        too_many_lost_leases_are_held_not_looped,
        an_owner_that_tells_is_no_lost_lease,
        an_expired_record_is_absent_before_any_sweep,
        sweeping_deletes_expired_records_only,
        counter_survives_release_and_expiry,
        a_key_that_is_too_old_is_refused_only_when_unknown;
}

async fn expired_lease_is_unknown_not_free(kit: &Kit<'_>) -> Checked {
    // A change of mode between the claims may not weaken either promise.
    for (before, now) in [(HOLD, HOLD), (HOLD, RETRY), (RETRY, HOLD)] {
        let id = kit.id();
        kit.acquire(&id, before).await?;
        kit.elapse(11).await;
        for _ in 0..2 {
            match kit.claim(&id, now).await? {
                Claimed::Held(hold) => same("cause", hold.cause, HoldCause::LeaseLost)?,
                other => return Err(format!("expected Held, saw {other:?}")),
            }
        }
    }
    let id = kit.id();
    let first = kit.acquire(&id, RETRY).await?;
    kit.elapse(11).await;
    let second = kit.acquire(&id, RETRY).await?;
    check(second.counter > first.counter, "the next claim's counter is not higher")
}

async fn a_heartbeat_keeps_the_claim(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let fence = kit.acquire(&id, HOLD).await?;
    for _ in 0..4 {
        kit.elapse(6).await;
        let until = done("renew", kit.renew(&id, fence, None).await)?;
        same("lease", kit.record(&id).await?.state, State::InProgress { lease_until: until })?;
        let claimed = kit.claim(&id, HOLD).await?;
        check(matches!(claimed, Claimed::InFlight { .. }), "a renewed claim was not in flight")?;
    }
    // A renewal that comes late still counts while nobody has come in between.
    kit.elapse(11).await;
    done("late renewal", kit.renew(&id, fence, None).await)?;
    let claimed = kit.claim(&id, HOLD).await?;
    check(matches!(claimed, Claimed::InFlight { .. }), "a late renewal did not count")
}

async fn a_renewal_never_shortens_the_lease(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let mut request = kit.request(&id, RETRY);
    request.lease = kit.units(50);
    let fence = acquired(kit.send(&request).await?)?;
    let before = kit.record(&id).await?.state;
    let until = done("renew", kit.renew(&id, fence, None).await)?;
    same("lease", State::InProgress { lease_until: until }, before)
}

async fn too_many_lost_leases_are_held_not_looped(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    for _ in 0..3 {
        kit.acquire(&id, RETRY).await?;
        kit.elapse(11).await;
    }
    for _ in 0..2 {
        match kit.claim(&id, RETRY).await? {
            Claimed::Held(hold) => same("cause", hold.cause, HoldCause::Poisoned)?,
            other => return Err(format!("expected Held, saw {other:?}")),
        }
    }
    same("attempts", kit.record(&id).await?.attempts, 3)
}

async fn an_owner_that_tells_is_no_lost_lease(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    for _ in 0..5 {
        let fence = kit.acquire(&id, RETRY).await?;
        done("release", kit.release(&id, fence, unknown("told")).await)?;
    }
    acquired(kit.claim(&id, RETRY).await?).map(drop)
}

async fn an_expired_record_is_absent_before_any_sweep(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let fence = kit.finish(&id, outcome(b"old")).await?;
    kit.elapse(99).await;
    check(kit.get(&id).await?.is_some(), "the record expired before its retention was over")?;
    kit.elapse(2).await;
    same("an expired record", kit.get(&id).await?, None)?;
    let again = kit.complete(&id, fence, outcome(b"late")).await;
    super::kit::lost("completing an expired record", again)?;
    let mut request = kit.request(&id, HOLD);
    request.fingerprint = payload("two");
    let next = acquired(kit.send(&request).await?)?;
    check(next.counter > fence.counter, "the counter fell back at expiry")?;
    same("attempts of the new operation", kit.record(&id).await?.attempts, 1)
}

async fn sweeping_deletes_expired_records_only(kit: &Kit<'_>) -> Checked {
    let (flying, held, given_up) = (kit.id(), kit.id(), kit.id());
    let expired: Vec<_> = (0..5).map(|_| kit.id()).collect();
    kit.acquire(&flying, RETRY).await?;
    let fence = kit.acquire(&held, HOLD).await?;
    done("release", kit.release(&held, fence, unknown("x")).await)?;
    let fence = kit.acquire(&given_up, RETRY).await?;
    done("release", kit.release(&given_up, fence, unknown("x")).await)?;
    for id in &expired {
        kit.finish(id, outcome(b"old")).await?;
    }
    kit.elapse(101).await;
    let fresh = kit.id();
    kit.finish(&fresh, outcome(b"new")).await?;
    let swept = done("sweep", kit.store().sweep(2).await)?;
    let is_bulk = kit.store().capabilities().native_expiry;
    check(swept <= 2 || is_bulk, "a sweep deleted more than its limit")?;
    let mut rest = swept;
    while rest > 0 {
        rest = done("sweep", kit.store().sweep(1000).await)?;
    }
    for id in [&flying, &held, &given_up, &fresh] {
        kit.record(id).await.map_err(|_| "a sweep deleted a record that is not expired")?;
    }
    for id in &expired {
        same("an expired record", kit.get(id).await?, None)?;
    }
    Ok(())
}

async fn counter_survives_release_and_expiry(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let released = kit.acquire(&id, RETRY).await?;
    done("release", kit.release(&id, released, ReleaseVerdict::NotApplied).await)?;
    let finished = kit.finish(&id, outcome(b"x")).await?;
    check(finished.counter > released.counter, "the counter fell back at the release")?;
    kit.elapse(101).await;
    while done("sweep", kit.store().sweep(1000).await)? > 0 {}
    let next = kit.acquire(&id, RETRY).await?;
    check(next.counter > finished.counter, "the counter fell back at expiry and sweep")
}

async fn a_key_that_is_too_old_is_refused_only_when_unknown(kit: &Kit<'_>) -> Checked {
    // The store's time shows in a record; a UUIDv7 carries the same milliseconds.
    let probe = kit.id();
    kit.acquire(&probe, RETRY).await?;
    let now = kit.record(&probe).await?.created_at;
    let age_max = kit.units(100);
    let minted = |age: u32| {
        let millis = now.as_millis() - u64::try_from(kit.units(age).as_millis()).unwrap_or(0);
        let hex = format!("{millis:012x}");
        kit.named(kit.tenant(), "o", &format!("{}-{}-7abc-8def-0123456789ab", &hex[..8], &hex[8..]))
    };
    let (old, young) = (minted(200), minted(20));
    same("time of a key", young.key.minted_at().map(Timestamp::as_millis).is_some(), true)?;
    let ask = |id, age_max| {
        let mut request = kit.request(id, RETRY);
        request.key_age_max = age_max;
        request
    };
    same("an old key", kit.send(&ask(&old, Some(age_max))).await?, Claimed::TooOld)?;
    same("an old key's record", kit.get(&old).await?, None)?;
    acquired(kit.send(&ask(&young, Some(age_max))).await?)?;
    let fence = acquired(kit.send(&ask(&old, None)).await?)?;
    done("complete", kit.complete(&old, fence, outcome(b"x")).await)?;
    let known = kit.send(&ask(&old, Some(age_max))).await?;
    check(matches!(known, Claimed::Completed { .. }), "an old key with a record was refused")
}
