//! What is checked: ways to use the protocol, right and wrong, under classes of faults.

use semel::{Effect, OnUnknown};

/// What the world does with an effect that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    /// Executes whatever comes.
    Anything,
    /// Refuses an effect whose fence is lower than one it has seen.
    Fence,
    /// Raises its fence at the claim and is read back, atomically, before executing.
    FenceQuery,
    /// Remembers the step key of every effect.
    Keys,
    /// Lives in the same database: effect and record commit together.
    Transaction,
}

/// A deviation from the protocol that looks harmless. The model must find what it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mistake {
    /// No claim at all: look, act, remember.
    CheckThenAct,
    /// The fence is the counter without its nonce.
    BareCounter,
    /// The caller looks at its lease right before it acts and relies on it.
    LeaseCheck,
    /// An operator looks at the sink and, if the effect is not there, frees the key.
    NaiveReconcile,
    /// A time-out frees the key, as if nothing had happened.
    ReleaseOnTimeout,
}

/// A way to use the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Design {
    /// The mode that the guard is given.
    pub effect: Effect,
    /// Where the effect lives.
    pub sink: Sink,
    /// Steps of the operation, each with an effect of its own.
    pub steps: u8,
    /// A deviation from the protocol.
    pub mistake: Option<Mistake>,
}

impl Design {
    /// A right use of the protocol with one effect.
    #[must_use]
    pub const fn right(effect: Effect) -> Self {
        let sink = match effect {
            Effect::FencedQuery => Sink::FenceQuery,
            Effect::Foreign(_) => Sink::Anything,
            Effect::Keyed => Sink::Keys,
            Effect::Transactional => Sink::Transaction,
        };
        Self { effect, sink, steps: 1, mistake: None }
    }

    /// The same with two steps.
    #[must_use]
    pub const fn two_steps(mut self) -> Self {
        self.steps = 2;
        self
    }

    /// The same with a mistake.
    #[must_use]
    pub const fn with(mut self, mistake: Mistake) -> Self {
        self.mistake = Some(mistake);
        self
    }

    /// The same with a sink of another kind.
    #[must_use]
    pub const fn into(mut self, sink: Sink) -> Self {
        self.sink = sink;
        self
    }
}

/// The modes of the guarantee table, in its order.
pub const MODES: [Effect; 5] = [
    Effect::Transactional,
    Effect::Keyed,
    Effect::FencedQuery,
    Effect::Foreign(OnUnknown::Retry),
    Effect::Foreign(OnUnknown::Hold),
];

/// What may go wrong in a run, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// Callers or operators that die between any two steps, or handlers that fail and cannot tell
    /// what they did.
    pub crashes: u8,
    /// A lease may run out while its owner lives (a pause, a slow network, a wrong clock).
    pub pauses: bool,
    /// Effects travel: their sender may give up before they arrive.
    pub delays: bool,
    /// Answers of the store to a claim that are lost on their way.
    pub lost_answers: u8,
    /// Times that the store forgets the record (expiry before the last retry, eviction, a purge by
    /// an operator).
    pub record_losses: u8,
    /// With the record, the store forgets its counter.
    pub counter_resets: bool,
    /// The store does not forget all of it but goes back to what a replica knew: an older state of
    /// the record, an older counter, and with them the effects in the same database.
    pub failover: bool,
}

impl Faults {
    /// Nothing but concurrency.
    pub const NONE: Self = Self {
        crashes: 0,
        pauses: false,
        delays: false,
        lost_answers: 0,
        record_losses: 0,
        counter_resets: false,
        failover: false,
    };
    /// Processes die.
    pub const CRASH: Self = Self { crashes: 2, lost_answers: 1, ..Self::NONE };
    /// Processes die, freeze, and their messages arrive late.
    pub const ALL_ALIVE: Self =
        Self { crashes: 2, pauses: true, delays: true, lost_answers: 1, ..Self::NONE };
    /// All of that, and the store forgets a record.
    pub const RECORD_LOST: Self = Self { record_losses: 1, ..Self::ALL_ALIVE };
    /// All of that, and the store forgets its counter with the record.
    pub const COUNTER_LOST: Self = Self { counter_resets: true, ..Self::RECORD_LOST };
    /// Processes die and freeze, and a failover goes back to a replica that lagged behind.
    pub const FAILOVER: Self = Self {
        crashes: 1,
        pauses: true,
        lost_answers: 1,
        record_losses: 1,
        failover: true,
        ..Self::NONE
    };
}
