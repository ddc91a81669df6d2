//! What a store with transactions must do besides: effect and record, effect and step, together or
//! not at all.

use std::sync::Arc;

use super::kit::{Checked, HOLD, Kit, RETRY, check, done, lost, outcome, same, step};
use super::{Harness, Report};
use crate::clock::{BoxFuture, Timestamp};
use crate::error::{Error, ErrorKind};
use crate::fence::Fence;
use crate::scope::RecordId;
use crate::store::{Claimed, Completion, Renewal, TransactionalStore};

/// Gives the suite a store with transactions and an effect in the same database.
pub trait TransactionalHarness: Harness {
    /// The store's own type.
    type Store: TransactionalStore;

    /// The store under test; the same as [`Harness::store`].
    fn transactional(&self) -> Arc<Self::Store>;

    /// Does the effect of this name in the transaction, a row for example.
    fn apply<'a>(
        &'a self,
        transaction: &'a mut <Self::Store as TransactionalStore>::Transaction,
        effect: &'a str,
    ) -> BoxFuture<'a, Result<(), String>>;

    /// How often the effect of this name has happened, as everybody else sees it.
    fn applied<'a>(&'a self, effect: &'a str) -> BoxFuture<'a, Result<usize, String>>;
}

/// Runs the cases for stores with transactions; [`run`](super::run) has all the others.
pub async fn run_transactional<H: TransactionalHarness>(harness: &H) -> Report {
    let mut report = Report::default();
    let told = [
        ("an_outcome_and_its_effect_are_one", an_outcome_and_its_effect_are_one(harness).await),
        ("a_step_and_its_effect_are_one", a_step_and_its_effect_are_one(harness).await),
        (
            "a_committed_step_is_given_to_the_next_claim",
            a_committed_step_is_given_to_the_next_claim(harness).await,
        ),
        (
            "a_step_that_is_there_takes_no_second_effect",
            a_step_that_is_there_takes_no_second_effect(harness).await,
        ),
        ("a_late_owner_commits_nothing", a_late_owner_commits_nothing(harness).await),
        ("a_held_record_takes_no_step", a_held_record_takes_no_step(harness).await),
    ];
    for (name, told) in told {
        match told {
            Ok(()) => report.passed.push(name),
            Err(what) => report.failed.push((name, what)),
        }
    }
    report
}

/// The suite's names, and the effects of one case.
struct Shop<'a, H: TransactionalHarness> {
    kit: Kit<'a>,
    harness: &'a H,
    store: Arc<H::Store>,
    id: RecordId,
}

impl<'a, H: TransactionalHarness> Shop<'a, H> {
    fn new(harness: &'a H, case: &str) -> Self {
        let kit = Kit::new(harness, case);
        let id = kit.id();
        Self { kit, harness, store: harness.transactional(), id }
    }

    /// An effect that no other case and no other run has.
    fn effect(&self, name: &str) -> String {
        format!("{}-{name}", self.kit.tenant())
    }

    async fn begin(&self, effect: &str) -> Checked<<H::Store as TransactionalStore>::Transaction> {
        let mut transaction = done("begin", self.store.begin().await)?;
        self.harness.apply(&mut transaction, &self.effect(effect)).await?;
        Ok(transaction)
    }

    async fn commits(&self, fence: Fence, effect: &str) -> Checked<Result<Timestamp, Error>> {
        let transaction = self.begin(effect).await?;
        let (id, retention) = (self.id.clone(), self.kit.units(100));
        let completion = Completion { id, fence, outcome: outcome(b"done"), retention };
        Ok(self.store.commit(transaction, &completion).await)
    }

    async fn steps(&self, fence: Fence, effect: &'static str) -> Checked<Result<Timestamp, Error>> {
        let transaction = self.begin(effect).await?;
        let step = Some(step(effect, b"done"));
        let renewal = Renewal { id: self.id.clone(), fence, lease: self.kit.units(10), step };
        Ok(self.store.commit_step(transaction, &renewal).await)
    }

    async fn happened(&self, effect: &str, times: usize) -> Checked {
        let seen = self.harness.applied(&self.effect(effect)).await?;
        same(&format!("effects `{effect}`"), seen, times)
    }
}

async fn an_outcome_and_its_effect_are_one<H: TransactionalHarness>(harness: &H) -> Checked {
    let shop = Shop::new(harness, "outcome");
    let fence = shop.kit.acquire(&shop.id, RETRY).await?;
    let dropped = shop.begin("dropped").await?;
    drop(dropped);
    let rolled_back = shop.begin("rolled-back").await?;
    done("rollback", shop.store.rollback(rolled_back).await)?;
    let state = shop.kit.record(&shop.id).await?.state.name();
    same("the state before the commit", state, "in-progress")?;
    done("commit", shop.commits(fence, "order").await?)?;
    shop.happened("order", 1).await?;
    shop.happened("dropped", 0).await?;
    shop.happened("rolled-back", 0).await?;
    same("the state", shop.kit.record(&shop.id).await?.state.name(), "completed")
}

async fn a_step_and_its_effect_are_one<H: TransactionalHarness>(harness: &H) -> Checked {
    let shop = Shop::new(harness, "step");
    let fence = shop.kit.acquire(&shop.id, RETRY).await?;
    drop(shop.begin("one").await?);
    shop.happened("one", 0).await?;
    for name in ["one", "two"] {
        done("commit_step", shop.steps(fence, name).await?)?;
        shop.happened(name, 1).await?;
    }
    let record = shop.kit.record(&shop.id).await?;
    same("the state", record.state.name(), "in-progress")?;
    let names: Vec<_> = record.steps.iter().map(|step| &*step.name).collect();
    same("the steps", names, vec!["one", "two"])?;
    done("complete", shop.kit.complete(&shop.id, fence, outcome(b"done")).await).map(drop)
}

async fn a_committed_step_is_given_to_the_next_claim<H: TransactionalHarness>(
    harness: &H,
) -> Checked {
    let shop = Shop::new(harness, "next");
    let fence = shop.kit.acquire(&shop.id, RETRY).await?;
    done("commit_step", shop.steps(fence, "one").await?)?;
    shop.kit.elapse(11).await;
    match shop.kit.claim(&shop.id, RETRY).await? {
        Claimed::Acquired { steps, .. } => same("the steps", steps, vec![step("one", b"done")]),
        other => Err(format!("expected Acquired, saw {other:?}")),
    }
}

async fn a_step_that_is_there_takes_no_second_effect<H: TransactionalHarness>(
    harness: &H,
) -> Checked {
    let shop = Shop::new(harness, "twice");
    let fence = shop.kit.acquire(&shop.id, RETRY).await?;
    done("commit_step", shop.steps(fence, "one").await?)?;
    match shop.steps(fence, "one").await? {
        Err(error) if error.kind() == ErrorKind::Invalid => {}
        other => return Err(format!("expected Invalid, saw {other:?}")),
    }
    shop.happened("one", 1).await?;
    done("the next step", shop.steps(fence, "two").await?).map(drop)
}

async fn a_late_owner_commits_nothing<H: TransactionalHarness>(harness: &H) -> Checked {
    let shop = Shop::new(harness, "late");
    let late = shop.kit.acquire(&shop.id, RETRY).await?;
    shop.kit.elapse(11).await;
    let winner = shop.kit.acquire(&shop.id, RETRY).await?;
    lost("a late step", shop.steps(late, "step").await?)?;
    lost("a late outcome", shop.commits(late, "order").await?)?;
    shop.happened("step", 0).await?;
    shop.happened("order", 0).await?;
    done("the winner's step", shop.steps(winner, "step").await?)?;
    done("the winner's outcome", shop.commits(winner, "order").await?)?;
    lost("a step after the end", shop.steps(winner, "after").await?)?;
    shop.happened("after", 0).await?;
    shop.happened("step", 1).await?;
    shop.happened("order", 1).await
}

async fn a_held_record_takes_no_step<H: TransactionalHarness>(harness: &H) -> Checked {
    let shop = Shop::new(harness, "held");
    let fence = shop.kit.acquire(&shop.id, HOLD).await?;
    shop.kit.elapse(11).await;
    let seen = shop.kit.claim(&shop.id, HOLD).await?;
    check(matches!(seen, Claimed::Held(_)), "the silent claim is held")?;
    lost("a step of a held record", shop.steps(fence, "step").await?)?;
    shop.happened("step", 0).await
}
