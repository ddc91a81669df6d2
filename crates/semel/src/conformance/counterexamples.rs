//! The paths by which the checked model breaks designs that look right, run on a real store.
//!
//! Each case names the broken design and its path. `A` and `B` are clients with one key, a zombie
//! is one of them after its lease is over, `e` is its effect reaching the sink. The case walks
//! that very path and checks what semel promises where the design fails; where a mode promises
//! less, it checks the number that the guarantee table says, so that the table stays true of the
//! code and not only of the model.

use super::declare;
use super::kit::{Checked, HOLD, Kit, RETRY, acquired, check, done, lost, same, step, unknown};
use super::sinks::{Kind, LAST, Story};
use crate::effect::Effect;
use crate::fence::Fence;
use crate::record::{HoldCause, State};
use crate::scope::RecordId;
use crate::store::{Action, Claimed, ReleaseVerdict, Takeover};

declare! {
    Nothing:
        two_that_found_nothing_are_one_executor,
        a_crash_costs_what_the_mode_says,
        a_lease_that_was_good_when_checked_is_no_permission,
        a_zombie_after_an_early_release_is_caught_by_the_sink_alone,
        an_operator_who_raises_the_fence_first_shuts_the_zombie_out,
        a_timeout_is_held_and_never_freed,
        a_forgotten_outcome_is_kept_by_the_sink_alone,
        an_unfinished_record_cannot_be_lost,
        a_reissued_counter_opens_nothing,
        a_finished_step_is_never_redone_by_a_zombie;
    Wiping:
        a_store_that_lost_everything_is_caught_by_the_sink_alone;
}

/// Each mode with the sink it is for.
const WAYS: [(Effect, Kind); 5] = [
    (Effect::Transactional, Kind::Transaction),
    (Effect::Keyed, Kind::Keys),
    (Effect::FencedQuery, Kind::FenceQuery),
    (RETRY, Kind::Anything),
    (HOLD, Kind::Anything),
];

/// Look, act, remember: `B.get miss, A.get miss, B.e, B.set, A.e`.
async fn two_that_found_nothing_are_one_executor(kit: &Kit<'_>) -> Checked {
    for (effect, kind) in WAYS {
        let mut story = Story::new(kit, effect, kind);
        same("what B finds", kit.get(&story.id).await?, None)?;
        same("what A finds", kit.get(&story.id).await?, None)?;
        let b = story.claims().await?;
        check(is_in_flight(&story.asks().await?), "A got a claim beside B's")?;
        check(story.acts(b, LAST).await?, "B was refused")?;
        done("B completes", story.stores(b, LAST).await)?;
        story.replays(b).await?;
        story.happened(LAST, 1)?;
    }
    Ok(())
}

/// A fencing token alone: `A.claim(1), A.e(1), A dies, lease over, B.claim(2), B.e(2)`; the sink
/// accepts, because 2 is newer than 1. So too for every place where A may die.
async fn a_crash_costs_what_the_mode_says(kit: &Kit<'_>) -> Checked {
    let fenced = (RETRY, Kind::Fence);
    for (effect, kind) in WAYS.into_iter().chain([fenced]) {
        for after_effect in [false, true] {
            let mut story = Story::new(kit, effect, kind);
            let a = story.claims().await?;
            if after_effect {
                story.dies_after_its_effect(a, LAST);
            }
            kit.elapse(11).await;
            if effect.holds() {
                check(is_held(&story.asks().await?), "a silent claim under hold was run again")?;
                story.happened(LAST, usize::from(after_effect))?;
                continue;
            }
            let b = story.claims().await?;
            check(b.counter > a.counter, "the next claim's counter is not higher")?;
            check(story.acts(b, LAST).await?, "B was refused")?;
            if matches!(kind, Kind::Fence | Kind::FenceQuery) {
                let again = story.key(LAST);
                check(!story.sink.apply(&again, a), "A's message came twice, after B's")?;
            }
            done("B completes", story.stores(b, LAST).await)?;
            lost("A completes", story.stores(a, LAST).await)?;
            story.replays(b).await?;
            let twice = after_effect && effect == RETRY;
            story.happened(LAST, if twice { 2 } else { 1 })?;
        }
    }
    Ok(())
}

/// A look at the lease right before the effect: `A.claim, A.check good, pause, lease over,
/// B.claim, B.check good, B.e, A.e`; and with the effects the other way round.
async fn a_lease_that_was_good_when_checked_is_no_permission(kit: &Kit<'_>) -> Checked {
    let fenced = (RETRY, Kind::Fence);
    for (effect, kind) in WAYS.into_iter().chain([fenced]) {
        for zombie_first in [false, true] {
            let mut story = Story::new(kit, effect, kind);
            let a = story.claims().await?;
            holds_lease(kit, &story.id, a).await?;
            kit.elapse(11).await;
            if effect.holds() {
                check(is_held(&story.asks().await?), "a paused owner under hold was replaced")?;
                check(story.acts(a, LAST).await?, "the only owner was refused")?;
                done("A completes what was held", story.stores(a, LAST).await)?;
                story.replays(a).await?;
                story.happened(LAST, 1)?;
                continue;
            }
            let b = story.claims().await?;
            holds_lease(kit, &story.id, b).await?;
            let order = if zombie_first { [a, b] } else { [b, a] };
            for fence in order {
                story.acts(fence, LAST).await?;
            }
            lost("A completes", story.stores(a, LAST).await)?;
            done("B completes", story.stores(b, LAST).await)?;
            story.replays(b).await?;
            let twice = match kind {
                Kind::Anything => true,
                Kind::Fence => zombie_first,
                Kind::FenceQuery | Kind::Keys | Kind::Transaction => false,
            };
            story.happened(LAST, if twice { 2 } else { 1 })?;
        }
    }
    Ok(())
}

/// "Not there, so run it again" by an operator: `A.claim(1), lease over, B is told "held",
/// operator finds the sink empty and releases, zombie A.e(1), A.complete refused, B.claim(3),
/// B.e(3)`.
async fn a_zombie_after_an_early_release_is_caught_by_the_sink_alone(kit: &Kit<'_>) -> Checked {
    for (kind, times) in [
        (Kind::Anything, 2),
        (Kind::Fence, 2),
        (Kind::FenceQuery, 1),
        (Kind::Keys, 1),
        (Kind::Transaction, 1),
    ] {
        let mut story = Story::new(kit, HOLD, kind);
        let a = story.claims().await?;
        kit.elapse(11).await;
        check(is_held(&story.asks().await?), "a silent claim under hold was run again")?;
        story.happened(LAST, 0)?;
        let operator = take_over(kit, &story.id, Action::Release).await?;
        lost("A completes under the operator's hands", story.stores(a, LAST).await)?;
        free(kit, &story.id, operator).await?;
        story.acts(a, LAST).await?;
        lost("A completes what was released", story.stores(a, LAST).await)?;
        let b = story.claims().await?;
        check(b.counter > operator.counter && operator.counter > a.counter, "a counter fell")?;
        check(story.acts(b, LAST).await?, "B was refused")?;
        done("B completes", story.stores(b, LAST).await)?;
        lost("A completes after B", story.stores(a, LAST).await)?;
        story.replays(b).await?;
        story.happened(LAST, times)?;
    }
    Ok(())
}

/// The same path, walked rightly: the operator shows the sink its own fence before it looks.
async fn an_operator_who_raises_the_fence_first_shuts_the_zombie_out(kit: &Kit<'_>) -> Checked {
    for kind in [Kind::Fence, Kind::FenceQuery] {
        let mut story = Story::new(kit, HOLD, kind);
        let a = story.claims().await?;
        kit.elapse(11).await;
        check(is_held(&story.asks().await?), "a silent claim under hold was run again")?;
        let operator = take_over(kit, &story.id, Action::Release).await?;
        check(story.sink.raise(operator), "a takeover's fence is not newer than its victim's")?;
        story.happened(LAST, 0)?;
        free(kit, &story.id, operator).await?;
        check(!story.acts(a, LAST).await?, "the zombie's effect passed the operator's fence")?;
        let b = story.claims().await?;
        check(story.acts(b, LAST).await?, "B was refused")?;
        done("B completes", story.stores(b, LAST).await)?;
        story.happened(LAST, 1)?;
    }
    Ok(())
}

/// A time-out frees the key: `A.claim, A sends, time-out, release, A.claim, A sends, both arrive`.
async fn a_timeout_is_held_and_never_freed(kit: &Kit<'_>) -> Checked {
    for late_owner in [false, true] {
        let mut story = Story::new(kit, HOLD, Kind::Anything);
        let a = story.claims().await?;
        done("A gives up", kit.release(&story.id, a, unknown("time-out")).await)?;
        for units in [0, 11, 1000] {
            kit.elapse(units).await;
            while done("sweep", kit.store().sweep(1000).await)? > 0 {}
            // Nor does it help to ask under a mode that would run it again.
            for claimed in [kit.claim(&story.id, RETRY).await?, story.asks().await?] {
                match claimed {
                    Claimed::Held(hold) => same("cause", hold.cause, HoldCause::Reported)?,
                    other => return Err(format!("after {units} more units: {other:?}")),
                }
            }
        }
        // What A sent arrives, long after everybody has given up on it.
        check(story.acts(a, LAST).await?, "a sink of this kind refuses nothing")?;
        let decided = if late_owner {
            a
        } else {
            let operator = take_over(kit, &story.id, Action::Complete).await?;
            lost("A completes beside the operator", story.stores(a, LAST).await)?;
            operator
        };
        done("the truth is stored", story.stores(decided, LAST).await)?;
        story.replays(decided).await?;
        story.happened(LAST, 1)?;
    }
    // Where the sink tells repetitions apart, the key is free and both deliveries are one effect.
    for (effect, kind) in [(Effect::Keyed, Kind::Keys), (Effect::FencedQuery, Kind::FenceQuery)] {
        let mut story = Story::new(kit, effect, kind);
        let first = story.claims().await?;
        done("A gives up", kit.release(&story.id, first, unknown("time-out")).await)?;
        let second = story.claims().await?;
        story.acts(first, LAST).await?;
        check(story.acts(second, LAST).await?, "the newer delivery was refused")?;
        done("A completes", story.stores(second, LAST).await)?;
        lost("the first attempt completes", story.stores(first, LAST).await)?;
        story.happened(LAST, 1)?;
    }
    Ok(())
}

/// Same transaction, record lost: `A.claim, A.e with the record, A is answered, the record is
/// purged or expires, B.claim, B.e`.
async fn a_forgotten_outcome_is_kept_by_the_sink_alone(kit: &Kit<'_>) -> Checked {
    let fenced = (RETRY, Kind::Fence);
    for (effect, kind) in WAYS.into_iter().chain([fenced]) {
        for purged in [false, true] {
            let mut story = Story::new(kit, effect, kind);
            let a = story.claims().await?;
            check(story.acts(a, LAST).await?, "A was refused")?;
            done("A completes", story.stores(a, LAST).await)?;
            kit.elapse(99).await;
            story.replays(a).await?;
            if purged {
                let operator = take_over(kit, &story.id, Action::Purge).await?;
                free(kit, &story.id, operator).await?;
            } else {
                kit.elapse(2).await;
            }
            let b = story.claims().await?;
            check(b.counter > a.counter, "the counter was forgotten with the record")?;
            lost("A completes again", story.stores(a, LAST).await)?;
            check(story.acts(b, LAST).await?, "B was refused")?;
            done("B completes", story.stores(b, LAST).await)?;
            story.replays(b).await?;
            let remembered = matches!(kind, Kind::Keys | Kind::FenceQuery);
            story.happened(LAST, if remembered { 1 } else { 2 })?;
        }
    }
    Ok(())
}

/// Hold, record lost: `A.claim, the record is purged, B.claim, B.e, A.e`. Nothing that a caller,
/// an operator or time can do loses a record that is not finished.
async fn an_unfinished_record_cannot_be_lost(kit: &Kit<'_>) -> Checked {
    let mut story = Story::new(kit, HOLD, Kind::Anything);
    let a = story.claims().await?;
    for units in [0, 11, 1000] {
        kit.elapse(units).await;
        while done("sweep", kit.store().sweep(1000).await)? > 0 {}
        let purge = kit.take_over(&story.id, takeover(Action::Purge)).await?;
        check(is_in_flight(&purge) || is_held(&purge), "an unfinished record was purged")?;
        same("the owner of the record", kit.record(&story.id).await?.fence, a)?;
        let claimed = story.asks().await?;
        let closed = if units == 0 { is_in_flight(&claimed) } else { is_held(&claimed) };
        check(closed, "B got a claim of an unfinished operation under hold")?;
    }
    check(story.acts(a, LAST).await?, "A was refused")?;
    done("A completes", story.stores(a, LAST).await)?;
    story.replays(a).await?;
    story.happened(LAST, 1)
}

/// Fence-then-query with a bare counter, counter reset: `A.claim(1), A sends, record and counter
/// are lost, B.claim(1), A.e(1)`. Here the reset is played: A's claim carries B's counter.
async fn a_reissued_counter_opens_nothing(kit: &Kit<'_>) -> Checked {
    for (effect, kind) in [(Effect::FencedQuery, Kind::FenceQuery), (HOLD, Kind::Fence)] {
        let mut story = Story::new(kit, effect, kind);
        let b = story.claims().await?;
        check(story.sink.raise(b), "the sink refused its latest claim")?;
        let a = Fence { nonce: super::kit::nonce(), ..b };
        check(!story.acts(a, LAST).await?, "the sink took an older claim for B's")?;
        let before = kit.record(&story.id).await?;
        cannot_write(kit, &story, a).await?;
        same("the record after the older claim", kit.record(&story.id).await?, before)?;
        check(story.acts(b, LAST).await?, "B was refused")?;
        done("B completes", story.stores(b, LAST).await)?;
        cannot_write(kit, &story, a).await?;
        story.replays(b).await?;
        story.happened(LAST, 1)?;
    }
    Ok(())
}

/// Two steps with recovery points: `A.claim(1), pause, lease over, B.claim(2), B.e(2, first),
/// B stores it, zombie A.e(1, first), A stores it, B.e(2, last), B dies, lease over, C.claim(3),
/// C.e(3, last)`.
async fn a_finished_step_is_never_redone_by_a_zombie(kit: &Kit<'_>) -> Checked {
    let fenced = (RETRY, Kind::Fence);
    for (effect, kind) in WAYS.into_iter().chain([fenced]) {
        // Hold never has a second claim.
        if effect.holds() {
            continue;
        }
        let mut story = Story::new(kit, effect, kind);
        let zombie = story.claims().await?;
        kit.elapse(11).await;
        let b = story.claims().await?;
        check(story.acts(b, "first").await?, "B was refused")?;
        done("B stores its step", story.stores(b, "first").await)?;
        story.acts(zombie, "first").await?;
        lost("the zombie stores its step", story.stores(zombie, "first").await)?;
        // B dies in the second step; only this one runs again.
        story.dies_after_its_effect(b, LAST);
        kit.elapse(11).await;
        let c = story.claims().await?;
        let steps = kit.record(&story.id).await?.steps;
        same("finished steps", steps, vec![step("first", b"done")])?;
        check(story.acts(c, LAST).await?, "C was refused")?;
        done("C completes", story.stores(c, LAST).await)?;
        story.replays(c).await?;
        story.happened("first", if kind == Kind::Anything { 2 } else { 1 })?;
        story.happened(LAST, if effect == RETRY { 2 } else { 1 })?;
    }
    Ok(())
}

/// The two losses before, for real: `A.claim, record and counter are lost, B.claim, B.e, A.e`, and
/// with the effects the other way round.
async fn a_store_that_lost_everything_is_caught_by_the_sink_alone(kit: &Kit<'_>) -> Checked {
    for (effect, kind) in WAYS {
        for zombie_first in [false, true] {
            // A's counter is the first of a new store, so B's is the same.
            wipe(kit).await?;
            let mut story = Story::new(kit, effect, kind);
            let a = story.claims().await?;
            wipe(kit).await?;
            if zombie_first {
                story.acts(a, LAST).await?;
            }
            let b = story.claims().await?;
            cannot_write(kit, &story, a).await?;
            cannot_write(kit, &story, Fence { counter: b.counter, ..a }).await?;
            check(story.acts(b, LAST).await?, "B was refused")?;
            if !zombie_first {
                story.acts(a, LAST).await?;
            }
            done("B completes", story.stores(b, LAST).await)?;
            cannot_write(kit, &story, a).await?;
            story.replays(b).await?;
            let twice = kind == Kind::Anything;
            story.happened(LAST, if twice { 2 } else { 1 })?;
        }
    }
    Ok(())
}

async fn wipe(kit: &Kit<'_>) -> Checked {
    check(kit.harness.wipe().await, "the harness did not wipe the store")
}

async fn holds_lease(kit: &Kit<'_>, id: &RecordId, fence: Fence) -> Checked {
    let record = kit.record(id).await?;
    same("the owner", record.fence, fence)?;
    check(matches!(record.state, State::InProgress { .. }), "the lease is not good")
}

async fn cannot_write(kit: &Kit<'_>, story: &Story<'_>, fence: Fence) -> Checked {
    lost("complete", story.stores(fence, LAST).await)?;
    lost("renew", kit.renew(&story.id, fence, None).await)?;
    lost("a step", story.stores(fence, "step").await)?;
    lost("unknown", kit.release(&story.id, fence, unknown("late")).await)?;
    lost("release", kit.release(&story.id, fence, ReleaseVerdict::NotApplied).await)
}

async fn take_over(kit: &Kit<'_>, id: &RecordId, action: Action) -> Checked<Fence> {
    acquired(kit.take_over(id, takeover(action)).await?)
}

fn takeover(action: Action) -> Takeover {
    Takeover { action, actor: "ops".to_owned(), reason: "the sink is empty".to_owned() }
}

async fn free(kit: &Kit<'_>, id: &RecordId, operator: Fence) -> Checked {
    done("the operator frees it", kit.release(id, operator, ReleaseVerdict::NotApplied).await)
}

fn is_held(claimed: &Claimed) -> bool {
    matches!(claimed, Claimed::Held(_))
}

fn is_in_flight(claimed: &Claimed) -> bool {
    matches!(claimed, Claimed::InFlight { .. })
}
