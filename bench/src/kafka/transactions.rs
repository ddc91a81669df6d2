//! What a transaction costs beside its records: the same 20 records with and without one, through
//! the same adapter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use semel::{Clock, SystemClock};
use semel_kafka::log::{
    Log, LogProducer, Membership, Outgoing, Position, ProducerSettings, TopicPartition,
};
use semel_kafka::{KafkaLog, KafkaOptions};

use super::ground::{Ground, PAYLOAD};
use crate::extent::Extent;
use crate::stats::{Bar, judge, median};
use crate::{Error, Verdict};

const RECORDS: i32 = 20;

const PARTITIONS: i32 = 4;

const MILLIS_MAX: f64 = 2.0;

/// How long nothing happens between two transactions. The broker finishes one (its markers) only
/// after it has answered the commit.
const PAUSES_MS: [u64; 2] = [0, 10];

/// What librdkafka waits before it asks again to add partitions to a transaction while the broker
/// still finishes the last one (`CONCURRENT_TRANSACTIONS`). No setting changes it.
const BACKOFF: Duration = Duration::from_millis(20);

/// Means of one run, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Means {
    begin: f64,
    sends: f64,
    positions: f64,
    commit: f64,
    /// The percentage whose sends took that long or longer.
    backed_off: f64,
}

impl Means {
    fn whole(&self) -> f64 {
        self.begin + self.sends + self.positions + self.commit
    }
}

struct Way {
    producer: Arc<dyn LogProducer>,
    /// With which group's positions the transaction is committed; none without a transaction.
    group: Option<Membership>,
    topic: String,
}

impl Way {
    async fn make(log: &dyn Log, topic: &str, id: Option<String>) -> Result<Self, Error> {
        let group = id.as_deref().map(|id| log.outsider(id)).transpose()?;
        let settings = ProducerSettings { transactional_id: id, transaction_timeout: None };
        let producer = log.producer(&settings).await?;
        Ok(Self { producer, group, topic: topic.to_owned() })
    }

    /// One transaction, or only its records; when each step was over.
    async fn once(&self, number: i64) -> Result<[Duration; 4], Error> {
        let began = Instant::now();
        if self.group.is_some() {
            self.producer.begin().await?;
        }
        let begun = began.elapsed();
        let record = |number: i32| {
            let mut record = Outgoing::to(&*self.topic).value(PAYLOAD);
            record.partition = Some(number % PARTITIONS);
            self.producer.send(record)
        };
        try_join_all((0..RECORDS).map(record).collect::<Vec<_>>()).await?;
        let sent = began.elapsed();
        let Some(group) = &self.group else { return Ok([begun, sent, sent, sent]) };
        let partition = TopicPartition::new(&*self.topic, 0);
        self.producer.send_positions(vec![Position { partition, next: number }], group).await?;
        let placed = began.elapsed();
        self.producer.commit().await?;
        Ok([begun, sent, placed, began.elapsed()])
    }

    async fn means(&self, pause: Duration, time: Duration) -> Result<Means, Error> {
        let mut sums = [Duration::ZERO; 4];
        let (mut count, mut backed_off) = (0, 0);
        let began = Instant::now();
        while began.elapsed() < time {
            if !pause.is_zero() {
                SystemClock.sleep(pause).await;
            }
            count += 1;
            let ends = self.once(count).await?;
            backed_off += i64::from(ends[1] >= BACKOFF);
            sums.iter_mut().zip(ends).for_each(|(sum, end)| *sum += end);
        }
        let mean = |index: usize| sums[index].as_secs_f64() * 1e3 / count as f64;
        Ok(Means {
            begin: mean(0),
            sends: mean(1) - mean(0),
            positions: mean(2) - mean(1),
            commit: mean(3) - mean(2),
            backed_off: backed_off as f64 * 100.0 / count as f64,
        })
    }
}

pub(super) async fn run(ground: &Ground, extent: Extent) -> Result<Verdict, Error> {
    let (log, topic) = (ground.log()?, ground.topic(PARTITIONS).await?);
    let ours = Way::make(&*log, &topic, Some(ground.name("id"))).await?;
    let plain = Way::make(&*log, &topic, None).await?;
    let mut verdict = Verdict::Met;
    for pause in PAUSES_MS.map(Duration::from_millis) {
        // A Java machine is slow at first.
        ours.means(pause, extent.run).await?;
        plain.means(pause, extent.run).await?;
        let (mut our, mut their) = (Vec::new(), Vec::new());
        for pair in 0..extent.pairs {
            // Who goes first alternates, so that a trend of the machine favours neither.
            let turns = if pair % 2 == 0 { [true, false] } else { [false, true] };
            for is_ours in turns {
                let way = if is_ours { &ours } else { &plain };
                let means = way.means(pause, extent.run).await?;
                if is_ours { our.push(means) } else { their.push(means) }
            }
        }
        println!("{RECORDS} records over {PARTITIONS} partitions, {pause:?} after the last ones:");
        let overhead = print_row("transaction", &our) - print_row("plain sends", &their);
        let what = format!("transaction - plain sends, {pause:?} after the last one, ms");
        if judge(&what, overhead, Bar::AtMost(MILLIS_MAX), extent) == Verdict::Missed {
            verdict = Verdict::Missed;
        }
    }
    Ok(verdict)
}

/// Returns the median of the whole.
fn print_row(name: &str, samples: &[Means]) -> f64 {
    let of = |part: fn(&Means) -> f64| median(&samples.iter().map(part).collect::<Vec<_>>());
    let whole = of(Means::whole);
    println!(
        "{name:<12} {whole:>6.2} ms = begin {:.2} + sends {:.2} + positions {:.2} + commit {:.2}; \
         {:.0} % of the sends took {BACKOFF:?} or longer",
        of(|it| it.begin),
        of(|it| it.sends),
        of(|it| it.positions),
        of(|it| it.commit),
        of(|it| it.backed_off)
    );
    whole
}

/// The same transactions under other settings of librdkafka, to find out what they change.
pub(super) async fn run_settings(ground: &Ground, settings: &[&str]) -> Result<Verdict, Error> {
    let topic = ground.topic(PARTITIONS).await?;
    let time = Extent::FULL.run;
    for set in [""].iter().chain(settings) {
        let mut options = KafkaOptions::new(ground.bootstrap());
        for (name, value) in set.split(',').filter_map(|one| one.split_once('=')) {
            options = options.set(name, value);
        }
        let log = KafkaLog::with(options)?;
        let plain = Way::make(&log, &topic, None).await?;
        let ours = Way::make(&log, &topic, Some(ground.name("id"))).await?;
        for pause in [0, 1, 2, 5, 10, 20].map(Duration::from_millis) {
            plain.means(pause, time / 3).await?;
            print_row(&format!("plain {set} {pause:?}"), &[plain.means(pause, time).await?]);
            ours.means(pause, time / 3).await?;
            print_row(&format!("trans {set} {pause:?}"), &[ours.means(pause, time).await?]);
        }
    }
    Ok(Verdict::Met)
}
