//! A topic with numbered records, and where their effects go.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use semel_kafka::log::{Log, LogProducer, Outgoing, ProducerSettings, TopicPartition};
use semel_kafka::{GroupProtocol, KafkaLog, KafkaOptions, PostgresLedger};
use semel_testkit::servers::{Kafka, KafkaCluster, Postgres, skips};
use tempfile::TempDir;

use super::crew::Worker;
use super::job::{Class, Job, RETRY_SUFFIX};
use super::members::{self, Asker};
use super::outbox::Outbox;
use super::reader::Reader;
use super::sink::{self, Sink};

pub(crate) const PARTITIONS: i32 = 4;
pub(crate) const KEYS: u32 = 53;

/// Longer than anything may take, on a machine that is busy with other work.
const PATIENCE: Duration = Duration::from_secs(120);

/// What makes brokers give up on silent members and open transactions soon.
const IMPATIENCE: [(&str, &str); 6] = [
    ("group.min.session.timeout.ms", "1000"),
    ("group.consumer.min.session.timeout.ms", "1000"),
    ("group.consumer.session.timeout.ms", "3000"),
    ("group.consumer.min.heartbeat.interval.ms", "300"),
    ("group.consumer.heartbeat.interval.ms", "300"),
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500"),
];

/// Looks again and again until it is so.
pub(crate) async fn until(what: &str, look: impl AsyncFnMut() -> bool) {
    until_or(what, look, async || String::new()).await;
}

/// The same, and who knows how far it has come is asked when it takes too long.
async fn until_or(what: &str, mut look: impl AsyncFnMut() -> bool, tell: impl AsyncFn() -> String) {
    let start = Instant::now();
    while !look().await {
        if start.elapsed() >= PATIENCE {
            panic!("not after {PATIENCE:?}: {what}{}", tell().await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// A broker that gives up on silent members and open transactions soon.
pub(crate) fn broker() -> Option<Kafka> {
    broker_with(&[])
}

/// The same with more settings.
pub(crate) fn broker_with(more: &[(&str, &str)]) -> Option<Kafka> {
    let settings = [&IMPATIENCE, more].concat();
    (!skips(Kafka::missing())).then(|| Kafka::with(&settings).unwrap())
}

/// Three of that kind.
pub(crate) fn cluster() -> Option<KafkaCluster> {
    (!skips(KafkaCluster::missing())).then(|| KafkaCluster::with(&IMPATIENCE).unwrap())
}

/// A broker that several tests share; none of them may break it.
pub(crate) fn shared_broker() -> Option<String> {
    static BROKER: LazyLock<Option<Kafka>> = LazyLock::new(broker);
    BROKER.as_ref().map(Kafka::bootstrap)
}

/// The server that all tests share.
fn postgres() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    let start = || {
        if skips(Postgres::missing()) {
            return None;
        }
        let server = Postgres::start().unwrap();
        server.sql(sink::TABLE).unwrap();
        Some(server)
    };
    SERVER.get_or_init(start).as_ref()
}

/// Where numbers are written to.
enum Source {
    Topic(Arc<dyn LogProducer>),
    Outbox(Outbox),
}

/// A run of workers of one class.
pub(crate) struct Run {
    pub(crate) class: Class,
    pub(crate) name: String,
    bootstrap: String,
    address: String,
    pub(crate) sink: Sink,
    pub(crate) batch_max: usize,
    pub(crate) protocol: GroupProtocol,
    /// How many numbers were written.
    pub(crate) fed: u32,
    log: KafkaLog,
    source: Source,
    reader: Option<Arc<Reader>>,
    spawned: AtomicU32,
    _folder: TempDir,
}

impl Run {
    /// `None` where a server is not there.
    pub(crate) async fn new(bootstrap: &str, class: Class, name: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{}-{name}", class.name());
        for (topic, partitions) in [
            ("in", PARTITIONS),
            (&*format!("in{RETRY_SUFFIX}"), PARTITIONS),
            ("out", PARTITIONS),
            ("dead", 1),
        ] {
            create_topic(bootstrap, &format!("{name}-{topic}"), partitions).await;
        }
        let address = match class {
            Class::InboxPostgres | Class::RelayPostgres => postgres()?.url(),
            _ => folder.path().join("effects.db").to_str().unwrap().to_owned(),
        };
        let reader = class.writes_records().then(|| {
            let output = format!("{name}-out");
            Arc::new(Reader::start(bootstrap, &output, PARTITIONS, "read_committed"))
        });
        let sink = match (&reader, class) {
            (Some(reader), _) => Sink::Topic(Arc::clone(reader)),
            (None, Class::InboxPostgres) => {
                let (pool, run) = (sink::pool(&address), name.clone());
                PostgresLedger::new(pool.clone()).migrate().await.unwrap();
                Sink::Postgres { pool, run }
            }
            (None, _) => Sink::Sqlite(sink::open(&address)),
        };
        let options = KafkaOptions::new(bootstrap).set("reconnect.backoff.max.ms", "500");
        let log = KafkaLog::with(options).unwrap();
        let source = if class.is_relay() {
            Source::Outbox(Outbox::make(class, &address, &name).await)
        } else {
            Source::Topic(log.producer(&ProducerSettings::default()).await.unwrap())
        };
        Some(Self {
            class,
            name,
            bootstrap: bootstrap.to_owned(),
            address,
            sink,
            batch_max: 20,
            protocol: GroupProtocol::Classic,
            fed: 0,
            log,
            source,
            reader,
            spawned: AtomicU32::new(0),
            _folder: folder,
        })
    }

    /// Writes so many more numbers. Where ids are remembered, some are written twice.
    pub(crate) async fn feed(&mut self, count: u32) {
        let numbers = self.fed..self.fed + count;
        self.fed += count;
        let producer = match &mut self.source {
            Source::Outbox(outbox) => return outbox.write(numbers).await,
            Source::Topic(producer) => producer,
        };
        let repeated = numbers.clone().filter(|it| self.class.remembers_ids() && it % 50 == 7);
        let sends = numbers.chain(repeated).map(|number| {
            let record = Outgoing::to(format!("{}-in", self.name));
            let record = record.key((number % KEYS).to_string()).value(number.to_string());
            producer.send(record.header("id", format!("id-{number}")))
        });
        let sends: Vec<_> = sends.collect();
        for sent in join_all(sends).await {
            sent.unwrap();
        }
    }

    /// Starts a worker. Two of one slot must not work at once.
    pub(crate) fn worker(&self, slot: &str) -> Worker {
        self.worker_that_halts(slot, None)
    }

    pub(crate) fn worker_that_halts(&self, slot: &str, halt: Option<(&str, u32)>) -> Worker {
        let number = self.spawned.fetch_add(1, Ordering::Relaxed);
        Worker::spawn(Job {
            class: self.class,
            bootstrap: self.bootstrap.clone(),
            run: self.name.clone(),
            slot: slot.to_owned(),
            name: format!("{}-{slot}-{number}", self.name),
            sink: self.address.clone(),
            batch_max: self.batch_max,
            protocol: self.protocol,
            halt: halt.map(|(point, pass)| (point.to_owned(), pass)),
        })
    }

    /// Waits until the group knows a worker.
    pub(crate) async fn takes_in(&self, worker: &Worker) {
        let asker = Asker::new(&self.bootstrap, self.protocol);
        let what = format!("the group takes {} in", worker.job.name);
        until(&what, async || asker.has(&self.name, &worker.job.name) == Some(true)).await;
    }

    /// Waits until the group has given a worker up.
    pub(crate) async fn gives_up(&self, worker: &Worker) {
        let asker = Asker::new(&self.bootstrap, self.protocol);
        let what = format!("the group gives {} up", worker.job.name);
        until(&what, async || asker.has(&self.name, &worker.job.name) == Some(false)).await;
    }

    /// Waits until so many effects are there.
    pub(crate) async fn reaches(&self, goal: usize) {
        let what = format!("{}: {goal} effects", self.name);
        let look = async || self.sink.count().await >= goal;
        until_or(&what, look, async || self.state().await).await;
    }

    /// Waits until every number has taken effect.
    pub(crate) async fn finishes(&self) {
        let (what, all) = (format!("{}: {} effects", self.name, self.fed), self.fed as usize);
        let look = async || self.sink.count().await >= all && self.distinct().await == all;
        until_or(&what, look, async || self.state().await).await;
    }

    /// How far it has come.
    async fn state(&self) -> String {
        let mut told = format!("; there are {} of {}", self.sink.count().await, self.fed);
        for topic in ["in", "out"] {
            let topic = format!("{}-{topic}", self.name);
            let all: Vec<_> = (0..PARTITIONS).map(|it| TopicPartition::new(&*topic, it)).collect();
            let positions = self.log.committed(&self.name, &all).await;
            write!(told, "; the group is at {positions:?} of").unwrap();
            for partition in &all {
                let bounds = self.log.bounds(partition).await;
                write!(told, " {partition}: {bounds:?}").unwrap();
            }
        }
        told + &members::tell(&self.bootstrap, &self.name)
    }

    /// Waits until the group's positions are at the end.
    pub(crate) async fn is_read(&self) {
        let input = format!("{}-in", self.name);
        let all: Vec<_> = (0..PARTITIONS).map(|it| TopicPartition::new(&*input, it)).collect();
        let what = format!("{}: everything is read", self.name);
        until(&what, async || {
            let Ok(known) = self.log.committed(&self.name, &all).await else { return false };
            known.into_iter().flatten().sum::<i64>() == i64::from(self.fed)
        })
        .await;
    }

    /// Waits until no transaction is open in the output.
    pub(crate) async fn is_without_transactions(&self) {
        let output = format!("{}-out", self.name);
        for partition in 0..PARTITIONS {
            let partition = TopicPartition::new(&*output, partition);
            until("no transaction is open", async || {
                self.log.bounds(&partition).await.is_ok_and(|it| it.stable == it.high)
            })
            .await;
        }
    }

    async fn distinct(&self) -> usize {
        let mut numbers = self.sink.numbers().await;
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len()
    }

    pub(crate) async fn assert_once_and_in_order(&self) {
        let numbers = self.sink.numbers().await;
        let mut latest: BTreeMap<u32, u32> = BTreeMap::new();
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        let all: Vec<_> = (0..self.fed).collect();
        let twice: Vec<_> = sorted.windows(2).filter(|it| it[0] == it[1]).collect();
        assert!(twice.is_empty(), "{}: twice: {twice:?}", self.name);
        assert!(sorted == all, "{}: {} effects of {}", self.name, sorted.len(), all.len());
        for number in numbers {
            if let Some(latest) = latest.insert(number % KEYS, number) {
                assert!(latest < number, "{}: {number} after {latest}", self.name);
            }
        }
    }

    pub(crate) fn reader(&self) -> Option<&Arc<Reader>> {
        self.reader.as_ref()
    }

    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}

pub(crate) async fn create_topic(bootstrap: &str, name: &str, partitions: i32) {
    // As many copies as the brokers make unless they are told.
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let new = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    made.into_iter().next().unwrap().unwrap();
    // The controller has it; the broker may hear of it a moment later.
    let kafka = KafkaLog::connect(bootstrap).unwrap();
    until(name, async || kafka.partitions(name).await.unwrap() == Some(partitions)).await;
}
