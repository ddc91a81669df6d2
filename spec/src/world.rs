//! The world around the protocol: callers, an operator, a sink, a network, and what goes wrong.

use std::collections::BTreeSet;

use semel::store::Action as Decision;
use semel::{Effect, OnUnknown};
use stateright::{Model, Property};

use crate::design::{Design, Faults, Mistake, Sink};
use crate::record::{Entry, Got, Mark, Phase, Shelf};

/// How many leases may be lost before a record is held. Above what a run can reach, so that the
/// poison cap does not hide what the mode itself promises.
const LOST_MAX: u32 = 100;

/// A bounded world: so many callers of one key, so many claims.
#[derive(Clone, Debug)]
pub struct World {
    /// How the protocol is used.
    pub design: Design,
    /// What may go wrong.
    pub faults: Faults,
    /// Callers with the same key.
    pub callers: usize,
    /// Claims with a nonce of their own in one run.
    pub claims_max: u8,
}

/// Everything there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    shelf: Shelf,
    /// The sink: the effects it executed, in order, and its fence.
    applied: Vec<(u8, Mark)>,
    sink_fence: Mark,
    /// Effects on their way: (caller, step, claim).
    network: BTreeSet<(usize, u8, Mark)>,
    callers: Vec<Caller>,
    operator: Option<Mark>,
    nonces: u8,
    crashes: u8,
    lost_answers: u8,
    losses: u8,
    /// The highest number of steps that was ever stored as finished.
    finished: u8,
    repeated: bool,
    overwritten: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Caller {
    at: At,
    mark: Mark,
    step: u8,
}

/// Where a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Answered with the outcome of this claim.
    Answered(u8),
    /// Holds a claim.
    Claimed,
    /// Has looked at its lease and found it good.
    Checked,
    /// Stored its outcome, has not answered yet.
    Completed,
    /// Knows that its effect is there.
    Done,
    /// Its write was refused.
    Late,
    /// Waits for the answer of its sink.
    Sent,
    /// Has to claim (again).
    Start,
    /// Sent this claim and has not heard of it.
    Unheard(u8),
    /// Was told that the outcome is unknown.
    ToldUnknown,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// A caller is answered with the outcome it stored.
    Answer(usize),
    /// A caller has its effect done, or sends it.
    Apply(usize),
    /// A caller looks at its lease.
    Check(usize),
    /// A caller claims, and hears of it or not.
    Claim(usize, bool),
    /// A caller stores its step or its outcome.
    Complete(usize),
    /// A caller dies; its client tries again.
    Crash(usize),
    /// The operator dies.
    CrashOperator,
    /// The operator decides.
    Decide,
    /// An effect arrives.
    Deliver(usize, u8, Mark),
    /// A lease runs out.
    Expire,
    /// The store forgets.
    Lose,
    /// A caller proves that its attempt did nothing.
    NotApplied(usize),
    /// A late caller reads the record.
    Read(usize),
    /// A heartbeat.
    Renew(usize),
    /// The operator takes the record over.
    TakeOver,
    /// A caller gives up waiting for its sink.
    TimeOut(usize),
}

impl World {
    fn accepts(&self, moment: &Moment, mark: Mark) -> bool {
        let fence = moment.sink_fence;
        let nonce_matters = self.design.mistake != Some(Mistake::BareCounter);
        mark.counter > fence.counter
            || (mark.counter == fence.counter && (!nonce_matters || mark.nonce == fence.nonce))
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

    fn effect(&self) -> Effect {
        self.design.effect
    }

    fn claim(&self, moment: &mut Moment, who: usize, heard: bool) {
        let nonce = match moment.callers[who].at {
            At::Unheard(nonce) => nonce,
            _ => moment.nonces + 1,
        };
        moment.nonces = moment.nonces.max(nonce);
        if self.design.mistake == Some(Mistake::CheckThenAct) {
            return moment.look_then_act(who, nonce);
        }
        let got = moment.shelf.claim(nonce, self.effect(), None, LOST_MAX);
        if !heard {
            moment.callers[who].at = At::Unheard(nonce);
            return;
        }
        match got {
            Got::Acquired(mark, step) => {
                moment.callers[who] = Caller { at: At::Claimed, mark, step };
                self.ask_sink(moment, who);
            }
            Got::Busy => moment.callers[who].at = At::Start,
            Got::Done(by) => moment.callers[who].at = At::Answered(by),
            Got::Held => moment.callers[who].at = At::ToldUnknown,
        }
    }

    /// Fence-then-query: raise the sink's fence and read back, in one step.
    fn ask_sink(&self, moment: &mut Moment, who: usize) {
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

    fn act(&self, moment: &mut Moment, who: usize) {
        let Caller { mark, step, .. } = moment.callers[who];
        if self.design.sink == Sink::Transaction {
            // One commit: the effect is judged against what was finished before it.
            let finished = moment.finished;
            if self.store(moment, who) {
                moment.repeated |= step < finished;
                moment.applied.push((step, mark));
            }
        } else if self.faults.delays {
            moment.callers[who].at = At::Sent;
            moment.network.insert((who, step, mark));
        } else {
            let done = self.apply(moment, step, mark);
            moment.callers[who].at = if done { At::Done } else { At::Late };
        }
    }

    /// Stores a finished step or the outcome; `false` when the claim is lost.
    fn store(&self, moment: &mut Moment, who: usize) -> bool {
        let Caller { mark, step, .. } = moment.callers[who];
        let last = step + 1 == self.design.steps;
        let before = moment.shelf.entry;
        let stored = if self.design.mistake == Some(Mistake::CheckThenAct) {
            let phase = Phase::Done(mark.nonce);
            moment.shelf.entry = Some(Entry { mark, phase, steps: 0, lost: 0 });
            true
        } else if last {
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
        let caller = &mut moment.callers[who];
        match (stored, last) {
            (false, _) => caller.at = At::Late,
            (true, true) => caller.at = At::Completed,
            (true, false) => {
                caller.at = At::Claimed;
                caller.step += 1;
            }
        }
        if stored {
            moment.finished = moment.finished.max(step + 1);
            if !last {
                self.ask_sink(moment, who);
            }
        }
        stored
    }

    /// An operator knows the truth only when nothing that was started can still arrive.
    fn truth_is_known(&self, moment: &Moment) -> bool {
        self.design.mistake == Some(Mistake::NaiveReconcile)
            || (moment.network.is_empty()
                && !moment.callers.iter().any(|it| matches!(it.at, At::Claimed | At::Checked)))
    }

    fn lose(&self, moment: &mut Moment) {
        moment.losses -= 1;
        moment.shelf.entry = None;
        if self.faults.counter_resets {
            moment.shelf.counter = 0;
        }
        if self.faults.failover && self.design.sink == Sink::Transaction {
            moment.applied.clear();
            moment.finished = 0;
        }
    }
}

impl Moment {
    fn has(&self, step: u8) -> bool {
        self.applied.iter().any(|(done, _)| *done == step)
    }

    fn times(&self, step: u8) -> usize {
        self.applied.iter().filter(|(done, _)| *done == step).count()
    }

    fn look_then_act(&mut self, who: usize, nonce: u8) {
        match self.shelf.entry {
            Some(Entry { phase: Phase::Done(by), .. }) => self.callers[who].at = At::Answered(by),
            _ => {
                let mark = Mark { counter: nonce, nonce };
                self.callers[who] = Caller { at: At::Claimed, mark, step: 0 };
            }
        }
    }

    fn read(&mut self, who: usize) {
        self.callers[who].at = match self.shelf.entry {
            Some(Entry { phase: Phase::Done(by), .. }) => At::Answered(by),
            _ => At::Start,
        };
    }

    fn check(&mut self, who: usize) {
        let mark = self.callers[who].mark;
        let is_live = |entry: Entry| entry.mark == mark && entry.phase == Phase::Running(true);
        let live = self.shelf.entry.is_some_and(is_live);
        self.callers[who].at = if live { At::Checked } else { At::Late };
    }

    fn owner_lives(&self, entry: &Entry) -> bool {
        let active = |at| !matches!(at, At::Start | At::Answered(_) | At::ToldUnknown);
        self.operator == Some(entry.mark)
            || self.callers.iter().any(|it| {
                (it.mark == entry.mark && active(it.at)) || it.at == At::Unheard(entry.mark.nonce)
            })
    }
}

impl Model for World {
    type State = Moment;
    type Action = Act;

    fn init_states(&self) -> Vec<Moment> {
        let nobody = Mark { counter: 0, nonce: 0 };
        let caller = Caller { at: At::Start, mark: nobody, step: 0 };
        vec![Moment {
            shelf: Shelf { entry: None, counter: 0 },
            applied: Vec::new(),
            sink_fence: nobody,
            network: BTreeSet::new(),
            callers: vec![caller; self.callers],
            operator: None,
            nonces: 0,
            crashes: self.faults.crashes,
            lost_answers: self.faults.lost_answers,
            losses: self.faults.record_losses,
            finished: 0,
            repeated: false,
            overwritten: false,
        }]
    }

    fn actions(&self, moment: &Moment, acts: &mut Vec<Act>) {
        for who in 0..self.callers {
            self.acts_of_caller(moment, who, acts);
        }
        acts.extend(moment.network.iter().map(|it| Act::Deliver(it.0, it.1, it.2)));
        if let Some(entry) = &moment.shelf.entry {
            let running = entry.phase == Phase::Running(true);
            if running && (self.faults.pauses || !moment.owner_lives(entry)) {
                acts.push(Act::Expire);
            }
            if entry.phase == Phase::Held && moment.operator.is_none() && self.may_claim(moment) {
                acts.push(Act::TakeOver);
            }
            if moment.losses > 0 {
                acts.push(Act::Lose);
            }
        }
        if moment.operator.is_some() {
            if self.truth_is_known(moment) {
                acts.push(Act::Decide);
            }
            if moment.crashes > 0 {
                acts.push(Act::CrashOperator);
            }
        }
    }

    fn next_state(&self, last: &Moment, act: Act) -> Option<Moment> {
        let mut moment = last.clone();
        match act {
            Act::Answer(who) => {
                let by = moment.callers[who].mark.nonce;
                moment.callers[who].at = At::Answered(by);
            }
            Act::Apply(who) => self.act(&mut moment, who),
            Act::Check(who) => moment.check(who),
            Act::Claim(who, heard) => {
                moment.lost_answers -= u8::from(!heard);
                self.claim(&mut moment, who, heard);
            }
            Act::Complete(who) => {
                self.store(&mut moment, who);
            }
            Act::Crash(who) => {
                moment.crashes -= 1;
                moment.callers[who].at = At::Start;
            }
            Act::CrashOperator => {
                moment.crashes -= 1;
                moment.operator = None;
            }
            Act::Decide => self.decide(&mut moment),
            Act::Deliver(who, step, mark) => {
                moment.network.remove(&(who, step, mark));
                let done = self.apply(&mut moment, step, mark);
                let caller = &mut moment.callers[who];
                if caller.at == At::Sent && caller.mark == mark && caller.step == step {
                    caller.at = if done { At::Done } else { At::Late };
                }
            }
            Act::Expire => {
                if let Some(entry) = &mut moment.shelf.entry {
                    entry.phase = Phase::Running(false);
                }
            }
            Act::Lose => self.lose(&mut moment),
            Act::NotApplied(who) => {
                let mark = moment.callers[who].mark;
                let released = moment.shelf.release(mark, false, self.effect());
                moment.callers[who].at = if released { At::Start } else { At::Late };
            }
            Act::Read(who) => moment.read(who),
            Act::Renew(who) => {
                let mark = moment.callers[who].mark;
                if !moment.shelf.renew(mark, None, self.effect()) {
                    return None;
                }
            }
            Act::TakeOver => self.take_over(&mut moment)?,
            Act::TimeOut(who) => {
                let mark = moment.callers[who].mark;
                let applied_maybe = self.design.mistake != Some(Mistake::ReleaseOnTimeout);
                moment.shelf.release(mark, applied_maybe, self.effect());
                moment.callers[who].at = At::Start;
            }
        }
        Some(moment)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("once", |world: &World, moment: &Moment| {
                (0..world.design.steps).all(|step| moment.times(step) <= 1)
            }),
            Property::always("not lost", |world: &World, moment: &Moment| {
                let mut acts = Vec::new();
                world.actions(moment, &mut acts);
                !acts.is_empty()
                    || !world.may_claim(moment)
                    || (0..world.design.steps).all(|step| moment.has(step))
            }),
            Property::always("told is done", |world: &World, moment: &Moment| {
                let told = moment.callers.iter().any(|it| matches!(it.at, At::Answered(_)));
                !told || (0..world.design.steps).all(|step| moment.has(step))
            }),
            Property::always("one answer", |_, moment: &Moment| {
                let answers = moment.callers.iter().filter_map(|it| match it.at {
                    At::Answered(by) => Some(by),
                    _ => None,
                });
                answers.collect::<BTreeSet<_>>().len() <= 1
            }),
            Property::always("no stale effect", |world: &World, moment: &Moment| {
                (0..world.design.steps).all(|step| {
                    let of_step = moment.applied.iter().filter(|(done, _)| *done == step);
                    of_step.map(|(_, mark)| mark.counter).is_sorted()
                })
            }),
            Property::always("no finished step again", |_, moment: &Moment| !moment.repeated),
            Property::always("never overwritten", |_, moment: &Moment| !moment.overwritten),
            Property::always("never unknown", |_, moment: &Moment| {
                moment.callers.iter().all(|it| it.at != At::ToldUnknown)
            }),
            Property::sometimes("everybody is answered", |_, moment: &Moment| {
                moment.callers.iter().all(|it| matches!(it.at, At::Answered(_)))
            }),
            // Never true: keeps the checker going until it has seen every moment.
            Property::sometimes("the end of the world", |_, _| false),
        ]
    }
}

impl World {
    fn may_claim(&self, moment: &Moment) -> bool {
        moment.nonces < self.claims_max
    }

    fn acts_of_caller(&self, moment: &Moment, who: usize, acts: &mut Vec<Act>) {
        let Caller { at, mark, step } = moment.callers[who];
        let owns = moment.shelf.entry.is_some_and(|entry| entry.mark == mark);
        match at {
            At::Start => {
                let answered = matches!(
                    moment.shelf.entry,
                    Some(Entry { phase: Phase::Done(_) | Phase::Held, .. })
                );
                let busy = self.design.mistake != Some(Mistake::CheckThenAct)
                    && matches!(
                        moment.shelf.entry,
                        Some(Entry { phase: Phase::Running(true), .. })
                    );
                if answered || (!busy && self.may_claim(moment)) {
                    acts.push(Act::Claim(who, true));
                    if moment.lost_answers > 0 && !answered {
                        acts.push(Act::Claim(who, false));
                    }
                }
            }
            At::Unheard(_) => acts.push(Act::Claim(who, true)),
            At::Claimed => {
                let checks = self.design.mistake == Some(Mistake::LeaseCheck);
                acts.push(if checks { Act::Check(who) } else { Act::Apply(who) });
                if step == 0 && self.design.mistake.is_none() {
                    acts.push(Act::NotApplied(who));
                }
            }
            At::Checked => acts.push(Act::Apply(who)),
            At::Sent => acts.push(Act::TimeOut(who)),
            At::Done => acts.push(Act::Complete(who)),
            At::Late => acts.push(Act::Read(who)),
            At::Completed => acts.push(Act::Answer(who)),
            At::Answered(_) | At::ToldUnknown => return,
        }
        let holds = matches!(at, At::Claimed | At::Checked | At::Sent | At::Done);
        let silent = matches!(moment.shelf.entry, Some(Entry { phase: Phase::Running(false), .. }));
        if holds && owns && silent {
            acts.push(Act::Renew(who));
        }
        if moment.crashes > 0 && at != At::Start {
            acts.push(Act::Crash(who));
        }
    }

    fn take_over(&self, moment: &mut Moment) -> Option<()> {
        moment.nonces += 1;
        let (nonce, decision) = (moment.nonces, Some(Decision::Release));
        match moment.shelf.claim(nonce, self.effect(), decision, LOST_MAX) {
            Got::Acquired(mark, _) => moment.operator = Some(mark),
            _ => return None,
        }
        Some(())
    }

    fn decide(&self, moment: &mut Moment) {
        let Some(mark) = moment.operator.take() else { return };
        let last = self.design.steps - 1;
        if moment.has(last) {
            moment.shelf.complete(mark, self.effect());
        } else {
            moment.shelf.release(mark, false, self.effect());
        }
    }
}

/// The mode in which everything is held.
pub const HOLD: Effect = Effect::Foreign(OnUnknown::Hold);
/// The mode in which everything is run again.
pub const RETRY: Effect = Effect::Foreign(OnUnknown::Retry);
