//! What brokers, topics and a group look like from outside, for diagnosis.

mod ask;
mod witness;

use std::collections::BTreeMap;
use std::time::Duration;

use semel::Clock;

use super::KafkaLog;
use crate::log::{Bounds, LogError};

/// The topics in which Kafka keeps positions of groups, and what became of transactions.
const OWN_TOPICS: [&str; 2] = ["__consumer_offsets", "__transaction_state"];

/// Settings by their names. Those that a broker keeps for itself (passwords) are not among them.
pub type KafkaSettings = BTreeMap<String, String>;

/// What brokers, topics and a group look like from outside; see [`KafkaLog::facts`].
#[derive(Debug)]
pub struct KafkaFacts {
    /// The brokers that the cluster has now, in the order of their numbers.
    pub brokers: Vec<KafkaBroker>,
    /// One question and its answer over a connection that is there already.
    pub round_trip: Duration,
    /// The topics that were asked for and exist.
    pub topics: Vec<KafkaTopic>,
    /// The topics that were asked for and do not exist, or may not be seen.
    pub unknown_topics: Vec<String>,
    /// The topics in which Kafka keeps positions of groups and what became of transactions, as far
    /// as they exist: the first group and the first transaction make them.
    pub own_topics: Vec<KafkaTopic>,
    /// The group; `None` when no broker knows it.
    pub group: Result<Option<KafkaGroup>, LogError>,
    /// How long it was watched whether open transactions end. Zero when there were none.
    pub observed: Duration,
}

/// One broker.
#[derive(Debug)]
pub struct KafkaBroker {
    /// Its number.
    pub id: i32,
    /// Where clients find it: host and port.
    pub address: String,
    /// Its settings, defaults included.
    pub settings: Result<KafkaSettings, LogError>,
}

/// One topic.
#[derive(Debug)]
pub struct KafkaTopic {
    /// Its name.
    pub name: String,
    /// Its partitions, in the order of their numbers.
    pub partitions: Vec<KafkaPartition>,
    /// Its settings, with those that it has from the brokers.
    pub settings: Result<KafkaSettings, LogError>,
}

/// One partition.
#[derive(Clone, Debug, Default)]
pub struct KafkaPartition {
    /// Its number.
    pub id: i32,
    /// The broker that leads it; `None` when nobody does.
    pub leader: Option<i32>,
    /// How many brokers shall have it.
    pub replicas: usize,
    /// How many of them have everything.
    pub in_sync: usize,
    /// The position that the group has committed.
    pub committed: Option<i64>,
    /// Where it began and ended at first; `None` when its leader did not say.
    pub first: Option<Bounds>,
    /// Where it began and ended after [`KafkaFacts::observed`].
    pub last: Option<Bounds>,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaGroup {
    /// What it does: `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`; `Dead` when
    /// it cannot be described, as those cannot whose members the brokers assign (KIP-848).
    pub state: String,
    /// How its members share partitions, where they have agreed on something.
    pub assignor: String,
    /// Its members.
    pub members: Vec<KafkaMember>,
}

/// One member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaMember {
    /// What it calls itself (`client.id`).
    pub client: String,
    /// Where it is.
    pub host: String,
}

impl KafkaLog {
    /// Looks at the brokers, at a group and at the topics that it reads; with no topics given at
    /// those in which it has committed a position. Changes nothing and joins nothing.
    ///
    /// Where a transaction is open, it looks once more after `observe`: one that does not end
    /// hides everything behind it.
    ///
    /// # Errors
    ///
    /// When no broker answers. What a broker refuses to tell is an error in its place in
    /// [`KafkaFacts`].
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use semel::SystemClock;
    /// use semel_kafka::KafkaLog;
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let kafka = KafkaLog::connect("kafka:9092")?;
    /// let facts = kafka.facts("shop", &[], Duration::from_secs(2), &SystemClock).await?;
    /// for topic in &facts.topics {
    ///     println!("{} has {} partitions", topic.name, topic.partitions.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn facts(
        &self,
        group: &str,
        topics: &[String],
        observe: Duration,
        clock: &dyn Clock,
    ) -> Result<KafkaFacts, LogError> {
        let mut facts = ask::overview(self, group, topics).await?;
        ask::settings(self, &mut facts).await;
        let partitions = || facts.topics.iter().flat_map(|it| &it.partitions);
        let is_open = |bounds: Bounds| bounds.stable < bounds.high;
        if partitions().any(|it| it.first.is_some_and(is_open)) {
            clock.sleep(observe).await;
            facts.observed = observe;
        }
        ask::bounds_again(self, &mut facts).await?;
        Ok(facts)
    }
}
