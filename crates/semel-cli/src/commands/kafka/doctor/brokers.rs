//! What the brokers say about themselves.

use std::time::Duration;

use semel_kafka::{KafkaFacts, KafkaSettings, KafkaTopic};

use super::{Finding, lowest, millis, number, some};
use crate::text;

/// A transaction waits for a handful of answers.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(200);
/// How long a transaction may be open unless it is set up otherwise.
const TRANSACTION: Duration = Duration::from_secs(60);

/// Where Kafka keeps what: the topic, the settings from which it is made, and what is lost with it.
const OWN: [Own; 2] = [
    Own {
        what: "offsets topic",
        topic: "__consumer_offsets",
        factor: "offsets.topic.replication.factor",
        in_sync: None,
        loss: "groups lose their positions",
    },
    Own {
        what: "transaction log",
        topic: "__transaction_state",
        factor: "transaction.state.log.replication.factor",
        in_sync: Some("transaction.state.log.min.isr"),
        loss: "a decided transaction is forgotten",
    },
];

struct Own {
    what: &'static str,
    topic: &'static str,
    factor: &'static str,
    in_sync: Option<&'static str>,
    loss: &'static str,
}

pub(super) fn judge(facts: &KafkaFacts, findings: &mut Vec<Finding>) {
    let addresses: Vec<_> = facts.brokers.iter().map(|it| it.address.clone()).collect();
    let seen = format!("{}: {}", addresses.len(), some(&addresses));
    findings.push(Finding::new("brokers", seen, None));
    let slow = (facts.round_trip > ROUND_TRIP_MAX)
        .then_some("the brokers are far away or busy; each transaction asks them several times");
    let round_trip = format!("{:.1} ms", facts.round_trip.as_secs_f64() * 1e3);
    findings.push(Finding::new("round trip", round_trip, slow));
    for broker in &facts.brokers {
        if let Err(error) = &broker.settings {
            let seen = format!("broker {}: unknown", broker.id);
            findings.push(Finding::new("settings", seen, Some(&error.to_string())));
        }
    }
    findings.extend(version(facts));
    findings.extend(auto_create(facts));
    findings.extend(transaction_time(facts));
    findings.extend(OWN.iter().filter_map(|own| kept_by_itself(facts, own)));
    for topic in &facts.own_topics {
        findings.extend(settings_of(topic).err());
    }
}

/// A topic's settings, or what is said about their lack.
pub(super) fn settings_of(topic: &KafkaTopic) -> Result<&KafkaSettings, Finding> {
    topic.settings.as_ref().map_err(|error| {
        let seen = format!("{}: unknown", topic.name);
        Finding::new("settings", seen, Some(&error.to_string()))
    })
}

/// librdkafka does not tell the version, but settings come and go with versions.
fn version(facts: &KafkaFacts) -> Option<Finding> {
    let settings = facts.brokers.iter().find_map(|broker| broker.settings.as_ref().ok())?;
    let protocols = settings.get("group.coordinator.rebalance.protocols");
    let age = if settings.contains_key("inter.broker.protocol.version") {
        "before 4.0"
    } else {
        "4.0 or later"
    };
    let seen = match protocols {
        Some(protocols) => format!("{age}; groups: {protocols}"),
        None => age.to_owned(),
    };
    Some(Finding::new("version", seen, None))
}

fn auto_create(facts: &KafkaFacts) -> Option<Finding> {
    const NAME: &str = "auto.create.topics.enable";
    let settings = |it: &semel_kafka::KafkaBroker| it.settings.as_ref().ok()?.get(NAME).cloned();
    let values: Vec<_> = facts.brokers.iter().filter_map(settings).collect();
    let value = values.iter().find(|value| *value == "true").or(values.first())?;
    let problem = (value == "true").then_some(
        "a typo in a topic's name makes a topic, and its records go where nobody reads; set \
         auto.create.topics.enable=false",
    );
    Some(Finding::new(NAME, value.as_str(), problem))
}

fn transaction_time(facts: &KafkaFacts) -> Option<Finding> {
    const NAME: &str = "transaction.max.timeout.ms";
    let time = lowest(facts, NAME).and_then(millis)?;
    let problem = (time < TRANSACTION).then(|| {
        format!(
            "no producer with the usual 60s begins a transaction; raise it, or set \
             transaction.timeout.ms to at most {}",
            time.as_millis()
        )
    });
    Some(Finding::new(NAME, text::duration(time), problem.as_deref()))
}

/// How many copies there are of what Kafka itself has to remember.
fn kept_by_itself(facts: &KafkaFacts, own: &Own) -> Option<Finding> {
    let topic = facts.own_topics.iter().find(|it| it.name == own.topic);
    let factor = match topic {
        Some(topic) => topic.partitions.iter().map(|it| it.replicas).min()?,
        None => lowest(facts, own.factor).and_then(|it| usize::try_from(it).ok())?,
    };
    let in_topic = topic.and_then(|it| number(it.settings.as_ref().ok()?, "min.insync.replicas"));
    let in_sync = in_topic.or_else(|| lowest(facts, own.in_sync.unwrap_or("min.insync.replicas")));
    let copies = copies(factor, in_sync);
    let is_made = topic.map_or(", not made yet", |_| "");
    let problem = (factor < 2).then(|| {
        format!("{} when a broker's disk is lost; give {} 3 replicas", own.loss, own.topic)
    });
    let weak = (factor >= 2 && in_sync == Some(1)).then(|| {
        format!(
            "{} when a broker's disk is lost at a bad time; set min.insync.replicas of {} to 2",
            own.loss, own.topic
        )
    });
    let problem = problem.or(weak);
    Some(Finding::new(own.what, format!("{copies}{is_made}"), problem.as_deref()))
}

/// Replicas and how many of them a write needs.
pub(super) fn copies(factor: usize, in_sync: Option<i64>) -> String {
    let plural = if factor == 1 { "" } else { "s" };
    match in_sync {
        Some(in_sync) => format!("{factor} replica{plural}, a write needs {in_sync}"),
        None => format!("{factor} replica{plural}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::sample::{advice, healthy, judged, seen};

    fn broken(name: &str, value: &str) -> semel_kafka::KafkaFacts {
        let mut facts = healthy();
        let settings = facts.brokers[1].settings.as_mut().unwrap();
        settings.insert(name.to_owned(), value.to_owned());
        facts
    }

    #[test]
    fn brokers_that_are_far_away_are_named() {
        let mut facts = healthy();
        assert_eq!(seen(&judged(&facts), "round trip"), "1.5 ms");
        facts.round_trip = Duration::from_millis(300);
        assert!(advice(&judged(&facts), "round trip").unwrap().contains("far away"));
    }

    #[test]
    fn the_version_is_told_by_the_settings_that_there_are() {
        assert_eq!(seen(&judged(&healthy()), "version"), "4.0 or later; groups: classic,consumer");
        let mut facts = healthy();
        let settings = facts.brokers[0].settings.as_mut().unwrap();
        settings.remove("group.coordinator.rebalance.protocols");
        settings.insert("inter.broker.protocol.version".to_owned(), "3.9".to_owned());
        assert_eq!(seen(&judged(&facts), "version"), "before 4.0");
    }

    #[test]
    fn one_broker_that_makes_topics_by_itself_is_enough_for_a_typo() {
        let findings = judged(&broken("auto.create.topics.enable", "true"));
        assert!(advice(&findings, "auto.create.topics.enable").unwrap().contains("typo"));
    }

    #[test]
    fn a_transaction_has_the_time_that_producers_ask_for() {
        let findings = judged(&broken("transaction.max.timeout.ms", "30000"));
        assert!(advice(&findings, "transaction.max.timeout.ms").unwrap().contains("30000"));
    }

    #[test]
    fn a_single_copy_of_what_kafka_remembers_is_too_few() {
        // The topic is not made yet, so the settings count.
        let findings = judged(&broken("transaction.state.log.replication.factor", "1"));
        assert_eq!(seen(&findings, "transaction log"), "1 replica, a write needs 2, not made yet");
        assert!(advice(&findings, "transaction log").unwrap().contains("disk"));
        let findings = judged(&broken("transaction.state.log.min.isr", "1"));
        assert!(advice(&findings, "transaction log").unwrap().contains("min.insync.replicas"));
        // This one is made, so it counts as it is.
        let mut facts = broken("offsets.topic.replication.factor", "1");
        assert_eq!(advice(&judged(&facts), "offsets topic"), None);
        facts.own_topics[0].partitions[0].replicas = 1;
        assert!(advice(&judged(&facts), "offsets topic").unwrap().contains("__consumer_offsets"));
    }
}
