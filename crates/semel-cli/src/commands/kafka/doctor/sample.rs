//! A cluster with which nothing is wrong, for tests that break one thing of it.

use std::time::Duration;

use semel_kafka::log::Bounds;
use semel_kafka::{
    KafkaBroker, KafkaFacts, KafkaGroup, KafkaMember, KafkaPartition, KafkaSettings, KafkaTopic,
};

use super::{Finding, Wish, judge};

fn settings(pairs: &[(&str, &str)]) -> KafkaSettings {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn broker(id: i32) -> KafkaBroker {
    let settings = settings(&[
        ("auto.create.topics.enable", "false"),
        ("group.coordinator.rebalance.protocols", "classic,consumer"),
        ("min.insync.replicas", "2"),
        ("offsets.retention.minutes", "10080"),
        ("offsets.topic.replication.factor", "3"),
        ("transaction.max.timeout.ms", "900000"),
        ("transaction.state.log.min.isr", "2"),
        ("transaction.state.log.replication.factor", "3"),
    ]);
    KafkaBroker { id, address: format!("kafka-{id}:9092"), settings: Ok(settings) }
}

fn partition(id: i32, committed: i64) -> KafkaPartition {
    let bounds = Some(Bounds { low: 0, stable: 100, high: 100 });
    KafkaPartition {
        id,
        leader: Some(id),
        replicas: 3,
        in_sync: 3,
        committed: Some(committed),
        first: bounds,
        last: bounds,
    }
}

pub(super) fn healthy() -> KafkaFacts {
    let orders = settings(&[
        ("cleanup.policy", "delete"),
        ("message.timestamp.type", "CreateTime"),
        ("min.insync.replicas", "2"),
        ("retention.ms", "604800000"),
        ("segment.ms", "604800000"),
        ("unclean.leader.election.enable", "false"),
    ]);
    let member = KafkaMember { client: "worker".to_owned(), host: "10.0.0.7".to_owned() };
    KafkaFacts {
        brokers: (0..3).map(broker).collect(),
        round_trip: Duration::from_micros(1_500),
        topics: vec![KafkaTopic {
            name: "orders".to_owned(),
            partitions: vec![partition(0, 95), partition(1, 93)],
            settings: Ok(orders),
        }],
        unknown_topics: Vec::new(),
        own_topics: vec![KafkaTopic {
            name: "__consumer_offsets".to_owned(),
            partitions: vec![partition(0, 0)],
            settings: Ok(settings(&[("min.insync.replicas", "2")])),
        }],
        group: Ok(Some(KafkaGroup {
            state: "Stable".to_owned(),
            assignor: "cooperative-sticky".to_owned(),
            members: vec![member],
        })),
        observed: Duration::ZERO,
    }
}

/// What is said with a window of a week.
pub(super) fn judged(facts: &KafkaFacts) -> Vec<Finding> {
    judged_with(facts, Some(Duration::from_secs(7 * 86_400)))
}

pub(super) fn judged_with(facts: &KafkaFacts, window: Option<Duration>) -> Vec<Finding> {
    judge(facts, &Wish { brokers: "kafka:9092", group: "shop", window })
}

fn find<'a>(findings: &'a [Finding], what: &str) -> &'a Finding {
    let found = findings.iter().find(|it| it.what == what);
    found.unwrap_or_else(|| panic!("nothing about {what}: {findings:#?}"))
}

pub(super) fn seen<'a>(findings: &'a [Finding], what: &str) -> &'a str {
    &find(findings, what).seen
}

pub(super) fn advice<'a>(findings: &'a [Finding], what: &str) -> Option<&'a str> {
    find(findings, what).advice.as_deref()
}
