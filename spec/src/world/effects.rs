//! How an effect gets to its sink, and an outcome to the store.

use super::{At, Caller, Moment, World};
use crate::design::{Mistake, Sink};
use crate::record::{Entry, Mark, Phase};

impl World {
    pub(super) fn act(&self, moment: &mut Moment, who: usize) {
        let Caller { mark, step, .. } = moment.callers[who];
        if self.faults.delays {
            moment.callers[who].at = At::Sent;
            moment.network.insert((step, mark));
        } else {
            self.arrive(moment, step, mark);
        }
    }

    /// What a caller sent reaches the sink; the caller hears of it if it still listens.
    pub(super) fn arrive(&self, moment: &mut Moment, step: u8, mark: Mark) {
        let listens = |it: &Caller| {
            let waits = matches!(it.at, At::Checked | At::Claimed | At::Sent);
            waits && it.mark == mark && it.step == step
        };
        let listener = moment.callers.iter().position(listens);
        let transaction = self.design.sink == Sink::Transaction;
        let done = if transaction {
            self.commit(moment, step, mark)
        } else {
            self.apply(moment, step, mark)
        };
        match listener {
            Some(who) if transaction => self.go_on(moment, who, done),
            Some(who) => moment.callers[who].at = if done { At::Done } else { At::Late },
            None => {}
        }
    }

    /// Stores a finished step or the outcome.
    pub(super) fn store(&self, moment: &mut Moment, who: usize) {
        let Caller { mark, step, .. } = moment.callers[who];
        let stored = self.write(moment, step, mark);
        self.go_on(moment, who, stored);
    }

    /// A caller does not hear of what it did.
    pub(super) fn give_up(&self, moment: &mut Moment, who: usize) {
        let Caller { at, mark, step } = moment.callers[who];
        if self.design.sink == Sink::Transaction && at == At::Sent && self.is_last(step) {
            // The record was in the same transaction: a finished one proves the commit. An
            // unfinished one proves nothing, the commit may still be on its way.
            let of_this_claim = |it: Entry| it.mark == mark && matches!(it.phase, Phase::Done(_));
            if moment.shelf.entry.is_some_and(of_this_claim) {
                moment.callers[who].at = At::Completed;
                return;
            }
        }
        let applied_maybe = self.design.mistake != Some(Mistake::ReleaseOnTimeout);
        moment.shelf.release(mark, applied_maybe, self.effect());
        moment.callers[who].at = At::Start;
    }

    /// Fence-then-query: raise the sink's fence and read back, in one step.
    pub(super) fn ask_sink(&self, moment: &mut Moment, who: usize) {
        let Caller { mark, step, .. } = moment.callers[who];
        if self.design.sink != Sink::FenceQuery {
            return;
        }
        let repeated = self.design.mistake != Some(Mistake::BareCounter)
            && mark.counter == moment.sink_fence.counter
            && mark.nonce != moment.sink_fence.nonce;
        if !self.accepts(moment, mark) || repeated {
            // The store's counter fell back; this claim has done nothing and says so.
            moment.shelf.release(mark, false, self.effect());
            moment.callers[who].at = At::Start;
            return;
        }
        moment.sink_fence = mark;
        if moment.has(step) {
            moment.callers[who].at = At::Done;
        }
    }

    /// A caller hears whether its step or outcome is stored.
    fn go_on(&self, moment: &mut Moment, who: usize, stored: bool) {
        let last = self.is_last(moment.callers[who].step);
        let caller = &mut moment.callers[who];
        match (stored, last) {
            (false, _) => caller.at = At::Late,
            (true, true) => caller.at = At::Completed,
            (true, false) => {
                caller.at = At::Claimed;
                caller.step += 1;
                self.ask_sink(moment, who);
            }
        }
    }

    /// One commit: the effect is there if the record is.
    fn commit(&self, moment: &mut Moment, step: u8, mark: Mark) -> bool {
        let finished = moment.finished;
        let committed = self.write(moment, step, mark);
        if committed {
            // The effect is judged against what was finished before it.
            moment.repeated |= step < finished;
            moment.applied.push((step, mark));
        }
        committed
    }

    /// `false` when the claim is lost.
    fn write(&self, moment: &mut Moment, step: u8, mark: Mark) -> bool {
        let before = moment.shelf.entry;
        let stored = if self.design.mistake == Some(Mistake::CheckThenAct) {
            let phase = Phase::Done(mark.nonce);
            moment.shelf.entry = Some(Entry { mark, phase, steps: 0, lost: 0 });
            true
        } else if self.is_last(step) {
            moment.shelf.complete(mark, self.effect())
        } else {
            moment.shelf.renew(mark, Some(step), self.effect())
        };
        moment.overwritten |= matches!(
            (before, moment.shelf.entry),
            (
                Some(Entry { phase: Phase::Done(one), .. }),
                Some(Entry { phase: Phase::Done(other), .. }),
            ) if one != other
        );
        if stored {
            moment.finished = moment.finished.max(step + 1);
        }
        stored
    }

    /// An effect reaches the sink. `true` when the sender may go on.
    fn apply(&self, moment: &mut Moment, step: u8, mark: Mark) -> bool {
        match self.design.sink {
            Sink::Anything | Sink::Transaction => {}
            Sink::Fence | Sink::FenceQuery => {
                if !self.accepts(moment, mark) {
                    return false;
                }
                moment.sink_fence = mark;
            }
            Sink::Keys => {
                if moment.has(step) {
                    return true;
                }
            }
        }
        moment.repeated |= step < moment.finished;
        moment.applied.push((step, mark));
        true
    }

    fn accepts(&self, moment: &Moment, mark: Mark) -> bool {
        let fence = moment.sink_fence;
        let nonce_matters = self.design.mistake != Some(Mistake::BareCounter);
        mark.counter > fence.counter
            || (mark.counter == fence.counter && (!nonce_matters || mark.nonce == fence.nonce))
    }

    fn is_last(&self, step: u8) -> bool {
        step + 1 == self.design.steps
    }
}
