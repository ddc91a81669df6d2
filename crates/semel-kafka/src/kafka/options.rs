//! How Kafka is reached.

use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::rules;
use crate::log::{Begin, ConsumerSettings, LogError, LogErrorKind, ProducerSettings};

const TRANSACTION: Duration = Duration::from_secs(60);
const DELIVERY: Duration = Duration::from_secs(120);
/// In a transaction a record has to arrive before the transaction is over.
const DELIVERY_IN_TRANSACTION: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_secs(300);

/// How the members of a group share its partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupProtocol {
    /// The members compute the assignment. Which one says `partition.assignment.strategy`:
    /// `cooperative-sticky` here unless it is set, or `range`, `roundrobin`.
    #[default]
    Classic,
    /// The brokers compute the assignment (KIP-848); needs Kafka 4.0. Sessions and assignors are
    /// set up at the broker: `session.timeout.ms`, `heartbeat.interval.ms` and
    /// `partition.assignment.strategy` are refused.
    Consumer,
}

/// How Kafka is reached: settings of librdkafka on top of those that exactly-once needs.
///
/// Producers have `enable.idempotence=true`, `acks=all`, at most 5 requests in flight, and retry
/// until `delivery.timeout.ms` is over. Consumers have `isolation.level=read_committed` and commit
/// nothing by themselves. What contradicts that is refused by its name.
///
/// ```
/// use semel_kafka::{KafkaLog, KafkaOptions};
///
/// let options = KafkaOptions::new("kafka:9092").set("client.id", "shop");
/// assert!(KafkaLog::with(options).is_ok());
///
/// let options = KafkaOptions::new("kafka:9092").set("acks", "1");
/// let refused = KafkaLog::with(options).unwrap_err();
/// assert!(refused.to_string().starts_with("the setting `acks` cannot be `1`"));
/// ```
#[derive(Clone)]
pub struct KafkaOptions {
    bootstrap: String,
    settings: Vec<(String, String)>,
    protocol: GroupProtocol,
    pub(super) queued_max: usize,
    pub(super) queued_bytes_max: usize,
    pub(super) revoke_max: Option<Duration>,
    pub(super) request_max: Duration,
}

impl KafkaOptions {
    /// Options for the brokers that are found through these: `host:port,host:port`.
    #[must_use]
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            settings: Vec::new(),
            protocol: GroupProtocol::default(),
            queued_max: 1000,
            queued_bytes_max: 16 << 20,
            revoke_max: None,
            request_max: Duration::from_secs(30),
        }
    }

    /// Sets a property of librdkafka, under its name in librdkafka's `CONFIGURATION.md`. The last
    /// one wins, aliases included.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.settings.retain(|(it, _)| rules::canonical(it) != rules::canonical(&name));
        self.settings.push((name, value.into()));
        self
    }

    /// How the members of a group share its partitions. Default: [`GroupProtocol::Classic`].
    #[must_use]
    pub fn group_protocol(mut self, protocol: GroupProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// How many records a consumer keeps ready, and how many one event holds at most. When there
    /// are as many, it stops fetching and stays in its group. Default: 1,000.
    #[must_use]
    pub fn queued_max(mut self, queued_max: usize) -> Self {
        self.queued_max = queued_max;
        self
    }

    /// How many bytes of records a consumer keeps ready; one record may go beyond. Default: 16
    /// MiB.
    #[must_use]
    pub fn queued_bytes_max(mut self, queued_bytes_max: usize) -> Self {
        self.queued_bytes_max = queued_bytes_max;
        self
    }

    /// How long a consumer may keep a revoked partition before it is taken from it. Default: two
    /// thirds of `max.poll.interval.ms`, which are 200 seconds.
    #[must_use]
    pub fn revoke_max(mut self, revoke_max: Duration) -> Self {
        self.revoke_max = Some(revoke_max);
        self
    }

    /// How long a question to the brokers may take. Default: 30 seconds.
    #[must_use]
    pub fn request_max(mut self, request_max: Duration) -> Self {
        self.request_max = request_max;
        self
    }

    /// Refuses what contradicts a promise and what librdkafka does not know.
    pub(super) fn check(&self) -> Result<(), LogError> {
        let invalid = |message: String| Err(LogError::new(LogErrorKind::Invalid, message));
        for (name, value) in &self.settings {
            rules::check(name, value)?;
            let mut alone = ClientConfig::new();
            alone.set(name, value);
            native(&alone)?;
        }
        if self.queued_max == 0 || self.queued_bytes_max == 0 {
            return invalid("a consumer has to keep a record ready; set 1 or more".to_owned());
        }
        let poll_interval = self.millis("max.poll.interval.ms", POLL_INTERVAL);
        if self.revoke_time() >= poll_interval {
            return invalid(format!(
                "`revoke_max` is {} ms and `max.poll.interval.ms` is {} ms: the group gives a \
                 member up that keeps partitions for so long; set `revoke_max` below it",
                self.revoke_time().as_millis(),
                poll_interval.as_millis()
            ));
        }
        self.transaction(&ProducerSettings::default()).map(drop)
    }

    /// How long a revoked partition may be kept.
    pub(super) fn revoke_time(&self) -> Duration {
        let two_thirds = self.millis("max.poll.interval.ms", POLL_INTERVAL) * 2 / 3;
        self.revoke_max.unwrap_or(two_thirds)
    }

    /// For questions that need no membership.
    pub(super) fn asker(&self, isolation: &str) -> Result<ClientConfig, LogError> {
        let mut config = self.common();
        config.set("isolation.level", isolation).set("enable.auto.commit", "false");
        native(&config)?;
        Ok(config)
    }

    /// For a member of a group.
    pub(super) fn consumer(&self, settings: &ConsumerSettings) -> Result<ClientConfig, LogError> {
        let mut config = self.common();
        let reset = match settings.begin {
            Begin::Earliest => "earliest",
            Begin::Latest => "latest",
        };
        config
            .set("group.id", &settings.group)
            .set("auto.offset.reset", reset)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false");
        match self.protocol {
            GroupProtocol::Classic if self.get("partition.assignment.strategy").is_none() => {
                config.set("partition.assignment.strategy", "cooperative-sticky");
            }
            GroupProtocol::Classic => {}
            GroupProtocol::Consumer => {
                config.set("group.protocol", "consumer");
            }
        }
        if self.get("topic.metadata.refresh.interval.ms").is_none() {
            // A topic that is made after its consumer is found so soon; librdkafka takes minutes.
            config.set("topic.metadata.refresh.interval.ms", "10000");
        }
        native(&config)?;
        Ok(config)
    }

    /// For reading without a group. librdkafka wants the name of one all the same.
    pub(super) fn reader(&self) -> Result<ClientConfig, LogError> {
        let mut config = self.common();
        config
            .set("group.id", "semel-reader")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true");
        native(&config)?;
        Ok(config)
    }

    /// For a producer, with the time one record may take and the time a transaction may take.
    pub(super) fn producer(
        &self,
        settings: &ProducerSettings,
    ) -> Result<(ClientConfig, Times), LogError> {
        let times = self.times(settings)?;
        let mut config = self.common();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.send.max.retries", "2147483647")
            .set("message.timeout.ms", times.delivery.as_millis().to_string());
        for (name, value) in [
            ("max.in.flight.requests.per.connection", "5"),
            // A transaction waits for its records: librdkafka's own 5 ms are felt in each. With
            // none a record leaves alone, before the broker is done with the last transaction.
            ("queue.buffering.max.ms", "1"),
            // As Kafka's own clients do it, so that a key is in one partition whoever writes it.
            ("partitioner", "murmur2_random"),
        ] {
            if self.get(name).is_none() {
                config.set(name, value);
            }
        }
        if let Some(id) = &settings.transactional_id {
            config
                .set("transactional.id", id)
                .set("transaction.timeout.ms", times.transaction.as_millis().to_string());
        }
        native(&config)?;
        Ok((config, times))
    }

    fn times(&self, settings: &ProducerSettings) -> Result<Times, LogError> {
        if settings.transactional_id.is_some() {
            return self.transaction(settings);
        }
        let delivery = self.millis("message.timeout.ms", DELIVERY);
        Ok(Times { delivery, transaction: TRANSACTION })
    }

    fn transaction(&self, settings: &ProducerSettings) -> Result<Times, LogError> {
        let set = self.millis("transaction.timeout.ms", TRANSACTION);
        let transaction = settings.transaction_timeout.unwrap_or(set);
        let default = DELIVERY_IN_TRANSACTION.min(transaction / 2);
        let delivery = self.millis("message.timeout.ms", default);
        if delivery >= transaction {
            let message = format!(
                "`delivery.timeout.ms` is {} and `transaction.timeout.ms` is {}: a record could \
                 arrive after its transaction was aborted; set a shorter `delivery.timeout.ms`",
                delivery.as_millis(),
                transaction.as_millis()
            );
            return Err(LogError::new(LogErrorKind::Invalid, message));
        }
        Ok(Times { delivery, transaction })
    }

    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in &self.settings {
            config.set(rules::canonical(name), value);
        }
        config.set("bootstrap.servers", &self.bootstrap);
        let is_chatty = self.get("debug").is_some();
        let level = if is_chatty { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info };
        config.set_log_level(level);
        config
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.settings.iter().find(|(it, _)| rules::canonical(it) == name);
        found.map(|(_, value)| &**value)
    }

    fn millis(&self, name: &str, default: Duration) -> Duration {
        let set = self.get(name).and_then(|value| value.parse().ok());
        set.map_or(default, Duration::from_millis)
    }
}

/// Names only: a value may be a secret.
impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.settings.iter().map(|(name, _)| name).collect();
        f.debug_struct("KafkaOptions")
            .field("bootstrap", &self.bootstrap)
            .field("settings", &names)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// How long a producer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// For the delivery of a record.
    pub(super) delivery: Duration,
    /// For a transaction.
    pub(super) transaction: Duration,
}

/// Fails when librdkafka does not know a name or does not take a value.
fn native(config: &ClientConfig) -> Result<(), LogError> {
    let Err(error) = config.create_native_config() else {
        return Ok(());
    };
    Err(refused(&error))
}

/// What librdkafka said about a setting, without a value that may be a secret.
pub(super) fn refused(error: &KafkaError) -> LogError {
    let message = match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            format!("librdkafka knows no setting `{name}`; see its CONFIGURATION.md for the names")
        }
        KafkaError::ClientConfig(_, _, name, _) if is_secret(name) => {
            format!("librdkafka does not take the value of the setting `{name}`")
        }
        KafkaError::ClientConfig(_, why, name, _) => {
            format!("librdkafka does not take the value of the setting `{name}`: {why}")
        }
        KafkaError::ClientCreation(why) => {
            format!("librdkafka does not take these settings together: {why}")
        }
        other => format!("librdkafka does not take these settings: {other}"),
    };
    LogError::new(LogErrorKind::Invalid, message)
}

fn is_secret(name: &str) -> bool {
    let words = ["password", "secret", "key", "token", "pem", "username", "oauthbearer", "jaas"];
    words.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: &KafkaOptions) -> String {
        options.check().unwrap_err().to_string()
    }

    fn options() -> KafkaOptions {
        KafkaOptions::new("127.0.0.1:1")
    }

    #[test]
    fn a_setting_that_nobody_knows_is_named() {
        let message = refusal(&options().set("enable.exactly.once", "true"));
        assert!(message.starts_with("librdkafka knows no setting `enable.exactly.once`"));
    }

    #[test]
    fn a_value_that_librdkafka_does_not_take_is_named() {
        let message = refusal(&options().set("linger.ms", "soon"));
        assert!(message.contains("`linger.ms`"), "{message}");
    }

    #[test]
    fn a_record_must_arrive_before_its_transaction_is_over() {
        let both =
            options().set("delivery.timeout.ms", "5000").set("transaction.timeout.ms", "5000");
        let message = refusal(&both);
        assert!(message.contains("`delivery.timeout.ms` is 5000"), "{message}");
        assert!(message.contains("`transaction.timeout.ms` is 5000"), "{message}");

        let settings = ProducerSettings {
            transactional_id: Some("id".to_owned()),
            transaction_timeout: Some(Duration::from_secs(4)),
        };
        let set = options().set("message.timeout.ms", "4000");
        assert!(set.check().is_ok());
        assert!(set.producer(&settings).is_err());
        let (_, times) = options().producer(&settings).unwrap();
        assert_eq!(times.delivery, Duration::from_secs(2));
    }

    #[test]
    fn a_revoked_partition_is_let_go_before_the_group_gives_the_member_up() {
        let interval = options().set("max.poll.interval.ms", "9000");
        assert_eq!(interval.revoke_time(), Duration::from_secs(6));
        let message = refusal(&interval.revoke_max(Duration::from_secs(9)));
        assert!(message.contains("9000 ms"), "{message}");
    }

    #[test]
    fn the_last_of_two_names_for_one_thing_wins() {
        let set = options().set("linger.ms", "7").set("queue.buffering.max.ms", "8");
        let (config, _) = set.producer(&ProducerSettings::default()).unwrap();
        assert_eq!(config.get("queue.buffering.max.ms"), Some("8"));
        assert_eq!(config.get("linger.ms"), None);
    }

    #[test]
    fn no_value_is_shown() {
        let secret = options().set("sasl.password", "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
        let error = KafkaError::ClientConfig(
            RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "Invalid value hunter2".to_owned(),
            "sasl.password".to_owned(),
            "hunter2".to_owned(),
        );
        assert!(!format!("{:?}", refused(&error)).contains("hunter2"));
    }
}
