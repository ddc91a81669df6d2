//! Takeovers by an operator, and looking around.

use super::declare;
use super::kit::{Checked, HOLD, Kit, RETRY, acquired, check, done, lost, outcome, same, unknown};
use crate::scope::RecordId;
use crate::store::{Action, Claimed, Filter, ReleaseVerdict, StateFilter, Takeover};

declare! {
    Nothing:
        a_takeover_of_nothing_finds_nothing,
        a_takeover_needs_a_record_that_waits_for_a_decision,
        a_taken_over_record_refuses_its_late_owner,
        a_purged_key_is_new;
    Inspection:
        every_takeover_is_audited_once,
        lists_are_filtered_and_paged,
        counts_tell_the_states_apart;
}

fn takeover(action: Action) -> Takeover {
    Takeover { action, actor: "ops".to_owned(), reason: "it's 3 a.m.".to_owned() }
}

async fn held(kit: &Kit<'_>) -> Checked<RecordId> {
    let id = kit.id();
    let fence = kit.acquire(&id, HOLD).await?;
    done("release", kit.release(&id, fence, unknown("lost")).await)?;
    Ok(id)
}

async fn a_takeover_of_nothing_finds_nothing(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let claimed = kit.take_over(&id, takeover(Action::Release)).await?;
    same("a takeover of an absent record", claimed, Claimed::Absent)?;
    same("the record after it", kit.get(&id).await?, None)
}

async fn a_takeover_needs_a_record_that_waits_for_a_decision(kit: &Kit<'_>) -> Checked {
    let (flying, finished, parked) = (kit.id(), kit.id(), held(kit).await?);
    kit.acquire(&flying, HOLD).await?;
    kit.finish(&finished, outcome(b"x")).await?;
    for action in [Action::Complete, Action::Purge, Action::Release] {
        let claimed = kit.take_over(&flying, takeover(action)).await?;
        check(matches!(claimed, Claimed::InFlight { .. }), "a live claim was taken over")?;
    }
    for action in [Action::Complete, Action::Release] {
        let claimed = kit.take_over(&finished, takeover(action)).await?;
        check(matches!(claimed, Claimed::Completed { .. }), "a finished record was taken over")?;
    }
    let claimed = kit.take_over(&parked, takeover(Action::Purge)).await?;
    check(matches!(claimed, Claimed::Held(_)), "a held record was purged")?;
    acquired(kit.take_over(&parked, takeover(Action::Release)).await?)?;
    // A claim that fell silent waits for a decision as well.
    kit.elapse(11).await;
    acquired(kit.take_over(&flying, takeover(Action::Complete)).await?).map(drop)
}

async fn a_taken_over_record_refuses_its_late_owner(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let owner = kit.acquire(&id, HOLD).await?;
    done("release", kit.release(&id, owner, unknown("lost")).await)?;
    let operator = acquired(kit.take_over(&id, takeover(Action::Complete)).await?)?;
    check(operator.counter > owner.counter, "the takeover's counter is not higher")?;
    lost("the late owner", kit.complete(&id, owner, outcome(b"late")).await)?;
    let claimed = kit.claim(&id, HOLD).await?;
    check(
        matches!(claimed, Claimed::InFlight { .. }),
        "a record under decision was not in flight",
    )?;
    done("complete", kit.complete(&id, operator, outcome(b"decided")).await)?;
    lost("the late owner", kit.complete(&id, owner, outcome(b"late")).await)?;
    match kit.claim(&id, HOLD).await? {
        Claimed::Completed { outcome, .. } => same("answer", &outcome.body[..], b"decided"),
        other => Err(format!("expected Completed, saw {other:?}")),
    }
}

async fn a_purged_key_is_new(kit: &Kit<'_>) -> Checked {
    let id = kit.id();
    let first = kit.finish(&id, outcome(b"x")).await?;
    let purge = acquired(kit.take_over(&id, takeover(Action::Purge)).await?)?;
    done("release", kit.release(&id, purge, ReleaseVerdict::NotApplied).await)?;
    same("a purged record", kit.get(&id).await?, None)?;
    let next = kit.acquire(&id, RETRY).await?;
    check(next.counter > first.counter, "the counter fell back at the purge")
}

async fn every_takeover_is_audited_once(kit: &Kit<'_>) -> Checked {
    let id = held(kit).await?;
    let mut request = kit.request(&id, HOLD);
    request.takeover = Some(takeover(Action::Release));
    let fence = acquired(kit.send(&request).await?)?;
    // The same takeover again, because its answer was lost.
    acquired(kit.send(&request).await?)?;
    done("release", kit.release(&id, fence, ReleaseVerdict::NotApplied).await)?;
    // The history outlives the record.
    let entries = done("audit", kit.inspect()?.audit(&id, 10).await)?;
    same("audit entries", entries.len(), 1)?;
    same("what was audited", &entries[0].takeover, &takeover(Action::Release))?;
    same("its fence", entries[0].fence, fence)?;
    let refused = kit.take_over(&id, takeover(Action::Purge)).await?;
    same("a takeover of nothing", refused, Claimed::Absent)?;
    let entries = done("audit", kit.inspect()?.audit(&id, 10).await)?;
    same("audit entries after a refused takeover", entries.len(), 1)?;
    // Whoever knows only the key finds the history of a record that is gone.
    let key = id.key.as_str();
    let decisions = done("decisions", kit.inspect()?.decisions(key, 1000).await)?;
    let mine: Vec<_> = decisions.into_iter().filter(|(found, _)| *found == id).collect();
    same("decisions by key", mine.iter().map(|(_, entry)| entry).collect(), vec![&entries[0]])
}

async fn lists_are_filtered_and_paged(kit: &Kit<'_>) -> Checked {
    let (flying, finished) = (kit.id(), kit.id());
    kit.acquire(&flying, RETRY).await?;
    kit.finish(&finished, outcome(b"x")).await?;
    let parked = held(kit).await?;
    let inspect = kit.inspect()?;
    let mine = Filter { tenant: Some(kit.tenant().to_owned()), ..Filter::default() };
    let mut seen = Vec::new();
    loop {
        let after = seen.last().cloned();
        let page = done("list", inspect.list(&mine, after.as_ref(), 2).await)?;
        check(page.len() <= 2, "a page is longer than its limit")?;
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|summary| summary.id));
    }
    let mut expected = vec![flying.clone(), finished.clone(), parked.clone()];
    expected.sort();
    same("all pages", seen, expected)?;
    let by = |state| Filter { state: Some(state), ..mine.clone() };
    for (state, id) in [
        (StateFilter::Held, &parked),
        (StateFilter::InProgress, &flying),
        (StateFilter::Completed, &finished),
    ] {
        let page = done("list", inspect.list(&by(state), None, 10).await)?;
        same("a filtered list", page.iter().map(|it| &it.id).collect(), vec![id])?;
        same("its fence", page[0].fence, kit.record(id).await?.fence)?;
    }
    let key = Filter { key: Some(parked.key.as_str().to_owned()), ..mine.clone() };
    let page = done("list", inspect.list(&key, None, 10).await)?;
    same("records of one key", page.iter().map(|it| &it.id).collect(), vec![&parked])?;
    check(page[0].hold.is_some(), "a held summary does not say why")
}

async fn counts_tell_the_states_apart(kit: &Kit<'_>) -> Checked {
    let inspect = kit.inspect()?;
    let before = done("count", inspect.count().await)?;
    kit.acquire(&kit.id(), RETRY).await?;
    kit.finish(&kit.id(), outcome(b"x")).await?;
    held(kit).await?;
    let id = kit.id();
    let fence = kit.acquire(&id, RETRY).await?;
    done("release", kit.release(&id, fence, unknown("x")).await)?;
    let after = done("count", inspect.count().await)?;
    same("completed", after.completed, before.completed + 1)?;
    same("held", after.held, before.held + 1)?;
    same("in progress", after.in_progress, before.in_progress + 1)?;
    same("interrupted", after.interrupted, before.interrupted + 1)?;
    kit.elapse(11).await;
    let later = done("count", inspect.count().await)?;
    check(later.silent > before.silent, "a silent claim is not counted")
}
