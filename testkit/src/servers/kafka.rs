//! Apache Kafka: one broker, or a cluster of three.
//!
//! Its jars come through `mvn` the first time that a server of a version is started, and then lie
//! in `kafka` of cargo's target folder.

mod brokers;
mod cluster;
mod jars;
mod java;
mod metadata;
mod node;
mod version;

use std::path::Path;

use super::{Error, Missing, START_MAX, Waiting, wait_for};
use brokers::Brokers;
use java::Java;

pub use cluster::KafkaCluster;
pub use version::KafkaVersion;

/// Names the brokers of somebody else's Kafka, for [`Kafka::start`].
const GIVEN: &str = "SEMEL_TEST_KAFKA";

/// How much of a log an error shows.
const TROUBLE_LINES: usize = 12;

/// What a lone broker needs: nobody else can have a copy.
const ALONE: [(&str, &str); 7] = [
    ("default.replication.factor", "1"),
    ("min.insync.replicas", "1"),
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
];

/// One broker that answers and is its own controller (KRaft). See [`servers`](super) for what
/// holds for all servers.
///
/// Topics are made by name only, never by the first write. The broker takes three seconds to give
/// up on its former self after a crash, so [`start_again`](Self::start_again) takes longer than
/// [`start`](Self::start).
///
/// ```
/// use semel_testkit::servers::{Kafka, skips};
///
/// if !skips(Kafka::missing()) {
///     let kafka = Kafka::start()?;
///     kafka.create_topic("orders", 2)?;
///     assert!(kafka.describe_topic("orders")?.contains("PartitionCount: 2"));
///     assert!(kafka.describe_topic("bills").is_err());
/// }
/// # Ok::<(), semel_testkit::servers::Error>(())
/// ```
#[derive(Debug)]
pub struct Kafka {
    java: Java,
    server: Server,
}

#[derive(Debug)]
enum Server {
    Own(Brokers),
    /// Where somebody else's brokers are.
    Given(String),
}

impl Kafka {
    /// What is not there to start one of the newest version.
    #[must_use]
    pub fn missing() -> Option<Missing> {
        KafkaVersion::V4_3.missing()
    }

    /// Starts one of the newest version.
    ///
    /// When the environment variable `SEMEL_TEST_KAFKA` names brokers (`HOST:PORT`, with commas),
    /// it starts nothing and those are used, without TLS or a password. They can be neither killed
    /// nor frozen. Java is needed even so, for [`create_topic`](Self::create_topic).
    ///
    /// # Errors
    ///
    /// When the jars cannot be fetched, or it does not answer within a minute; the message holds
    /// the end of its log.
    pub fn start() -> Result<Self, Error> {
        match std::env::var(GIVEN) {
            Ok(bootstrap) => Self::given(bootstrap),
            Err(_) => Self::with(&[]),
        }
    }

    /// Starts one of the newest version with these settings of `server.properties` on top.
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
        let brokers = Brokers::start(&java, 1, &[&ALONE, settings].concat())?;
        Ok(Self { java, server: Server::Own(brokers) })
    }

    fn given(bootstrap: String) -> Result<Self, Error> {
        let java = jars::java(KafkaVersion::V4_3)?;
        let answers = |address| metadata::ask(address).map_err(Waiting::NotYet);
        for address in bootstrap.split(',') {
            wait_for(START_MAX, || answers(address).map(drop)).map_err(Error::of(GIVEN))?;
        }
        Ok(Self { java, server: Server::Given(bootstrap) })
    }

    /// How to reach it: `127.0.0.1:PORT`, or what `SEMEL_TEST_KAFKA` says.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        match &self.server {
            Server::Own(brokers) => brokers.bootstrap(),
            Server::Given(bootstrap) => bootstrap.clone(),
        }
    }

    /// Makes a topic, through Kafka's own tool: it takes about a second. One that is there
    /// already is an error.
    ///
    /// # Errors
    ///
    /// When the broker cannot be reached or refuses.
    pub fn create_topic(&self, name: &str, partitions: u32) -> Result<(), Error> {
        self.java.create_topic(&self.bootstrap(), name, partitions)?;
        match &self.server {
            Server::Own(brokers) => brokers.wait_for_topic(name, partitions),
            Server::Given(_) => Ok(()),
        }
    }

    /// What Kafka's own tool (`TopicCommand --describe`) says of a topic.
    ///
    /// # Errors
    ///
    /// When the broker cannot be reached or has no such topic.
    pub fn describe_topic(&self, name: &str) -> Result<String, Error> {
        self.java.describe_topic(&self.bootstrap(), name)
    }

    /// Crashes it (`SIGKILL`). Nothing happens when it does not run.
    ///
    /// # Errors
    ///
    /// When it is not ours: `SEMEL_TEST_KAFKA` is set. So do all that follow.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.own_mut()?.kill(0);
        Ok(())
    }

    /// Starts it again in the same folder on the same port, and waits until every partition has
    /// its leader again.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start) and [`kill`](Self::kill).
    pub fn start_again(&mut self) -> Result<(), Error> {
        self.own_mut()?.start_again(0)
    }

    /// Stops it where it is; its connections stay open.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub fn freeze(&self) -> Result<(), Error> {
        self.own()?.freeze(0);
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub fn thaw(&self) -> Result<(), Error> {
        self.own()?.thaw(0);
        Ok(())
    }

    fn own(&self) -> Result<&Brokers, Error> {
        match &self.server {
            Server::Own(brokers) => Ok(brokers),
            Server::Given(_) => Err(is_not_ours()),
        }
    }

    fn own_mut(&mut self) -> Result<&mut Brokers, Error> {
        match &mut self.server {
            Server::Own(brokers) => Ok(brokers),
            Server::Given(_) => Err(is_not_ours()),
        }
    }
}

fn is_not_ours() -> Error {
    Error::new(format!(
        "only a server that was started here can be killed or frozen, and this one is given by \
         {GIVEN}; use `Kafka::with`"
    ))
}

/// What went wrong, as the end of a log tells it: the last lines that are neither the usual talk
/// nor a trace of where in Java's code it was. Empty when nothing did.
fn trouble(log: &Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let is_usual = |line: &str| line.contains("] INFO ") || line.trim().is_empty();
    let is_trace = |line: &str| ["\tat ", "\t... "].iter().any(|start| line.starts_with(start));
    let telling = log.lines().filter(|line| !is_usual(line) && !is_trace(line));
    let mut lines: Vec<&str> = telling.rev().take(TROUBLE_LINES).chain([""]).collect();
    lines.reverse();
    lines.join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_without_the_usual_talk() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "[12:00] INFO All is well\n[12:01] ERROR No disk\n\tat Disk:7\n")
            .unwrap();
        assert_eq!(trouble(&log), "\n    [12:01] ERROR No disk");
        std::fs::write(&log, "[12:00] INFO All is well\n").unwrap();
        assert_eq!(trouble(&log), "");
        assert_eq!(trouble(&folder.path().join("none")), "");
    }
}
