//! Durable claim + complete pairs of the SQLite store: group commit against one transaction per
//! operation.
//!
//! Same file layout, same operations, same `synchronous=FULL`; only how many operations may share
//! a commit differs. The files lie among the build products, because a temporary folder may be
//! memory and a commit to memory costs nothing.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use semel::outcome::{Outcome, Verdict as Ended};
use semel::store::{ClaimRequest, Claimed, Completion};
use semel::{Effect, Fingerprint, Key, Nonce, OnUnknown, Operation, RecordId, Store, Tenant};
use semel_stores::sqlite::SqliteOptions;

use crate::extent::Extent;
use crate::stats::{Bar, judge, median};
use crate::{Error, Verdict};

const CONCURRENT: usize = 256;

/// Measures both in turns and prints the ratio.
pub(crate) fn run(extent: Extent) -> Result<Verdict, Error> {
    let products = std::env::current_exe()?;
    let products = products.parent().ok_or("the program lies nowhere")?;
    let folder = tempfile::tempdir_in(products)?;
    let (mut grouped, mut single) = (Vec::new(), Vec::new());
    for pair in 0..extent.pairs {
        // Who goes first alternates, so that a trend of the machine favours neither.
        let turns = if pair % 2 == 0 { [true, false] } else { [false, true] };
        for is_grouped in turns {
            let path = folder.path().join(format!("{pair}-{is_grouped}.db"));
            let rate = pairs_per_second(&path, is_grouped, CONCURRENT, extent.run)?;
            if is_grouped { grouped.push(rate) } else { single.push(rate) }
        }
    }
    for concurrent in [1, 16] {
        let path = folder.path().join(format!("concurrent-{concurrent}.db"));
        let rate = pairs_per_second(&path, true, concurrent, extent.run)?;
        println!("group commit, {concurrent:>3} concurrent: {rate:>8.0} durable pairs/s");
    }
    let (grouped, single) = (median(&grouped), median(&single));
    println!("group commit, {CONCURRENT} concurrent: {grouped:>8.0} durable pairs/s");
    println!("one by one,   {CONCURRENT} concurrent: {single:>8.0} durable pairs/s");
    println!(
        "command: cargo xtask bench sqlite ({} interleaved pairs of {} s; a pair is a claim and \
         a completion with a 100-byte answer)",
        extent.pairs,
        extent.run.as_secs()
    );
    Ok(judge("group commit / one by one", grouped / single, Bar::AtLeast(5.0), extent))
}

/// Runs that many workers for that long on a new file.
fn pairs_per_second(
    path: &Path,
    is_grouped: bool,
    concurrent: usize,
    time: Duration,
) -> Result<f64, Error> {
    let options = SqliteOptions::default();
    let options = if is_grouped { options } else { options.group_max(1) };
    let store = options.open(path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (next, done) = (Cell::new(0), Cell::new(0_u32));
    let started = Instant::now();
    runtime.block_on(try_join_all((0..concurrent).map(|_| async {
        while started.elapsed() < time {
            next.set(next.get() + 1);
            pair(&store, next.get()).await?;
            done.set(done.get() + 1);
        }
        Ok::<(), Error>(())
    })))?;
    Ok(f64::from(done.get()) / started.elapsed().as_secs_f64())
}

/// One operation from its claim to its stored answer.
async fn pair(store: &impl Store, number: u128) -> Result<(), Error> {
    let id = RecordId {
        tenant: Tenant::single(),
        operation: Operation::new("bench")?,
        key: Key::parse(&format!("order-{number}"))?,
    };
    let request = ClaimRequest {
        id: id.clone(),
        fingerprint: Fingerprint::from_bytes([7; 32]),
        effect: Effect::Foreign(OnUnknown::Hold),
        nonce: Nonce::from_bytes(number.to_le_bytes()),
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
        body: Bytes::from_static(&[b'x'; 100]),
    };
    let retention = Duration::from_secs(24 * 3600);
    store.complete(&Completion { id, fence, outcome, retention }).await?;
    Ok(())
}
