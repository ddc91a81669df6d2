//! The world around the protocol: callers, an operator, a sink, a network, and what goes wrong.

mod decisions;
mod effects;

use std::collections::BTreeSet;

use semel::store::Action as Decision;
use semel::{Effect, OnUnknown};
use stateright::{Model, Property};

use crate::design::{Design, Faults, Mistake};
use crate::record::{Entry, Got, Mark, Phase, Shelf};

/// How many leases may be lost before a record is held. Above what a run can reach, so that the
/// poison cap does not hide what the mode itself promises.
const LOST_MAX: u32 = 100;

const NOBODY: Mark = Mark { counter: 0, nonce: 0 };

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
    /// Callers are alike, so moments that differ only in who is who count as one. A caller's
    /// number in a path then names it for one moment only.
    pub folded: bool,
}

/// Everything there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Moment {
    shelf: Shelf,
    /// The sink: the effects it executed, in order, and its fence.
    applied: Vec<(u8, Mark)>,
    sink_fence: Mark,
    /// Effects on their way: (step, claim).
    network: BTreeSet<(u8, Mark)>,
    callers: Vec<Caller>,
    operator: Option<Operator>,
    nonces: u8,
    crashes: u8,
    lost_answers: u8,
    losses: u8,
    /// What a replica that lags behind still knows.
    replica: Option<Replica>,
    /// The highest number of steps that was ever stored as finished.
    finished: u8,
    repeated: bool,
    overwritten: bool,
}

/// The past to which a failover goes back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Replica {
    shelf: Shelf,
    /// Effects in the same database.
    applied: Vec<(u8, Mark)>,
    finished: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Caller {
    at: At,
    mark: Mark,
    step: u8,
}

/// Somebody who has taken the record over and has not decided yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Operator {
    mark: Mark,
    /// Wants to forget a finished outcome, instead of resolving an unknown one.
    purges: bool,
}

/// Where a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    Deliver(u8, Mark),
    /// A lease runs out.
    Expire,
    /// A handler fails and cannot tell what it did.
    Fail(usize),
    /// The replica hears nothing any more.
    Lag,
    /// The store forgets.
    Lose,
    /// A caller proves that its attempt did nothing.
    NotApplied(usize),
    /// A late caller reads the record.
    Read(usize),
    /// A heartbeat. A caller whose heartbeat is refused stops.
    Renew(usize),
    /// The operator takes the record over, to resolve it or to purge it.
    TakeOver(Decision),
    /// A caller gives up waiting for its sink.
    TimeOut(usize),
}

impl World {
    fn effect(&self) -> Effect {
        self.design.effect
    }

    /// `None` when nothing comes of it.
    fn claim(&self, moment: &mut Moment, who: usize, heard: bool) -> Option<()> {
        let nonce = match moment.callers[who].at {
            At::Unheard(nonce) => nonce,
            _ => moment.nonces + 1,
        };
        moment.nonces = moment.nonces.max(nonce);
        if self.design.mistake == Some(Mistake::CheckThenAct) {
            moment.look_then_act(who, nonce);
            return Some(());
        }
        let got = moment.shelf.claim(nonce, self.effect(), None, LOST_MAX);
        if !heard {
            moment.callers[who].at = At::Unheard(nonce);
            return (got != Got::Busy).then_some(());
        }
        match got {
            Got::Acquired(mark, step) => {
                moment.callers[who] = Caller { at: At::Claimed, mark, step };
                self.ask_sink(moment, who);
            }
            Got::Busy if moment.callers[who].at == At::Start => return None,
            Got::Busy => moment.callers[who].at = At::Start,
            Got::Done(by) => moment.callers[who].at = At::Answered(by),
            Got::Held => moment.callers[who].at = At::ToldUnknown,
        }
        Some(())
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

    /// Forgets what nothing asks for any more, so that equal moments look equal.
    fn settle(&mut self, folded: bool) {
        for caller in &mut self.callers {
            if !matches!(caller.at, At::Claimed | At::Checked | At::Sent | At::Done)
                && !matches!(caller.at, At::Completed | At::Late)
            {
                *caller = Caller { mark: NOBODY, step: 0, ..*caller };
            }
        }
        if folded {
            self.callers.sort_unstable();
        }
    }

    fn owner_lives(&self, entry: &Entry) -> bool {
        let active = |at| !matches!(at, At::Start | At::Answered(_) | At::ToldUnknown);
        self.operator.is_some_and(|it| it.mark == entry.mark)
            || self.callers.iter().any(|it| {
                (it.mark == entry.mark && active(it.at)) || it.at == At::Unheard(entry.mark.nonce)
            })
    }
}

impl Model for World {
    type State = Moment;
    type Action = Act;

    fn init_states(&self) -> Vec<Moment> {
        let caller = Caller { at: At::Start, mark: NOBODY, step: 0 };
        vec![Moment {
            shelf: Shelf { entry: None, counter: 0, broken: false },
            applied: Vec::new(),
            sink_fence: NOBODY,
            network: BTreeSet::new(),
            callers: vec![caller; self.callers],
            operator: None,
            nonces: 0,
            crashes: self.faults.crashes,
            lost_answers: self.faults.lost_answers,
            losses: self.faults.record_losses,
            replica: None,
            finished: 0,
            repeated: false,
            overwritten: false,
        }]
    }

    fn actions(&self, moment: &Moment, acts: &mut Vec<Act>) {
        self.attempts(moment, acts);
        self.chances(moment, acts);
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
                self.claim(&mut moment, who, heard)?;
            }
            Act::Complete(who) => self.store(&mut moment, who),
            Act::Crash(who) => {
                moment.crashes -= 1;
                moment.callers[who].at = At::Start;
            }
            Act::CrashOperator => {
                moment.crashes -= 1;
                moment.operator = None;
            }
            Act::Decide => self.decide(&mut moment),
            Act::Deliver(step, mark) => {
                moment.network.remove(&(step, mark));
                self.arrive(&mut moment, step, mark);
            }
            Act::Expire => {
                if let Some(entry) = &mut moment.shelf.entry {
                    entry.phase = Phase::Running(false);
                }
            }
            Act::Fail(who) => {
                moment.crashes -= 1;
                self.give_up(&mut moment, who);
            }
            Act::Lag => self.lag(&mut moment),
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
                    moment.callers[who].at = At::Late;
                }
            }
            Act::TakeOver(decision) => self.take_over(&mut moment, decision)?,
            Act::TimeOut(who) => self.give_up(&mut moment, who),
        }
        moment.settle(self.folded);
        Some(moment)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("once", |world: &World, moment: &Moment| {
                (0..world.design.steps).all(|step| moment.times(step) <= 1)
            }),
            Property::always("not lost", |world: &World, moment: &Moment| {
                let mut acts = Vec::new();
                world.chances(moment, &mut acts);
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
            Property::always("never overwritten", |_, moment: &Moment| {
                !moment.overwritten && !moment.shelf.broken
            }),
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

    /// What the store must refuse, so that nothing comes of it.
    fn attempts(&self, moment: &Moment, acts: &mut Vec<Act>) {
        let Some(entry) = moment.shelf.entry else { return };
        if !self.may_claim(moment) {
            return;
        }
        if self.is_busy(moment) {
            let starts = |who: &usize| moment.callers[*who].at == At::Start;
            acts.extend((0..self.callers).filter(starts).map(|who| Act::Claim(who, true)));
        }
        if moment.operator.is_none() {
            if matches!(entry.phase, Phase::Done(_) | Phase::Running(true)) {
                acts.push(Act::TakeOver(Decision::Release));
            }
            if !matches!(entry.phase, Phase::Done(_)) {
                acts.push(Act::TakeOver(Decision::Purge));
            }
        }
    }

    fn is_busy(&self, moment: &Moment) -> bool {
        let running = |entry: Entry| entry.phase == Phase::Running(true);
        self.design.mistake != Some(Mistake::CheckThenAct)
            && moment.shelf.entry.is_some_and(running)
    }

    /// What may happen next.
    fn chances(&self, moment: &Moment, acts: &mut Vec<Act>) {
        for who in 0..self.callers {
            self.acts_of_caller(moment, who, acts);
        }
        acts.extend(moment.network.iter().map(|it| Act::Deliver(it.0, it.1)));
        if let Some(entry) = &moment.shelf.entry {
            let running = entry.phase == Phase::Running(true);
            if running && (self.faults.pauses || !moment.owner_lives(entry)) {
                acts.push(Act::Expire);
            }
            if moment.operator.is_none() && self.may_claim(moment) {
                match entry.phase {
                    Phase::Held | Phase::Interrupted | Phase::Running(false) => {
                        acts.push(Act::TakeOver(Decision::Release));
                    }
                    Phase::Done(_) if moment.losses > 0 && !self.faults.failover => {
                        acts.push(Act::TakeOver(Decision::Purge));
                    }
                    Phase::Done(_) | Phase::Running(true) => {}
                }
            }
            if moment.losses > 0 && !self.faults.failover {
                acts.push(Act::Lose);
            }
        }
        if moment.losses > 0 && self.faults.failover {
            let behind = moment.replica.as_ref().is_some_and(|it| it.shelf != moment.shelf);
            if behind {
                acts.push(Act::Lose);
            } else if moment.replica.is_none() {
                acts.push(Act::Lag);
            }
        }
        if let Some(operator) = moment.operator {
            if operator.purges || self.truth_is_known(moment) {
                acts.push(Act::Decide);
            }
            if moment.crashes > 0 {
                acts.push(Act::CrashOperator);
            }
        }
    }

    fn acts_of_caller(&self, moment: &Moment, who: usize, acts: &mut Vec<Act>) {
        let Caller { at, step, .. } = moment.callers[who];
        match at {
            At::Start => {
                let answered = matches!(
                    moment.shelf.entry,
                    Some(Entry { phase: Phase::Done(_) | Phase::Held, .. })
                );
                if answered || (!self.is_busy(moment) && self.may_claim(moment)) {
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
        if matches!(at, At::Claimed | At::Checked | At::Sent | At::Done) {
            if self.design.mistake != Some(Mistake::CheckThenAct) {
                acts.push(Act::Renew(who));
            }
            if moment.crashes > 0 {
                acts.push(Act::Fail(who));
            }
        }
        if moment.crashes > 0 && at != At::Start {
            acts.push(Act::Crash(who));
        }
    }
}

/// The mode in which everything is held.
pub const HOLD: Effect = Effect::Foreign(OnUnknown::Hold);
/// The mode in which everything is run again.
pub const RETRY: Effect = Effect::Foreign(OnUnknown::Retry);
