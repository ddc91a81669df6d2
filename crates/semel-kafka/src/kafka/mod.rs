//! Apache Kafka through librdkafka.
//!
//! # What a transaction of librdkafka does not promise
//!
//! librdkafka speaks the first version of Kafka's transaction protocol. A request of a transaction
//! that was given up by its time-out may still be on its way and take effect in a later one. So a
//! producer whose call ended without a result is never used again; a new one of the same
//! transactional id gets a new epoch, which makes the late request harmless. Retries within
//! librdkafka cannot be seen from here.

mod consumer;
mod context;
mod convert;
mod facts;
mod fault;
mod options;
mod producer;
mod reader;
mod release;
mod rules;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use semel::BoxFuture;

pub use self::facts::{
    KafkaBroker, KafkaFacts, KafkaGroup, KafkaMember, KafkaPartition, KafkaSettings, KafkaTopic,
};
pub use self::options::{GroupProtocol, KafkaOptions};

use self::consumer::Member;
use self::context::Logs;
use self::options::refused;
use self::release::release;
use crate::log::{
    Bounds, ConsumerSettings, Log, LogConsumer, LogError, LogErrorKind, LogProducer, LogReader,
    Membership, ProducerSettings, TopicPartition,
};

type Asker = Arc<BaseConsumer<Logs>>;

/// Apache Kafka, 3.0 and later.
///
/// Needs a tokio runtime: what librdkafka only does by blocking runs on its blocking threads.
///
/// ```no_run
/// use semel_kafka::KafkaLog;
/// use semel_kafka::log::{Log, Outgoing, ProducerSettings};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let kafka = KafkaLog::connect("kafka:9092")?;
/// let producer = kafka.producer(&ProducerSettings::default()).await?;
/// let delivered = producer.send(Outgoing::to("orders").key("7").value("paid")).await?;
/// println!("{} at {}", delivered.partition, delivered.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KafkaLog {
    options: Arc<KafkaOptions>,
    askers: Arc<Askers>,
}

/// Clients that only ask; made when they are needed.
#[derive(Default)]
struct Askers {
    committed: Mutex<Option<Asker>>,
    uncommitted: Mutex<Option<Asker>>,
}

impl KafkaLog {
    /// Kafka at `host:port,host:port`, with the settings that exactly-once needs. Nothing is asked
    /// of the brokers yet.
    pub fn connect(bootstrap: impl Into<String>) -> Result<Self, LogError> {
        Self::with(KafkaOptions::new(bootstrap))
    }

    /// Kafka with more settings. Fails with [`LogErrorKind::Invalid`] when one of them is unknown
    /// or breaks a promise.
    pub fn with(options: KafkaOptions) -> Result<Self, LogError> {
        options.check()?;
        Ok(Self { options: Arc::new(options), askers: Arc::default() })
    }

    /// Asks the brokers something on a thread that may block.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self, Duration) -> Result<T, LogError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, LogError>> {
        let log = self.clone();
        Box::pin(async move {
            let time = log.options.request_max;
            let asked = tokio::task::spawn_blocking(move || question(&log, time)).await;
            asked.unwrap_or_else(|_| {
                let message = "the runtime stopped before the brokers had answered";
                Err(LogError::new(LogErrorKind::Unavailable, message))
            })
        })
    }

    fn asker(&self, isolation: &str) -> Result<Asker, LogError> {
        let slot = match isolation {
            "read_committed" => &self.askers.committed,
            _ => &self.askers.uncommitted,
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = &*slot {
            // Its log and its errors; nobody else takes them out.
            while asker.poll(Duration::ZERO).is_some() {}
            return Ok(Arc::clone(asker));
        }
        let config = self.options.asker(isolation)?;
        let asker: Asker =
            Arc::new(config.create_with_context(Logs).map_err(|error| refused(&error))?);
        *slot = Some(Arc::clone(&asker));
        Ok(asker)
    }

    /// A client that has a group and does not join it.
    fn stranger(&self, group: &str) -> Result<BaseConsumer<Logs>, LogError> {
        let group = group.to_owned();
        let settings = ConsumerSettings::new(group, Vec::<String>::new());
        let config = self.options.consumer(&settings)?;
        config.create_with_context(Logs).map_err(|error| refused(&error))
    }

    fn bounds_now(&self, at: &TopicPartition, time: Duration) -> Result<Bounds, LogError> {
        convert::check_topic(&at.topic)?;
        let what = format!("tell the bounds of {at}");
        let edge = |isolation| {
            let asker = self.asker(isolation)?;
            let marks = asker.fetch_watermarks(&at.topic, at.partition, time);
            marks.map_err(|error| fault::plain(&what, error))
        };
        // In this order, so that `stable` is never beyond `high`.
        let (low, stable) = edge("read_committed")?;
        let (_, high) = edge("read_uncommitted")?;
        Ok(Bounds { low, stable, high })
    }
}

impl Log for KafkaLog {
    fn consumer(&self, settings: &ConsumerSettings) -> Result<Box<dyn LogConsumer>, LogError> {
        consumer::join(&self.options, settings)
    }

    fn reader(&self) -> Result<Box<dyn LogReader>, LogError> {
        reader::make(&self.options)
    }

    fn producer<'a>(
        &'a self,
        settings: &'a ProducerSettings,
    ) -> BoxFuture<'a, Result<Arc<dyn LogProducer>, LogError>> {
        Box::pin(producer::make(&self.options, settings))
    }

    fn partitions<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<i32>, LogError>> {
        let topic = topic.to_owned();
        self.ask(move |log, time| {
            convert::check_topic(&topic)?;
            let what = format!("tell the partitions of {topic}");
            let found = log.asker("read_committed")?.fetch_metadata(Some(&topic), time);
            let found = found.map_err(|error| fault::plain(&what, error))?;
            let Some(found) = found.topics().iter().find(|it| it.name() == topic) else {
                return Ok(None);
            };
            match found.error().map(RDKafkaErrorCode::from) {
                None => Ok(i32::try_from(found.partitions().len()).ok()),
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
                ) => Ok(None),
                Some(code) => {
                    let error = rdkafka::error::KafkaError::MetadataFetch(code);
                    Err(fault::plain(&what, error))
                }
            }
        })
    }

    fn bounds<'a>(
        &'a self,
        partition: &'a TopicPartition,
    ) -> BoxFuture<'a, Result<Bounds, LogError>> {
        let partition = partition.clone();
        self.ask(move |log, time| log.bounds_now(&partition, time))
    }

    fn committed<'a>(
        &'a self,
        group: &'a str,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<Vec<Option<i64>>, LogError>> {
        let (group, partitions) = (group.to_owned(), partitions.to_vec());
        self.ask(move |log, time| {
            let stranger = log.stranger(&group)?;
            let list = stranger.committed_offsets(convert::bare(&partitions)?, time);
            let what = format!("tell the committed positions of {group}");
            let list = list.map_err(|error| fault::plain(&what, error))?;
            convert::offsets(&list, &partitions)
        })
    }

    fn outsider(&self, group: &str) -> Result<Membership, LogError> {
        let stranger = self.stranger(group)?;
        let metadata = stranger.group_metadata();
        release(stranger);
        let none = || LogError::new(LogErrorKind::Invalid, "a group has a name; give it one");
        let metadata = Arc::new(metadata.ok_or_else(none)?);
        Ok(Membership::new(Member { metadata, desk: None }))
    }
}

/// Without the settings' values: one may be a secret.
impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog").field("options", &self.options).finish_non_exhaustive()
    }
}
