//! What befalls a record from outside: an operator who decides about it, a store that forgets it.

use semel::store::Action as Decision;

use super::{At, LOST_MAX, Moment, Operator, Replica, World};
use crate::design::{Mistake, Sink};
use crate::record::Got;

impl World {
    pub(super) fn take_over(&self, moment: &mut Moment, decision: Decision) -> Option<()> {
        moment.nonces += 1;
        let purges = decision == Decision::Purge;
        match moment.shelf.claim(moment.nonces, self.effect(), Some(decision), LOST_MAX) {
            Got::Acquired(mark, _) => {
                moment.losses = moment.losses.saturating_sub(u8::from(purges));
                moment.operator = Some(Operator { mark, purges });
            }
            _ => return None,
        }
        Some(())
    }

    /// An operator knows the truth only when nothing that was started can still arrive, or when
    /// the sink itself keeps late effects out.
    pub(super) fn truth_is_known(&self, moment: &Moment) -> bool {
        let keeps_out =
            matches!(self.design.sink, Sink::FenceQuery | Sink::Keys | Sink::Transaction);
        keeps_out
            || self.design.mistake == Some(Mistake::NaiveReconcile)
            || (moment.network.is_empty()
                && !moment.callers.iter().any(|it| matches!(it.at, At::Claimed | At::Checked)))
    }

    pub(super) fn decide(&self, moment: &mut Moment) {
        let Some(Operator { mark, purges }) = moment.operator.take() else { return };
        if purges || moment.applied.is_empty() {
            moment.shelf.release(mark, false, self.effect());
        } else if moment.has(self.design.steps - 1) {
            moment.shelf.complete(mark, self.effect());
        } else {
            // Half of it happened. Neither decision would be true, so the record is put back.
            moment.shelf.release(mark, true, self.effect());
        }
    }

    pub(super) fn lag(&self, moment: &mut Moment) {
        let (applied, finished) = match self.design.sink {
            Sink::Transaction => (moment.applied.clone(), moment.finished),
            _ => (Vec::new(), 0),
        };
        moment.replica = Some(Replica { shelf: moment.shelf.clone(), applied, finished });
    }

    pub(super) fn lose(&self, moment: &mut Moment) {
        moment.losses -= 1;
        if let Some(replica) = moment.replica.take() {
            moment.shelf = replica.shelf;
            if self.design.sink == Sink::Transaction {
                moment.applied = replica.applied;
                moment.finished = replica.finished;
            }
            return;
        }
        moment.shelf.entry = None;
        if self.faults.counter_resets {
            moment.shelf.counter = 0;
        }
    }
}
