//! A durable write under a name of its own: does writing work, how long does it take, and what
//! time is it in the store?

use std::time::{Duration, Instant};

use semel::store::{ClaimRequest, Claimed, Release, ReleaseVerdict};
use semel::{
    Clock, Effect, Error, ErrorKind, FingerprintKey, Key, Nonce, OnUnknown, Operation, Random,
    RecordId, Store, SystemClock, SystemRandom, Tenant,
};

/// What the write showed.
#[derive(Debug)]
pub(crate) struct Probe {
    /// How long the claim took.
    pub(crate) took: Duration,
    /// How far the store's clock is from this machine's, either way.
    pub(crate) skew: Duration,
}

/// Claims a key that nobody has used and releases it again; nothing remains.
pub(crate) async fn write(store: &dyn Store) -> Result<Probe, Error> {
    let mut bytes = [0; 16];
    SystemRandom.fill(&mut bytes)?;
    let nonce = Nonce::from_bytes(bytes);
    let id = RecordId {
        tenant: Tenant::new("semel")?,
        operation: Operation::new("probe")?,
        key: Key::parse(&nonce.to_string())?,
    };
    let request = ClaimRequest {
        id: id.clone(),
        fingerprint: FingerprintKey::from_secret(&[0; 32])?.fingerprint().finish(),
        effect: Effect::Foreign(OnUnknown::Retry),
        nonce,
        lease: Duration::from_secs(60),
        lost_leases_max: 1,
        key_age_max: None,
        takeover: None,
    };
    let started = Instant::now();
    let Claimed::Acquired { fence, lease_until, .. } = store.claim(&request).await? else {
        let message = "the store refused to claim a key that nobody has used";
        return Err(Error::new(ErrorKind::Corrupt, message));
    };
    let took = started.elapsed();
    let expected = SystemClock.now().after(request.lease);
    let skew = lease_until.since(expected).max(expected.since(lease_until));
    let verdict = ReleaseVerdict::NotApplied;
    store.release(&Release { id, fence, verdict }).await?;
    Ok(Probe { took, skew })
}
