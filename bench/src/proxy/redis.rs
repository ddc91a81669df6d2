//! Requests with keys through `semel proxy` and a Redis: round trips, and rates against what
//! passes without a key, through `semel proxy` itself and through nginx.
//!
//! All requests are of one length and come from one script, so that the load costs the same.
//! What is judged is how many requests come out of the same processor time of all that takes part,
//! the load, the upstream and the Redis included: where all processors are busy, it decides the
//! rate, and it moves far less with the machine's other load. The rates stand beside it.

use std::path::Path;

use semel_testkit::servers::Redis;

use super::load::{self, REPLAYED_KEYS, Requests};
use super::round_trips::{self, Counts};
use super::targets::{self, Target};
use crate::extent::Extent;
use crate::stats::{Bar, judge, median, range};
use crate::{Error, Verdict, cpu};

/// A sweep would be counted as a round trip of a request.
const STORE_ALONE: [&str; 2] = ["--sweep", "1h"];
/// Remembers every replay for longer than this runs.
const CACHE: [&str; 6] =
    ["--sweep", "1h", "--replay-cache", "67108864", "--replay-cache-age", "1h"];

/// What is loaded, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Unkeyed,
    Fresh,
    Nginx,
    Replayed,
    Cached,
}

const COURSES: [Course; 5] =
    [Course::Unkeyed, Course::Fresh, Course::Replayed, Course::Nginx, Course::Cached];

struct Ground {
    folder: tempfile::TempDir,
    upstream: Target,
    nginx: Target,
    semel: Target,
    with_cache: Target,
    redis: Redis,
}

/// One measured run of one course.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    cpu_us: f64,
}

/// Counts, then measures all in turns, and prints the ratios.
pub(crate) fn run(extent: Extent) -> Result<Verdict, Error> {
    let missing = Redis::missing().map(|missing| missing.to_string()).or_else(super::missing);
    if let Some(missing) = missing {
        println!("skipped: {missing}");
        return Ok(Verdict::Skipped);
    }
    let ground = Ground::prepare()?;
    ground.count(extent.iterations.min(1_000))?;
    let mut samples = COURSES.map(|_| Vec::new());
    for pair in 0..extent.pairs {
        // The order alternates, so that a trend of the machine favours nobody.
        let mut turns: Vec<usize> = (0..COURSES.len()).collect();
        if pair % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            samples[turn].push(ground.sample(COURSES[turn], extent)?);
        }
    }
    let [unkeyed, fresh, replayed, nginx, cached] = &samples;
    for (course, samples) in COURSES.iter().zip(&samples) {
        print_row(*course, samples);
    }
    let verdicts = [
        compare("fresh keys / without a key", fresh, unkeyed, Some(Bar::AtLeast(0.55)), extent),
        compare("replays / nginx", replayed, nginx, Some(Bar::AtLeast(1.0)), extent),
        compare("replays from the cache / nginx", cached, nginx, None, extent),
    ];
    println!(
        "command: cargo xtask bench redis-proxy ({} interleaved rounds of {} s a run, 64 \
         connections, POST {} bytes, two workers each)",
        extent.pairs,
        extent.run.as_secs(),
        load::BODY.len()
    );
    let is_met = verdicts.iter().all(|it| *it == Verdict::Met);
    Ok(if is_met { Verdict::Met } else { Verdict::Missed })
}

impl Ground {
    fn prepare() -> Result<Self, Error> {
        let folder = tempfile::tempdir()?;
        let redis = Redis::start()?;
        let upstream = targets::upstream()?;
        let nginx = targets::nginx(folder.path(), upstream.port)?;
        let semel = |flags| targets::semel(folder.path(), upstream.port, &redis.url(), flags);
        let (semel, with_cache) = (semel(&STORE_ALONE)?, semel(&CACHE)?);
        let ground = Self { folder, upstream, nginx, semel, with_cache, redis };
        for course in COURSES {
            ground.warm(course)?;
        }
        Ok(ground)
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Until every key that is going to be replayed is there, and remembered.
    fn warm(&self, course: Course) -> Result<(), Error> {
        let (target, requests) = self.load_of(course);
        let due = if requests == Requests::Replayed { 2 * REPLAYED_KEYS } else { 1 };
        let mut time = Extent::SMOKE.run;
        // Each run begins with the first key.
        for _ in 0..6 {
            let script = requests.script(self.folder())?;
            if load::run(target.port, &script, time)? >= due {
                return Ok(());
            }
            time *= 2;
        }
        Err(format!("fewer than {due} requests in {} s", (time / 2).as_secs()).into())
    }

    /// # Errors
    /// When there are more or fewer round trips than there have to be.
    fn count(&self, requests: u64) -> Result<(), Error> {
        for (what, flags, again) in
            [("", &STORE_ALONE[..], requests), (" with the cache", &CACHE[..], 0)]
        {
            let found = round_trips::count(
                self.folder(),
                self.upstream.port,
                &self.redis,
                flags,
                requests,
            )?;
            let Counts { fresh, replayed, replayed_again } = found;
            println!(
                "round trips to the store{what}, {requests} keys: {fresh} fresh, {replayed} \
                 replayed, {replayed_again} replayed again"
            );
            let due = Counts { fresh: 2 * requests, replayed: requests, replayed_again: again };
            if found != due {
                return Err(format!("it has to be {due:?}").into());
            }
        }
        Ok(())
    }

    fn load_of(&self, course: Course) -> (&Target, Requests) {
        match course {
            Course::Unkeyed => (&self.semel, Requests::Unkeyed),
            Course::Fresh => (&self.semel, Requests::Fresh),
            Course::Nginx => (&self.nginx, Requests::Unkeyed),
            Course::Replayed => (&self.semel, Requests::Replayed),
            Course::Cached => (&self.with_cache, Requests::Replayed),
        }
    }

    fn sample(&self, course: Course, extent: Extent) -> Result<Sample, Error> {
        let (target, requests) = self.load_of(course);
        let script = requests.script(self.folder())?;
        let before = self.cpu()?;
        let sent = load::run(target.port, &script, extent.run)?;
        let used = self.cpu()?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
        let sent = sent as f64;
        Ok(Sample {
            rate: sent / extent.run.as_secs_f64(),
            cpu_us: used.as_secs_f64() * 1e6 / sent,
        })
    }

    /// All others are children of this process; nginx has children of its own.
    fn cpu(&self) -> Result<std::time::Duration, Error> {
        Ok(cpu::used(std::process::id())? + cpu::used(self.nginx.id)?)
    }
}

fn print_row(course: Course, samples: &[Sample]) {
    let name = match course {
        Course::Unkeyed => "semel proxy, no key",
        Course::Fresh => "semel proxy, fresh keys",
        Course::Nginx => "nginx",
        Course::Replayed => "semel proxy, replays",
        Course::Cached => "semel proxy, cached replays",
    };
    let rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
    let cpu: Vec<f64> = samples.iter().map(|sample| sample.cpu_us).collect();
    println!(
        "{name:<28} {:>7.0} requests/s, {:>6.1} µs CPU of all per request",
        median(&rates),
        median(&cpu)
    );
}

/// Each round gives a ratio of its own: its runs saw nearly the same machine.
fn compare(
    what: &str,
    ours: &[Sample],
    theirs: &[Sample],
    bar: Option<Bar>,
    extent: Extent,
) -> Verdict {
    let ratios = |of: fn(&Sample) -> f64| -> Vec<f64> {
        ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs)).collect()
    };
    let (rates, cpu) = (ratios(|sample| sample.rate), ratios(|sample| 1.0 / sample.cpu_us));
    let (min, max) = range(&rates);
    println!("{what}, rate: {:.2} (median of the rounds; {min:.2} to {max:.2})", median(&rates));
    let what = format!("{what}, requests for the same CPU, median of the rounds");
    match bar {
        Some(bar) => judge(&what, median(&cpu), bar, extent),
        None => {
            println!("{what}: {:.2} (no bar)", median(&cpu));
            Verdict::Met
        }
    }
}
