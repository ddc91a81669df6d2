//! `KafkaLog` on librdkafka's mock cluster: errors that a broker only makes when it wants to, and
//! rebalances. It proves nothing about exactly-once: the mock fences nobody and hides nothing.

#![cfg(feature = "rdkafka")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and the mock cluster has the real clock"
)]

use std::sync::Arc;
use std::time::Duration;

use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use semel_kafka::log::{
    ConsumerSettings, Event, Log, LogConsumer, LogError, LogErrorKind, LogProducer, Outgoing,
    Position, ProducerSettings, Record, TopicPartition,
};
use semel_kafka::{GroupProtocol, KafkaLog, KafkaOptions};

const TOPIC: &str = "orders";

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, partitions, 1).unwrap();
    cluster
}

/// The mock waits for members that left until their session is over.
fn quick(cluster: &Cluster) -> KafkaOptions {
    KafkaOptions::new(cluster.bootstrap_servers())
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "500")
}

fn kafka(cluster: &Cluster, settings: &[(&str, &str)]) -> KafkaLog {
    let options = quick(cluster);
    let set = |options: KafkaOptions, (name, value): &(&str, &str)| options.set(*name, *value);
    KafkaLog::with(settings.iter().fold(options, set)).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("in a minute")
}

async fn producer(cluster: &Cluster) -> Arc<dyn LogProducer> {
    let settings = ProducerSettings {
        transactional_id: Some("writer".to_owned()),
        transaction_timeout: Some(Duration::from_secs(3)),
    };
    within(kafka(cluster, &[]).producer(&settings)).await.unwrap()
}

fn order() -> Outgoing {
    Outgoing::to(TOPIC).key("1").value("one")
}

/// A producer with one delivered record in an open transaction.
async fn open(cluster: &Cluster) -> Arc<dyn LogProducer> {
    let producer = producer(cluster).await;
    within(producer.begin()).await.unwrap();
    within(producer.send(order())).await.unwrap();
    producer
}

/// The producer refuses everything, and says why.
async fn assert_poisoned(producer: &Arc<dyn LogProducer>, why: &str) {
    let errors: [LogError; 4] = [
        within(producer.begin()).await.unwrap_err(),
        within(producer.send(order())).await.unwrap_err(),
        within(producer.commit()).await.unwrap_err(),
        within(producer.abort()).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), LogErrorKind::Fenced, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_fenced_producer_never_works_again() {
    let cluster = cluster(1);
    let producer = producer(&cluster).await;
    let fenced = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED];
    cluster.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &fenced);
    within(producer.begin()).await.unwrap();
    let delivery = within(producer.send(order())).await;
    assert!(delivery.is_err());
    let error = within(producer.commit()).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Fenced, "{error}");
    assert_poisoned(&producer, "make a new one").await;
}

#[tokio::test]
async fn a_commit_without_an_answer_poisons_its_producer() {
    let cluster = cluster(1);
    let producer = open(&cluster).await;
    cluster.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    let error = within(producer.commit()).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Indefinite, "{error}");
    assert_poisoned(&producer, "commit the transaction").await;
}

#[tokio::test]
async fn an_abort_without_an_answer_poisons_its_producer() {
    let cluster = cluster(1);
    let producer = open(&cluster).await;
    cluster.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    let error = within(producer.abort()).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Indefinite, "{error}");
    assert_poisoned(&producer, "abort the transaction").await;
}

#[tokio::test]
async fn positions_without_an_answer_poison_their_producer() {
    let cluster = cluster(1);
    let producer = open(&cluster).await;
    let outsider = kafka(&cluster, &[]).outsider("nobody").unwrap();
    cluster.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    let position = Position { partition: TopicPartition::new(TOPIC, 0), next: 1 };
    let added = within(producer.send_positions(vec![position], &outsider)).await;
    assert_eq!(added.unwrap_err().kind(), LogErrorKind::Indefinite);
    assert_poisoned(&producer, "add positions").await;
}

/// librdkafka itself waits for ever, and so would the end of the runtime.
#[tokio::test]
async fn positions_for_a_coordinator_that_is_away_poison_their_producer() {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic(TOPIC, 1, 2).unwrap();
    cluster.partition_leader(TOPIC, 0, Some(1)).unwrap();
    cluster.coordinator(MockCoordinator::Transaction("writer".to_owned()), 1).unwrap();
    cluster.coordinator(MockCoordinator::Group("nobody".to_owned()), 2).unwrap();
    let producer = open(&cluster).await;
    let outsider = kafka(&cluster, &[]).outsider("nobody").unwrap();
    cluster.broker_down(2).unwrap();
    let position = Position { partition: TopicPartition::new(TOPIC, 0), next: 1 };
    let added = within(producer.send_positions(vec![position], &outsider)).await;
    assert_eq!(added.unwrap_err().kind(), LogErrorKind::Indefinite);
    assert_poisoned(&producer, "add positions").await;
}

#[tokio::test]
async fn a_commit_that_its_caller_left_half_way_poisons_its_producer() {
    let cluster = cluster(1);
    let producer = open(&cluster).await;
    cluster.broker_round_trip_time(1, Duration::from_secs(1)).unwrap();
    let left = tokio::time::timeout(Duration::from_millis(50), producer.commit()).await;
    assert!(left.is_err());
    assert_poisoned(&producer, "left half-way").await;
}

#[tokio::test]
async fn a_transaction_that_lacks_a_record_is_not_committed() {
    let cluster = cluster(1);
    let producer = open(&cluster).await;
    let large = order().value(vec![0; 2_000_000]);
    let refused = within(producer.send(large)).await.unwrap_err();
    assert_eq!(refused.kind(), LogErrorKind::Invalid, "{refused}");
    let error = within(producer.commit()).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Abortable, "{error}");
    within(producer.abort()).await.unwrap();

    within(producer.begin()).await.unwrap();
    within(producer.send(order())).await.unwrap();
    within(producer.commit()).await.unwrap();
}

#[tokio::test]
async fn a_transaction_whose_record_a_broker_refused_is_not_committed() {
    let cluster = cluster(1);
    let producer = open(&cluster).await;
    let refusal = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED];
    cluster.request_errors(RDKafkaApiKey::Produce, &refusal);
    let refused = within(producer.send(order())).await.unwrap_err();
    assert_eq!(refused.kind(), LogErrorKind::Invalid, "{refused}");
    let error = within(producer.commit()).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Abortable, "{error}");
    within(producer.abort()).await.unwrap();
}

#[tokio::test]
async fn an_error_that_asks_for_an_abort_is_abortable() {
    let cluster = cluster(1);
    let producer = open(&cluster).await;
    let outsider = kafka(&cluster, &[]).outsider("nobody").unwrap();
    let stale = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION];
    cluster.request_errors(RDKafkaApiKey::TxnOffsetCommit, &stale);
    let position = Position { partition: TopicPartition::new(TOPIC, 0), next: 1 };
    let added = within(producer.send_positions(vec![position], &outsider)).await;
    assert_eq!(added.unwrap_err().kind(), LogErrorKind::Abortable);
    assert_eq!(within(producer.commit()).await.unwrap_err().kind(), LogErrorKind::Abortable);
    within(producer.abort()).await.unwrap();
    within(producer.begin()).await.unwrap();
}

#[tokio::test]
async fn more_records_than_librdkafka_has_room_for_arrive_in_order() {
    let cluster = cluster(1);
    let kafka = kafka(&cluster, &[("queue.buffering.max.messages", "10")]);
    let producer = within(kafka.producer(&ProducerSettings::default())).await.unwrap();
    let sends: Vec<_> = (0..300).map(|_| producer.send(order())).collect();
    // Whoever waits first need not be whoever came first.
    for (offset, send) in sends.into_iter().enumerate().rev() {
        let delivered = within(send).await.unwrap();
        assert_eq!(delivered.offset, i64::try_from(offset).unwrap());
    }
}

#[tokio::test]
async fn what_a_producer_cannot_do_is_said_at_once() {
    let cluster = cluster(1);
    let plain = kafka(&cluster, &[]).producer(&ProducerSettings::default()).await.unwrap();
    assert_eq!(within(plain.begin()).await.unwrap_err().kind(), LogErrorKind::Invalid);
    let nameless = within(plain.send(Outgoing::to("^no topic"))).await;
    assert_eq!(nameless.unwrap_err().kind(), LogErrorKind::Invalid);
    let producer = producer(&cluster).await;
    assert_eq!(within(producer.send(order())).await.unwrap_err().kind(), LogErrorKind::Invalid);
    assert_eq!(within(producer.commit()).await.unwrap_err().kind(), LogErrorKind::Invalid);
    within(producer.abort()).await.unwrap();
    within(producer.begin()).await.unwrap();
    assert_eq!(within(producer.begin()).await.unwrap_err().kind(), LogErrorKind::Invalid);
}

fn join(kafka: &KafkaLog) -> Box<dyn LogConsumer> {
    let settings = ConsumerSettings::new("group", [TOPIC]);
    kafka.consumer(&settings).unwrap()
}

async fn assigned(consumer: &mut Box<dyn LogConsumer>) -> Vec<TopicPartition> {
    loop {
        match within(consumer.next()).await.unwrap() {
            Event::Assigned(partitions) => return partitions,
            Event::Records(_) => {}
            other => panic!("{other:?} instead of an assignment"),
        }
    }
}

async fn revoked(consumer: &mut Box<dyn LogConsumer>) -> Vec<TopicPartition> {
    match within(consumer.next()).await.unwrap() {
        Event::Revoked(partitions) => partitions,
        other => panic!("{other:?} instead of a revocation"),
    }
}

async fn records(consumer: &mut Box<dyn LogConsumer>) -> Vec<Record> {
    match within(consumer.next()).await.unwrap() {
        Event::Records(records) => records,
        other => panic!("{other:?} instead of records"),
    }
}

fn from_committed(partitions: Vec<TopicPartition>) -> Vec<(TopicPartition, Option<i64>)> {
    partitions.into_iter().map(|partition| (partition, None)).collect()
}

/// Takes assignments until there are `count` partitions.
async fn own(consumer: &mut Box<dyn LogConsumer>, count: usize) {
    take(consumer, 0, count).await;
}

/// Takes assignments until it owns `count` partitions instead of `owned`.
async fn take(consumer: &mut Box<dyn LogConsumer>, mut owned: usize, count: usize) {
    while owned < count {
        match within(consumer.next()).await.unwrap() {
            Event::Assigned(partitions) => {
                owned += partitions.len();
                within(consumer.assign(from_committed(partitions))).await.unwrap();
            }
            Event::Revoked(partitions) | Event::Lost(partitions) => {
                owned -= partitions.len();
                within(consumer.unassign(partitions)).await.unwrap();
            }
            Event::Records(_) => {}
        }
    }
}

async fn hand_over(protocol: GroupProtocol, strategy: Option<&str>) {
    let cluster = cluster(4);
    let options = match (protocol, strategy) {
        (GroupProtocol::Classic, None) => quick(&cluster),
        (_, Some(strategy)) => quick(&cluster).set("partition.assignment.strategy", strategy),
        (protocol, None) => KafkaOptions::new(cluster.bootstrap_servers()).group_protocol(protocol),
    };
    let kafka = KafkaLog::with(options).unwrap();
    let mut first = join(&kafka);
    own(&mut first, 4).await;
    let mut second = join(&kafka);
    let gone = revoked(&mut first).await;
    let position = Position { partition: gone[0].clone(), next: 5 };
    // In the middle of an eager rebalance the mock, unlike Kafka, takes no commit.
    let is_eager = gone.len() == 4;
    if !is_eager {
        within(first.commit(vec![position])).await.unwrap();
    }
    let early = tokio::time::timeout(Duration::from_millis(500), second.next()).await;
    assert!(early.is_err(), "{early:?} before the old owner let go");
    within(first.unassign(gone.clone())).await.unwrap();
    if is_eager {
        // An eager protocol takes everything and gives half back.
        own(&mut first, 2).await;
    }
    own(&mut second, 2).await;
    within(first.close()).await.unwrap();
    take(&mut second, 2, 4).await;
    if !is_eager {
        let position = within(second.committed(vec![gone[0].clone()])).await.unwrap();
        assert_eq!(position, [Some(5)]);
    }
    within(second.close()).await.unwrap();
}

#[tokio::test]
async fn cooperative_members_hand_partitions_over() {
    hand_over(GroupProtocol::Classic, None).await;
}

#[tokio::test]
async fn eager_members_hand_partitions_over() {
    hand_over(GroupProtocol::Classic, Some("roundrobin")).await;
}

#[tokio::test]
async fn members_of_the_new_protocol_hand_partitions_over() {
    hand_over(GroupProtocol::Consumer, None).await;
}

#[tokio::test]
async fn a_partition_that_is_not_let_go_in_time_is_lost_and_cannot_be_committed() {
    let cluster = cluster(2);
    let kafka = KafkaLog::with(quick(&cluster).revoke_max(Duration::from_secs(1))).unwrap();
    let mut slow = join(&kafka);
    own(&mut slow, 2).await;
    let mut other = join(&kafka);
    let gone = revoked(&mut slow).await;
    own(&mut other, 1).await;
    let Event::Lost(lost) = within(slow.next()).await.unwrap() else { panic!("not lost") };
    assert_eq!(lost, gone);
    let position = Position { partition: gone[0].clone(), next: 5 };
    let late = within(slow.commit(vec![position.clone()])).await.unwrap_err();
    assert_eq!(late.kind(), LogErrorKind::Abortable, "{late}");
    let producer = open(&cluster).await;
    let membership = within(slow.membership()).await.unwrap();
    let added = within(producer.send_positions(vec![position], &membership)).await;
    assert_eq!(added.unwrap_err().kind(), LogErrorKind::Abortable);
    // Both answers are taken, and the partition can come back.
    within(slow.unassign(gone.clone())).await.unwrap();
    within(slow.unassign(gone)).await.unwrap();
    drop(other);
    let back = assigned(&mut slow).await;
    assert_eq!(back, lost);
    within(slow.assign(from_committed(back))).await.unwrap();
}

#[tokio::test]
async fn a_member_that_is_dropped_while_it_is_asked_leaves_at_once() {
    let cluster = cluster(2);
    let kafka = kafka(&cluster, &[]);
    let mut first = join(&kafka);
    own(&mut first, 2).await;
    let mut second = join(&kafka);
    revoked(&mut first).await;
    drop(first);
    own(&mut second, 2).await;
    drop(second);
    // Nobody has answered its assignment either.
    let mut third = join(&kafka);
    assigned(&mut third).await;
    within(third.close()).await.unwrap();
}

#[tokio::test]
async fn an_assignment_that_is_answered_late_keeps_its_membership_and_its_beginning() {
    let cluster = cluster(1);
    let kafka = kafka(&cluster, &[("max.poll.interval.ms", "6000")]);
    let producer = within(kafka.producer(&ProducerSettings::default())).await.unwrap();
    for _ in 0..10 {
        within(producer.send(order())).await.unwrap();
    }
    let mut consumer = join(&kafka);
    let partitions = assigned(&mut consumer).await;
    // Restoring state can take longer than the group waits for a poll.
    let nothing = tokio::time::timeout(Duration::from_secs(8), consumer.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    within(consumer.assign(vec![(partitions[0].clone(), Some(7))])).await.unwrap();
    assert_eq!(records(&mut consumer).await[0].offset, 7);
    let position = Position { partition: partitions[0].clone(), next: 8 };
    within(consumer.commit(vec![position])).await.unwrap();
}

#[tokio::test]
async fn an_idle_member_stays_in_its_group() {
    let cluster = cluster(1);
    let kafka = kafka(&cluster, &[("max.poll.interval.ms", "6000")]);
    let mut consumer = join(&kafka);
    own(&mut consumer, 1).await;
    let nothing = tokio::time::timeout(Duration::from_secs(8), consumer.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused_when_a_client_is_made() {
    let cluster = cluster(1);
    let kafka = kafka(&cluster, &[("partition.assignment.strategy", "range,cooperative-sticky")]);
    let settings = ConsumerSettings::new("group", [TOPIC]);
    let refused = kafka.consumer(&settings).unwrap_err();
    assert_eq!(refused.kind(), LogErrorKind::Invalid);
    assert!(refused.to_string().contains("partition.assignment.strategy"), "{refused}");
}
