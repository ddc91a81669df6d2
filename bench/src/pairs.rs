//! The work of the stores' benchmarks: pairs of a claim and a completion with a 100-byte answer.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use semel::outcome::{Outcome, Verdict as Ended};
use semel::store::{ClaimRequest, Claimed, Completion};
use semel::{Effect, Fingerprint, Key, Nonce, OnUnknown, Operation, RecordId, Store, Tenant};

use crate::Error;

/// The bytes of an answer.
pub(crate) const BODY: &[u8] = &[b'x'; 100];

/// How long answers are kept.
pub(crate) const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Runs that many workers for that long; each does one pair after the other. Pairs a second.
pub(crate) async fn rate<F: Future<Output = Result<(), Error>>>(
    concurrent: usize,
    time: Duration,
    pair: impl Fn(u64) -> F,
) -> Result<f64, Error> {
    // Numbers go on from one run to the next, so that every key is new.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let done = AtomicU32::new(0);
    let started = Instant::now();
    let (pair, done) = (&pair, &done);
    try_join_all((0..concurrent).map(|_| async move {
        while started.elapsed() < time {
            pair(NEXT.fetch_add(1, Ordering::Relaxed)).await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<(), Error>(())
    }))
    .await?;
    Ok(f64::from(done.load(Ordering::Relaxed)) / started.elapsed().as_secs_f64())
}

/// The same on all threads of a runtime, for stores that are asked over a network. The pair also
/// learns which worker asks.
pub(crate) async fn rate_on_all_threads<F: Future<Output = Result<(), Error>> + Send + 'static>(
    concurrent: usize,
    time: Duration,
    pair: impl Fn(usize, u64) -> F + Send + Sync + 'static,
) -> Result<f64, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (pair, done) = (Arc::new(pair), Arc::new(AtomicU32::new(0)));
    let started = Instant::now();
    let workers = (0..concurrent).map(|worker| {
        let (pair, done) = (Arc::clone(&pair), Arc::clone(&done));
        tokio::spawn(async move {
            while started.elapsed() < time {
                pair(worker, NEXT.fetch_add(1, Ordering::Relaxed)).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), Error>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    Ok(f64::from(done.load(Ordering::Relaxed)) / started.elapsed().as_secs_f64())
}

/// The name of a pair's operation.
pub(crate) fn key(number: u64) -> String {
    // Like random keys: neighbours in time are none in the index.
    format!("{:016x}-order", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// One operation from its claim to its stored answer.
pub(crate) async fn pair(store: &impl Store, number: u64) -> Result<(), Error> {
    let id = RecordId {
        tenant: Tenant::single(),
        operation: Operation::new("bench")?,
        key: Key::parse(&key(number))?,
    };
    let request = ClaimRequest {
        id: id.clone(),
        fingerprint: Fingerprint::from_bytes([7; 32]),
        effect: Effect::Foreign(OnUnknown::Hold),
        nonce: Nonce::from_bytes(u128::from(number).to_le_bytes()),
        lease: Duration::from_secs(30),
        lost_leases_max: 3,
        key_age_max: None,
        takeover: None,
    };
    let Claimed::Acquired { fence, .. } = store.claim(&request).await? else {
        return Err("a new key must be free to claim".into());
    };
    let outcome = Outcome {
        verdict: Ended::Succeeded,
        format: "http/1".to_owned(),
        head: Bytes::from_static(b"201"),
        body: Bytes::from_static(BODY),
    };
    store.complete(&Completion { id, fence, outcome, retention: RETENTION }).await?;
    Ok(())
}
