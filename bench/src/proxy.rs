//! Pass-through without a key: `semel proxy` against nginx, in processor time per request.
//!
//! Both stand before the same tiny upstream and get the same load in turns. Processor time per
//! request moves far less with the machine's other load than requests per second do.

mod child;
mod load;
mod redis;
mod round_trips;
mod targets;
mod upstream;

use std::path::Path;
use std::time::Duration;

use crate::cpu;
use crate::extent::Extent;
use crate::stats::{Bar, judge, median, range};
use crate::{Error, Verdict};

use load::Requests;
use targets::Target;

pub(crate) use redis::run as run_redis;
pub(crate) use upstream::run as run_upstream;

/// One measured run of one proxy.
struct Sample {
    cpu_us: f64,
    requests_per_second: f64,
}

/// Measures both in turns and prints the ratio.
pub(crate) fn run(extent: Extent) -> Result<Verdict, Error> {
    if let Some(missing) = missing() {
        println!("skipped: {missing}");
        return Ok(Verdict::Skipped);
    }
    let folder = tempfile::tempdir()?;
    let upstream = targets::upstream()?;
    let nginx = targets::nginx(folder.path(), upstream.port)?;
    let store = format!("sqlite:{}", folder.path().join("semel.db").display());
    let semel = targets::semel(folder.path(), upstream.port, &store, &[])?;
    let script = Requests::Plain.script(folder.path())?;
    for target in [&upstream, &nginx, &semel] {
        load::run(target.port, &script, Duration::from_secs(1))?;
    }
    let (mut of_nginx, mut of_semel) = (Vec::new(), Vec::new());
    for pair in 0..extent.pairs {
        // Who goes first alternates, so that a trend of the machine favours neither.
        let turns = if pair % 2 == 0 { [true, false] } else { [false, true] };
        for is_nginx in turns {
            let (target, samples) =
                if is_nginx { (&nginx, &mut of_nginx) } else { (&semel, &mut of_semel) };
            samples.push(sample(target, &script, extent.run)?);
        }
    }
    print_row("nginx", &of_nginx);
    print_row("semel proxy", &of_semel);
    // Each pair gives a ratio of its own: its two runs saw nearly the same machine.
    let pairs = of_semel.iter().zip(&of_nginx);
    let ratios: Vec<f64> = pairs.map(|(semel, nginx)| semel.cpu_us / nginx.cpu_us).collect();
    let (min, max) = range(&ratios);
    println!("semel / nginx in each pair: {min:.2} to {max:.2}");
    println!(
        "command: cargo xtask bench proxy ({} interleaved pairs of {} s, 64 connections, \
         POST 24 bytes, answer 39 bytes, two workers each)",
        extent.pairs,
        extent.run.as_secs()
    );
    let what = "semel / nginx, CPU per request, median of the pairs";
    Ok(judge(what, median(&ratios), Bar::AtMost(1.35), extent))
}

/// The first program that is not there.
fn missing() -> Option<String> {
    let missing = ["nginx", "wrk"].into_iter().find(|program| !child::is_there(program))?;
    Some(format!("{missing} is missing; apt-get install {missing}"))
}

fn sample(target: &Target, script: &Path, run: Duration) -> Result<Sample, Error> {
    let before = cpu::used(target.id)?;
    let requests = load::run(target.port, script, run)?;
    let used = cpu::used(target.id)?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    let requests = requests as f64;
    Ok(Sample {
        cpu_us: used.as_secs_f64() * 1e6 / requests,
        requests_per_second: requests / run.as_secs_f64(),
    })
}

fn print_row(name: &str, samples: &[Sample]) {
    let cpu: Vec<f64> = samples.iter().map(|sample| sample.cpu_us).collect();
    let rate: Vec<f64> = samples.iter().map(|sample| sample.requests_per_second).collect();
    let (min, max) = range(&cpu);
    println!(
        "{name:<12} {:6.2} µs CPU per request (median; {min:.2} to {max:.2}), {:.0} requests/s",
        median(&cpu),
        median(&rate)
    );
}
