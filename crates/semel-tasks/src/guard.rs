use semel::{Fingerprint, Guard, Key, Tenant};

use crate::heart::Heart;

/// Runs tasks under a [`Guard`], with the heartbeats on a [`Heart`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskGuard {
    pub(crate) guard: Guard,
    pub(crate) heart: Heart,
}

impl TaskGuard {
    /// Tasks under this guard, on a heart of their own.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self { guard, heart: Heart::new() }
    }

    /// Shares the thread of this heart. One heart is enough for a process.
    #[must_use]
    pub fn with_heart(mut self, heart: Heart) -> Self {
        self.heart = heart;
        self
    }

    /// The guard.
    #[must_use]
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The heart.
    #[must_use]
    pub fn heart(&self) -> &Heart {
        &self.heart
    }

    pub(crate) fn claim(&self, tenant: &Tenant, key: &Key, fingerprint: Fingerprint) -> Claim {
        let guard = self.guard.clone();
        Claim { guard, tenant: tenant.clone(), key: key.clone(), fingerprint }
    }
}

/// What is asked of the store, owned, because it is asked on another thread.
pub(crate) struct Claim {
    pub(crate) guard: Guard,
    pub(crate) tenant: Tenant,
    pub(crate) key: Key,
    pub(crate) fingerprint: Fingerprint,
}
