//! Durable claim + complete pairs of the SQLite store: group commit against one transaction per
//! operation.
//!
//! Same file layout, same operations, same `synchronous=FULL`; only how many operations may share
//! a commit differs. The files lie among the build products, because a temporary folder may be
//! memory and a commit to memory costs nothing.

use std::path::Path;
use std::time::Duration;

use semel_stores::sqlite::SqliteOptions;

use crate::extent::Extent;
use crate::pairs;
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

/// The rate on a new file.
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
    runtime.block_on(pairs::rate(concurrent, time, |number| pairs::pair(&store, number)))
}
