//! What the effects of the counterexamples go to, and a key's story between it and the store.
//!
//! The sinks are those of the checked model (`spec/src/design.rs`), as small as they can be. The
//! fence rule in [`Sink::accepts`] is what a sink of your own has to do: compare counters, and
//! with equal counters the nonce, because a store that lost its counter gives numbers again.

use super::kit::{Checked, Kit, acquired, done, outcome, same, step};
use crate::clock::Timestamp;
use crate::effect::Effect;
use crate::error::{Error, ErrorKind};
use crate::fence::Fence;
use crate::key::Key;
use crate::scope::RecordId;
use crate::store::{Claimed, ReleaseVerdict};

/// The name of the last step, whose end is the end of the operation.
pub(super) const LAST: &str = "last";

/// Claims that the owner of a fence-and-query sink makes at most until its counter is high enough.
const CLAIMS_MAX: u32 = 8;

/// What a sink does with an effect that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Executes whatever comes.
    Anything,
    /// Refuses an effect whose fence is older than one it has seen.
    Fence,
    /// Raises its fence at the claim and is read back in the same step.
    FenceQuery,
    /// Remembers the step key of every effect.
    Keys,
    /// Lives in the store's database: effect and record commit together.
    Transaction,
}

pub(super) struct Sink {
    kind: Kind,
    /// The latest fence it has seen.
    fence: Option<Fence>,
    applied: Vec<(Key, Fence)>,
}

impl Sink {
    /// An effect arrives. `false` when it was refused.
    pub(super) fn apply(&mut self, key: &Key, fence: Fence) -> bool {
        match self.kind {
            Kind::Anything | Kind::Transaction => {}
            Kind::Fence | Kind::FenceQuery => {
                if !self.raise(fence) {
                    return false;
                }
            }
            Kind::Keys => {
                if self.has(key) {
                    return true;
                }
            }
        }
        self.applied.push((key.clone(), fence));
        true
    }

    /// From now on no older fence is accepted. `false` when this one is the older.
    pub(super) fn raise(&mut self, fence: Fence) -> bool {
        let accepted = self.accepts(fence);
        if accepted {
            self.fence = Some(fence);
        }
        accepted
    }

    /// Raises the fence and reads back what is there. `None` when the fence is an older one.
    fn ask(&mut self, fence: Fence) -> Option<Vec<Key>> {
        self.raise(fence).then(|| self.applied.iter().map(|(done, _)| done.clone()).collect())
    }

    fn accepts(&self, fence: Fence) -> bool {
        self.fence.is_none_or(|seen| fence.counter > seen.counter || fence == seen)
    }

    fn has(&self, key: &Key) -> bool {
        self.applied.iter().any(|(done, _)| done == key)
    }

    /// Whether no effect came after one with a newer fence.
    fn in_order(&self) -> bool {
        self.applied.iter().map(|(_, fence)| fence.counter).is_sorted()
    }
}

/// One key, its record in the store and its effects in a sink. The claims of several clients are
/// told apart by their fences.
pub(super) struct Story<'a> {
    kit: &'a Kit<'a>,
    pub(super) id: RecordId,
    pub(super) sink: Sink,
    effect: Effect,
    /// What claims found done when they asked the sink.
    found_done: Vec<(Fence, Key)>,
}

impl<'a> Story<'a> {
    pub(super) fn new(kit: &'a Kit<'a>, effect: Effect, kind: Kind) -> Self {
        let sink = Sink { kind, fence: None, applied: Vec::new() };
        Self { kit, id: kit.id(), sink, effect, found_done: Vec::new() }
    }

    pub(super) async fn asks(&self) -> Checked<Claimed> {
        self.kit.claim(&self.id, self.effect).await
    }

    /// A client claims, must get it, and asks the sink where that is the mode.
    pub(super) async fn claims(&mut self) -> Checked<Fence> {
        for _ in 0..CLAIMS_MAX {
            let fence = acquired(self.asks().await?)?;
            if self.sink.kind != Kind::FenceQuery {
                return Ok(fence);
            }
            if let Some(there) = self.sink.ask(fence) {
                self.found_done.extend(there.into_iter().map(|key| (fence, key)));
                return Ok(fence);
            }
            // The store's counter fell back. This claim has done nothing and may say so.
            let verdict = ReleaseVerdict::NotApplied;
            done("release", self.kit.release(&self.id, fence, verdict).await)?;
        }
        Err(format!("after {CLAIMS_MAX} claims the counter is still below the sink's fence"))
    }

    /// The owner of a claim has its effect done. `false` when the sink refused it.
    pub(super) async fn acts(&mut self, fence: Fence, name: &'static str) -> Checked<bool> {
        let key = self.key(name);
        if self.sink.kind != Kind::Transaction {
            let found = self.found_done.contains(&(fence, key.clone()));
            return Ok(found || self.sink.apply(&key, fence));
        }
        match self.stores(fence, name).await {
            Ok(_) => Ok(self.sink.apply(&key, fence)),
            Err(error) if error.kind() == ErrorKind::ClaimLost => Ok(false),
            Err(error) => Err(format!("commit: {error}")),
        }
    }

    /// The owner of a claim dies before it can tell the store. A transaction dies with it.
    pub(super) fn dies_after_its_effect(&mut self, fence: Fence, name: &str) {
        if self.sink.kind != Kind::Transaction {
            let key = self.key(name);
            self.sink.apply(&key, fence);
        }
    }

    /// Stores a finished step or, for the last, the outcome.
    pub(super) async fn stores(
        &self,
        fence: Fence,
        name: &'static str,
    ) -> Result<Timestamp, Error> {
        if name == LAST {
            return self.kit.complete(&self.id, fence, outcome(answer(fence).as_bytes())).await;
        }
        self.kit.renew(&self.id, fence, Some(step(name, b"done"))).await
    }

    /// Whoever asks now is answered with the outcome of this claim.
    pub(super) async fn replays(&self, fence: Fence) -> Checked {
        match self.asks().await? {
            Claimed::Completed { outcome, .. } => {
                same("the answer", &*String::from_utf8_lossy(&outcome.body), &*answer(fence))
            }
            other => Err(format!("expected Completed, saw {other:?}")),
        }
    }

    /// The effect of the step happened so often, and never an older one after a newer.
    pub(super) fn happened(&self, name: &str, times: usize) -> Checked {
        let key = self.key(name);
        let seen = self.sink.applied.iter().filter(|(done, _)| *done == key).count();
        let what = format!("effects of `{name}` in {:?} under {}", self.sink.kind, self.effect);
        same(&what, seen, times)?;
        // Without a fence in the sink nothing keeps late effects in order.
        let fenced = self.sink.kind != Kind::Anything;
        same("effects come in the order of their fences", fenced && !self.sink.in_order(), false)
    }

    /// The key of a step is equal in every attempt; otherwise no downstream could deduplicate.
    pub(super) fn key(&self, name: &str) -> Key {
        Key::derived(&self.id, name)
    }
}

fn answer(fence: Fence) -> String {
    format!("answer of {fence}")
}
