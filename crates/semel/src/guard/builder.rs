use std::sync::Arc;
use std::time::Duration;

use super::flight::Flights;
use super::{Guard, Shared};
use crate::clock::{Clock, SystemClock};
use crate::effect::Effect;
use crate::error::Error;
use crate::event::{NoObserver, Observer};
use crate::rng::{Random, SystemRandom};
use crate::scope::Operation;
use crate::settings::{Settings, Wait};
use crate::store::Store;

/// Marks a required argument that has not been given yet.
#[derive(Clone, Copy, Debug)]
pub struct Missing;

/// Builds a [`Guard`]. `O` and `E` tell whether operation and effect have been given.
#[derive(Debug)]
#[must_use]
pub struct GuardBuilder<O, E> {
    store: Arc<dyn Store>,
    operation: O,
    effect: E,
    settings: Settings,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    observer: Arc<dyn Observer>,
}

impl GuardBuilder<Missing, Missing> {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            operation: Missing,
            effect: Missing,
            settings: Settings::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            observer: Arc::new(NoObserver),
        }
    }
}

impl<E> GuardBuilder<Missing, E> {
    /// Says what is being done, as a stable name. Changing it forgets all records under it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), see [`Operation::new`].
    pub fn operation(self, name: &str) -> Result<GuardBuilder<Operation, E>, Error> {
        let operation = Operation::new(name)?;
        let Self { store, effect, settings, clock, random, observer, .. } = self;
        Ok(GuardBuilder { store, operation, effect, settings, clock, random, observer })
    }
}

impl<O> GuardBuilder<O, Missing> {
    /// Says where the effect lives, which decides what is promised.
    pub fn effect(self, effect: Effect) -> GuardBuilder<O, Effect> {
        let Self { store, operation, settings, clock, random, observer, .. } = self;
        GuardBuilder { store, operation, effect, settings, clock, random, observer }
    }
}

impl<O, E> GuardBuilder<O, E> {
    /// Replaces all settings.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets [`Settings::lease`].
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// Sets [`Settings::execution_max`].
    pub fn execution_max(mut self, execution_max: Duration) -> Self {
        self.settings.execution_max = execution_max;
        self
    }

    /// Sets [`Settings::retention`].
    pub fn retention(mut self, retention: Duration) -> Self {
        self.settings.retention = retention;
        self
    }

    /// Sets [`Settings::wait`].
    pub fn wait(mut self, wait: Wait) -> Self {
        self.settings.wait = wait;
        self
    }

    /// Paces heartbeats and waits with this clock instead of the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Draws nonces and jitter from this source instead of the machine's.
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Tells this observer what happens.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }
}

impl GuardBuilder<Operation, Effect> {
    /// Checks the settings against each other and builds the guard.
    ///
    /// # Errors
    /// [`ErrorKind::Settings`](crate::ErrorKind::Settings), see [`Settings::validate`].
    pub fn build(self) -> Result<Guard, Error> {
        self.settings.validate()?;
        let Self { store, operation, effect, settings, clock, random, observer } = self;
        let flights = Flights::default();
        let shared =
            Shared { store, operation, effect, settings, clock, random, observer, flights };
        Ok(Guard { shared: Arc::new(shared) })
    }
}
