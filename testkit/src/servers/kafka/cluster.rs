//! A cluster of Apache Kafka.

use super::brokers::Brokers;
use super::java::Java;
use super::version::KafkaVersion;
use super::{Error, Missing, jars};

const BROKERS: usize = 3;

/// Every record, offset and transaction is on three brokers, and on two before it counts.
const COPIED: [(&str, &str); 7] = [
    ("default.replication.factor", "3"),
    ("min.insync.replicas", "2"),
    ("offsets.topic.replication.factor", "3"),
    ("transaction.state.log.replication.factor", "3"),
    ("transaction.state.log.min.isr", "2"),
    ("share.coordinator.state.topic.replication.factor", "3"),
    ("share.coordinator.state.topic.min.isr", "2"),
];

/// Three brokers that are their own controllers (KRaft), of which one may be down. Topics have
/// three replicas, and a write needs two (`min.insync.replicas`). See
/// [`servers`](super::super) for what holds for all servers.
///
/// Brokers are numbered from 0, by Kafka too. One that is silent for three seconds is taken for
/// dead, and the others lead its partitions.
#[derive(Debug)]
pub struct KafkaCluster {
    java: Java,
    brokers: Brokers,
}

impl KafkaCluster {
    /// What is not there to start one of the newest version.
    #[must_use]
    pub fn missing() -> Option<Missing> {
        KafkaVersion::V4_3.missing()
    }

    /// Starts one of the newest version.
    ///
    /// # Errors
    ///
    /// When the jars cannot be fetched, or a broker does not answer, or they do not agree, within
    /// a minute.
    pub fn start() -> Result<Self, Error> {
        Self::with(&[])
    }

    /// Starts one whose brokers have these settings of `server.properties` on top.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with(settings: &[(&str, &str)]) -> Result<Self, Error> {
        Self::launch(KafkaVersion::V4_3, settings)
    }

    /// Starts one of this version.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_version(version: KafkaVersion) -> Result<Self, Error> {
        Self::launch(version, &[])
    }

    fn launch(version: KafkaVersion, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let java = jars::java(version)?;
        let brokers = Brokers::start(&java, BROKERS, &[&COPIED, settings].concat())?;
        Ok(Self { java, brokers })
    }

    /// How to reach it: `127.0.0.1:PORT` of each broker, with commas.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.brokers.bootstrap()
    }

    /// Where each broker is.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.brokers.addresses()
    }

    /// Makes a topic, through Kafka's own tool: it takes about a second. One that is there
    /// already is an error.
    ///
    /// # Errors
    ///
    /// When no broker can be reached or the cluster refuses.
    pub fn create_topic(&self, name: &str, partitions: u32) -> Result<(), Error> {
        self.java.create_topic(&self.bootstrap(), name, partitions)?;
        self.brokers.wait_for_topic(name, partitions)
    }

    /// What Kafka's own tool (`TopicCommand --describe`) says of a topic.
    ///
    /// # Errors
    ///
    /// When no broker can be reached or there is no such topic.
    pub fn describe_topic(&self, name: &str) -> Result<String, Error> {
        self.java.describe_topic(&self.bootstrap(), name)
    }

    /// The broker that leads a partition, as the first one that runs says.
    ///
    /// # Errors
    ///
    /// When no broker can be reached, or none leads it.
    pub fn leader(&self, topic: &str, partition: u32) -> Result<usize, Error> {
        self.brokers.leader(topic, partition)
    }

    /// Crashes one broker (`SIGKILL`). Nothing happens when it does not run.
    ///
    /// # Panics
    ///
    /// When there is no such broker; so do all that name one.
    pub fn kill_broker(&mut self, broker: usize) {
        self.brokers.kill(broker);
    }

    /// Starts a broker again in the same folder on the same ports, and waits until it answers.
    /// When it was the last that was down, waits until every replica has caught up; a frozen
    /// broker has to be thawed before that.
    ///
    /// The first of three that are all down cannot answer alone. It is started, and the call for
    /// the second waits for both.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_broker_again(&mut self, broker: usize) -> Result<(), Error> {
        self.brokers.start_again(broker)
    }

    /// Stops one broker where it is; its connections stay open.
    pub fn freeze_broker(&self, broker: usize) {
        self.brokers.freeze(broker);
    }

    /// Lets it go on.
    pub fn thaw_broker(&self, broker: usize) {
        self.brokers.thaw(broker);
    }
}
