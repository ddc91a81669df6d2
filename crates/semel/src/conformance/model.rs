//! A reference machine of the protocol, as small as it can be, and a driver that runs the same
//! moves on it and on a store.
//!
//! It is written from the description of a record's life, not from [`protocol`](crate::protocol):
//! no code is shared, so that a mistake in one shows as a difference to the other. Time is counted
//! in units of [`Harness::unit`].
//!
//! Moves come from bytes, so that any property tester can make and shrink them:
//!
//! ```text
//! proptest: vec(any::<[u8; 3]>(), 0..60) → Move::decode → model::agree(harness, moves)
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Harness;
use super::kit::{Kit, nonce, outcome, payload};
use crate::effect::{Effect, OnUnknown};
use crate::error::ErrorKind;
use crate::fence::{Fence, Nonce};
use crate::record::{HoldCause, State, Step};
use crate::scope::RecordId;
use crate::store::{Action, ClaimRequest, Claimed, ReleaseVerdict, Takeover};

const LEASE: u64 = 10;
const RETENTION: u64 = 100;
const LOST_LEASES_MAX: u32 = 3;

/// One call to the store, or time that passes. Small numbers name keys, payloads and claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// A new claim.
    Claim {
        /// One of three keys.
        key: u8,
        /// One of two payloads.
        payload: u8,
        /// [`OnUnknown::Hold`] or [`OnUnknown::Retry`].
        hold: bool,
    },
    /// Completion by the nth claim ever made.
    Complete {
        /// Which claim.
        claim: u8,
    },
    /// Time.
    Elapse {
        /// How many units.
        units: u8,
    },
    /// A renewal by the nth claim, with a step.
    Renew {
        /// Which claim.
        claim: u8,
        /// A step to store, or none.
        step: Option<u8>,
    },
    /// The nth claim once more, with its nonce.
    Repeat {
        /// Which claim.
        claim: u8,
    },
    /// Release by the nth claim.
    Release {
        /// Which claim.
        claim: u8,
        /// Proven that nothing happened, or unknown.
        applied_maybe: bool,
    },
    /// Expired records are deleted.
    Sweep,
    /// An operator's claim.
    TakeOver {
        /// One of three keys.
        key: u8,
        /// For what.
        action: Action,
    },
}

impl Move {
    /// Any three bytes are a move.
    #[must_use]
    pub fn decode([kind, one, two]: [u8; 3]) -> Self {
        let key = one % 3;
        match kind % 16 {
            0..=4 => Self::Claim { key, payload: u8::from(two % 5 == 0), hold: two % 2 == 0 },
            5 | 6 => Self::Complete { claim: one },
            7 | 8 => Self::Renew { claim: one, step: (two % 3 > 0).then_some(two % 3) },
            9 | 10 => Self::Release { claim: one, applied_maybe: two % 2 == 0 },
            11 | 12 => Self::Elapse { units: [1, 4, 9, 11, 50, 101][usize::from(one % 6)] },
            13 => Self::Repeat { claim: one },
            14 => Self::Sweep,
            _ => {
                let actions = [Action::Complete, Action::Purge, Action::Release];
                Self::TakeOver { key, action: actions[usize::from(two % 3)] }
            }
        }
    }
}

/// What a move showed, in words that do not depend on counters and clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Absent,
    Acquired { attempts: u32, steps: Vec<u8> },
    Completed { by: usize },
    Done,
    Held(HoldCause),
    InFlight,
    Lost,
    Mismatch,
}

/// The record as the model knows it.
#[derive(Clone, Debug)]
struct Entry {
    payload: u8,
    hold: bool,
    owner: usize,
    phase: Phase,
    steps: Vec<u8>,
    attempts: u32,
    silences: u32,
}

#[derive(Clone, Debug)]
enum Phase {
    Running { until: u64 },
    GivenUp,
    Held(HoldCause),
    Finished { by: usize, until: u64 },
}

#[derive(Debug, Default)]
struct Model {
    now: u64,
    entries: BTreeMap<u8, Entry>,
}

/// A claim that was sent, as both sides remember it.
struct Sent {
    key: u8,
    payload: u8,
    hold: bool,
    action: Option<Action>,
    nonce: Nonce,
    /// The fence, when it was acquired.
    fence: Option<Fence>,
}

impl Model {
    fn entry(&mut self, key: u8) -> Option<&mut Entry> {
        let now = self.now;
        self.entries
            .retain(|_, it| !matches!(it.phase, Phase::Finished { until, .. } if until <= now));
        self.entries.get_mut(&key)
    }

    /// `number` names the claim; `sent` is what it asks for.
    fn claim(&mut self, number: usize, sent: &Sent) -> Seen {
        let (now, until) = (self.now, self.now + LEASE);
        let Some(entry) = self.entry(sent.key) else {
            if sent.action.is_some() {
                return Seen::Absent;
            }
            let phase = Phase::Running { until };
            let (payload, hold) = (sent.payload, sent.hold);
            let entry = Entry {
                payload,
                hold,
                owner: number,
                phase,
                steps: vec![],
                attempts: 1,
                silences: 0,
            };
            self.entries.insert(sent.key, entry);
            return Seen::Acquired { attempts: 1, steps: vec![] };
        };
        let running = matches!(entry.phase, Phase::Running { .. });
        if entry.owner == number && running {
            entry.phase = Phase::Running { until };
            return entry.acquired();
        }
        if let Some(action) = sent.action {
            return entry.take_over(number, action, now);
        }
        if entry.payload != sent.payload {
            return Seen::Mismatch;
        }
        match entry.phase {
            Phase::Finished { by, .. } => return Seen::Completed { by },
            Phase::Held(cause) => return Seen::Held(cause),
            Phase::Running { until } if until > now => return Seen::InFlight,
            Phase::Running { .. } => {
                entry.silences += 1;
                let cause = if entry.hold || sent.hold {
                    Some(HoldCause::LeaseLost)
                } else {
                    (entry.silences >= LOST_LEASES_MAX).then_some(HoldCause::Poisoned)
                };
                if let Some(cause) = cause {
                    entry.phase = Phase::Held(cause);
                    return Seen::Held(cause);
                }
            }
            Phase::GivenUp if sent.hold => {
                entry.phase = Phase::Held(HoldCause::Reported);
                return Seen::Held(HoldCause::Reported);
            }
            Phase::GivenUp => {}
        }
        entry.hold = sent.hold;
        entry.owner = number;
        entry.attempts += 1;
        entry.phase = Phase::Running { until };
        entry.acquired()
    }

    /// The entry, if this claim owns it.
    fn owned(&mut self, number: usize, key: u8) -> Option<&mut Entry> {
        self.entry(key).filter(|entry| entry.owner == number)
    }

    fn renew(&mut self, number: usize, key: u8, step: Option<u8>) -> Seen {
        let renewed = self.now + LEASE;
        match self.owned(number, key) {
            Some(Entry { phase: Phase::Running { until }, steps, .. }) => {
                *until = renewed.max(*until);
                steps.extend(step.filter(|step| !steps.contains(step)));
                Seen::Done
            }
            _ => Seen::Lost,
        }
    }

    fn complete(&mut self, number: usize, key: u8) -> Seen {
        let until = self.now + RETENTION;
        match self.owned(number, key) {
            Some(Entry { phase: Phase::Finished { .. }, .. }) => Seen::Done,
            Some(entry @ Entry { phase: Phase::Held(_) | Phase::Running { .. }, .. }) => {
                entry.phase = Phase::Finished { by: number, until };
                entry.steps.clear();
                Seen::Done
            }
            _ => Seen::Lost,
        }
    }

    fn release(&mut self, number: usize, key: u8, applied_maybe: bool) -> Seen {
        match self.owned(number, key) {
            Some(Entry { phase: Phase::Held(_), .. }) if applied_maybe => Seen::Done,
            Some(entry @ Entry { phase: Phase::Running { .. }, .. }) if applied_maybe => {
                let held = Phase::Held(HoldCause::Reported);
                entry.phase = if entry.hold { held } else { Phase::GivenUp };
                entry.silences = 0;
                Seen::Done
            }
            Some(Entry { phase: Phase::Held(_) | Phase::Running { .. }, .. }) => {
                self.entries.remove(&key);
                Seen::Done
            }
            _ => Seen::Lost,
        }
    }
}

impl Entry {
    fn acquired(&self) -> Seen {
        Seen::Acquired { attempts: self.attempts, steps: self.steps.clone() }
    }

    fn take_over(&mut self, number: usize, action: Action, now: u64) -> Seen {
        let purge = action == Action::Purge;
        match self.phase {
            Phase::Finished { by, .. } if !purge => return Seen::Completed { by },
            Phase::Held(cause) if purge => return Seen::Held(cause),
            Phase::GivenUp if purge => return Seen::InFlight,
            Phase::Running { until } if purge || until > now => return Seen::InFlight,
            _ => {}
        }
        self.owner = number;
        self.phase = Phase::Running { until: now + LEASE };
        self.acquired()
    }

    fn name(&self) -> &'static str {
        match self.phase {
            Phase::Finished { .. } => "completed",
            Phase::GivenUp => "interrupted",
            Phase::Held(_) => "held",
            Phase::Running { .. } => "in-progress",
        }
    }
}

/// Runs the moves on the reference machine and on the store, and compares what both show after
/// each move.
///
/// # Errors
/// A sentence about the first difference, with the moves that led to it.
pub async fn agree(harness: &dyn Harness, moves: &[Move]) -> Result<(), String> {
    let kit = Kit::new(harness, "model");
    let mut pair = Pair { kit, model: Model::default(), sent: Vec::new(), highest: [0; 3] };
    for (index, step) in moves.iter().enumerate() {
        let told = match pair.play(*step).await {
            Ok(()) => pair.compare().await,
            Err(what) => Err(what),
        };
        told.map_err(|what| format!("{what}; after {:?}", &moves[..=index]))?;
    }
    Ok(())
}

struct Pair<'a> {
    kit: Kit<'a>,
    model: Model,
    sent: Vec<Sent>,
    highest: [u64; 3],
}

impl Pair<'_> {
    async fn play(&mut self, step: Move) -> Result<(), String> {
        let (expected, seen) = match step {
            Move::Claim { key, payload, hold } => {
                self.sent.push(Sent {
                    key,
                    payload,
                    hold,
                    action: None,
                    nonce: nonce(),
                    fence: None,
                });
                self.claim(self.sent.len() - 1).await?
            }
            Move::TakeOver { key, action } => {
                let action = Some(action);
                self.sent.push(Sent {
                    key,
                    payload: 9,
                    hold: true,
                    action,
                    nonce: nonce(),
                    fence: None,
                });
                self.claim(self.sent.len() - 1).await?
            }
            Move::Elapse { units } => {
                self.kit.elapse(u32::from(units)).await;
                self.model.now += u64::from(units);
                return Ok(());
            }
            Move::Sweep => {
                let swept = self.kit.store().sweep(1000).await;
                return swept.map(drop).map_err(|error| format!("sweep: {error}"));
            }
            Move::Repeat { claim } => match self.pick(claim) {
                Some(number) => self.claim(number).await?,
                None => return Ok(()),
            },
            Move::Complete { claim } | Move::Renew { claim, .. } | Move::Release { claim, .. } => {
                match self.pick(claim) {
                    Some(number) => self.write(number, step).await?,
                    None => return Ok(()),
                }
            }
        };
        if expected == seen {
            return Ok(());
        }
        Err(format!("{step:?}: the model expects {expected:?}, the store says {seen:?}"))
    }

    /// A claim that was acquired once, whatever became of it.
    fn pick(&self, claim: u8) -> Option<usize> {
        let acquired: Vec<_> =
            (0..self.sent.len()).filter(|&it| self.sent[it].fence.is_some()).collect();
        acquired.get(usize::from(claim) % acquired.len().max(1)).copied()
    }

    async fn claim(&mut self, number: usize) -> Result<(Seen, Seen), String> {
        let expected = self.model.claim(number, &self.sent[number]);
        let request = self.request(number);
        let claimed = self.kit.send(&request).await?;
        if let Claimed::Acquired { fence, .. } = &claimed {
            let sent = &mut self.sent[number];
            let highest = &mut self.highest[usize::from(sent.key)];
            if sent.fence.is_none_or(|known| known != *fence) {
                if fence.counter <= *highest || fence.nonce != sent.nonce {
                    return Err(format!("fence {fence} is not newer than counter {highest}"));
                }
                *highest = fence.counter;
                sent.fence = Some(*fence);
            }
        }
        Ok((expected, seen_of(claimed)))
    }

    fn request(&self, number: usize) -> ClaimRequest {
        let sent = &self.sent[number];
        let mut request = self.kit.request(&self.id(sent.key), effect(sent.hold));
        request.fingerprint = payload(&sent.payload.to_string());
        request.nonce = sent.nonce;
        request.lost_leases_max = LOST_LEASES_MAX;
        request.takeover = sent.action.map(|action| Takeover {
            action,
            actor: "model".to_owned(),
            reason: "a move".to_owned(),
        });
        request
    }

    async fn write(&mut self, number: usize, step: Move) -> Result<(Seen, Seen), String> {
        let key = self.sent[number].key;
        let id = self.id(key);
        let fence = self.sent[number].fence.ok_or("a claim without a fence")?;
        let (expected, answer) = match step {
            Move::Complete { .. } => {
                let answer = self.kit.complete(&id, fence, outcome_of(number)).await;
                (self.model.complete(number, key), answer.map(drop))
            }
            Move::Renew { step, .. } => {
                let stored = step.map(|step| Step {
                    name: step.to_string(),
                    result: Bytes::copy_from_slice(&[step]),
                });
                let answer = self.kit.renew(&id, fence, stored).await;
                (self.model.renew(number, key, step), answer.map(drop))
            }
            Move::Release { applied_maybe, .. } => {
                let verdict = if applied_maybe {
                    ReleaseVerdict::Unknown("a move".to_owned())
                } else {
                    ReleaseVerdict::NotApplied
                };
                let answer = self.kit.release(&id, fence, verdict).await;
                (self.model.release(number, key, applied_maybe), answer)
            }
            other => return Err(format!("{other:?} is no write")),
        };
        match answer {
            Ok(()) => Ok((expected, Seen::Done)),
            Err(error) if error.kind() == ErrorKind::ClaimLost => Ok((expected, Seen::Lost)),
            Err(error) => Err(format!("{step:?} failed: {error}")),
        }
    }

    /// Whatever the moves answered: the records must look the same as well.
    async fn compare(&mut self) -> Result<(), String> {
        for key in 0..3 {
            let record = self.kit.get(&self.id(key)).await?;
            let seen = record.map(|record| {
                let by = match &record.state {
                    State::Completed { outcome, .. } => Some(number_of(&outcome.body)),
                    _ => None,
                };
                let steps: Vec<_> = record.steps.iter().map(|step| step.result[0]).collect();
                (record.state.name(), by, steps, record.attempts, record.lost_leases)
            });
            let expected = self.model.entry(key).map(|entry| {
                let by = match entry.phase {
                    Phase::Finished { by, .. } => Some(by),
                    _ => None,
                };
                (entry.name(), by, entry.steps.clone(), entry.attempts, entry.silences)
            });
            if seen != expected {
                return Err(format!("key {key}: the model has {expected:?}, the store {seen:?}"));
            }
        }
        Ok(())
    }

    fn id(&self, key: u8) -> RecordId {
        self.kit.named(self.kit.tenant(), "model", &format!("key-{key}"))
    }
}

fn effect(hold: bool) -> Effect {
    Effect::Foreign(if hold { OnUnknown::Hold } else { OnUnknown::Retry })
}

fn outcome_of(number: usize) -> crate::outcome::Outcome {
    outcome(&(number as u64).to_be_bytes())
}

fn number_of(body: &[u8]) -> usize {
    body.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn seen_of(claimed: Claimed) -> Seen {
    match claimed {
        Claimed::Absent => Seen::Absent,
        Claimed::Acquired { attempts, steps, .. } => {
            Seen::Acquired { attempts, steps: steps.iter().map(|step| step.result[0]).collect() }
        }
        Claimed::Completed { outcome, .. } => Seen::Completed { by: number_of(&outcome.body) },
        Claimed::Held(hold) => Seen::Held(hold.cause),
        Claimed::InFlight { .. } => Seen::InFlight,
        // The model's keys carry no time, so no store may call them old.
        Claimed::Mismatch | Claimed::TooOld => Seen::Mismatch,
    }
}
