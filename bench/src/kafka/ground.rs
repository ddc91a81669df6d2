//! A broker with topics, and when a consumer is done.

use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use semel_kafka::KafkaLog;
use semel_kafka::log::{Log, Outgoing, ProducerSettings};
use semel_testkit::servers::Kafka;
use tokio::sync::Notify;

use crate::Error;

/// How many records are written at once when a topic is filled.
const FILLED_AT_ONCE: u32 = 5_000;

pub(super) struct Ground {
    broker: Kafka,
    names: AtomicU32,
}

impl Ground {
    pub(super) fn start() -> Result<Self, Error> {
        Ok(Self { broker: Kafka::start()?, names: AtomicU32::new(0) })
    }

    pub(super) fn bootstrap(&self) -> String {
        self.broker.bootstrap()
    }

    pub(super) fn log(&self) -> Result<Arc<dyn Log>, Error> {
        Ok(Arc::new(KafkaLog::connect(self.bootstrap())?))
    }

    /// One that nobody has used before, not even on a broker that is given.
    pub(super) fn name(&self, what: &str) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        format!("bench-{what}-{}-{number}", std::process::id())
    }

    pub(super) async fn topic(&self, partitions: i32) -> Result<String, Error> {
        let name = self.name("topic");
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create()?;
        let new = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for made in admin.create_topics([&new], &AdminOptions::new()).await? {
            made.map_err(|(name, code)| format!("{name} cannot be made: {code}"))?;
        }
        // The controller has it; the broker may hear of it a moment later.
        let log = self.log()?;
        while log.partitions(&name).await? != Some(partitions) {}
        Ok(name)
    }

    /// A topic with these records.
    pub(super) async fn filled(
        &self,
        partitions: i32,
        count: u32,
        record: impl Fn(Outgoing, u32) -> Outgoing,
    ) -> Result<String, Error> {
        let topic = self.topic(partitions).await?;
        let producer = self.log()?.producer(&ProducerSettings::default()).await?;
        for from in (0..count).step_by(FILLED_AT_ONCE as usize) {
            let numbers = from..count.min(from + FILLED_AT_ONCE);
            let send = |number| producer.send(record(Outgoing::to(&*topic), number));
            try_join_all(numbers.map(send).collect::<Vec<_>>()).await?;
        }
        Ok(topic)
    }
}

/// The payload of every record.
pub(super) const PAYLOAD: &[u8] = &[b'x'; 100];

/// How far a consumer is. The clock runs from its first record, so joining a group is no part of
/// any figure.
#[derive(Debug)]
pub(super) struct Progress {
    goal: u32,
    done: AtomicU32,
    worked_us: AtomicU64,
    began: OnceLock<Instant>,
    ended: OnceLock<Duration>,
    first: Notify,
    last: Notify,
}

impl Progress {
    pub(super) fn to(goal: u32) -> Arc<Self> {
        Arc::new(Self {
            goal,
            done: AtomicU32::new(0),
            worked_us: AtomicU64::new(0),
            began: OnceLock::new(),
            ended: OnceLock::new(),
            first: Notify::new(),
            last: Notify::new(),
        })
    }

    /// A record begins.
    pub(super) fn begin(&self) {
        if self.began.get().is_none() && self.began.set(Instant::now()).is_ok() {
            self.first.notify_one();
        }
    }

    /// A record is done after so much work.
    pub(super) fn end(&self, worked: Duration) {
        let micros = u64::try_from(worked.as_micros()).unwrap_or(u64::MAX);
        self.worked_us.fetch_add(micros, Ordering::Relaxed);
        if self.done.fetch_add(1, Ordering::SeqCst) + 1 == self.goal {
            self.last.notify_one();
        }
    }

    /// Stops the clock, once.
    pub(super) fn stop(&self) {
        let began = self.began.get().copied().unwrap_or_else(Instant::now);
        self.ended.get_or_init(|| began.elapsed());
    }

    /// Completes after the last record. A batch consumer asks between transactions, so that the
    /// last one is committed when the clock is stopped.
    pub(super) async fn all(&self) {
        self.last.notified().await;
        self.stop();
    }

    /// Completes that long after the first record, or after the last one.
    pub(super) async fn all_within(&self, time: impl Future<Output = ()>) {
        let over = async {
            self.first.notified().await;
            time.await;
        };
        tokio::select! {
            () = self.last.notified() => {}
            () = over => {}
        }
        self.stop();
    }

    pub(super) fn goal(&self) -> u32 {
        self.goal
    }

    pub(super) fn count(&self) -> u32 {
        self.done.load(Ordering::SeqCst)
    }

    pub(super) fn seconds(&self) -> f64 {
        self.ended.get().map_or(f64::NAN, Duration::as_secs_f64)
    }

    /// Records a second.
    pub(super) fn rate(&self) -> f64 {
        f64::from(self.count()) / self.seconds()
    }

    /// All the work of all the records.
    pub(super) fn worked(&self) -> Duration {
        Duration::from_micros(self.worked_us.load(Ordering::Relaxed))
    }
}
