//! `KafkaLog` on a real Apache Kafka.

#![cfg(all(feature = "conformance", feature = "rdkafka"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may panic, and a real broker has the real clock"
)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use semel::BoxFuture;
use semel_kafka::conformance::{self, Harness, Outcome};
use semel_kafka::log::{
    ConsumerSettings, Event, Log, LogConsumer, LogError, LogErrorKind, Outgoing, Position,
    ProducerSettings, Record, TopicPartition,
};
use semel_kafka::{GroupProtocol, KafkaLog, KafkaOptions};
use semel_testkit::servers::{Kafka, skips};

/// One broker for all tests; it ends with this process.
static BROKER: LazyLock<Option<Kafka>> = LazyLock::new(|| {
    // Members of the new protocol hear of a rebalance with their heartbeat.
    let beat = "group.consumer.heartbeat.interval.ms";
    let settings = [("group.consumer.min.heartbeat.interval.ms", "500"), (beat, "500")];
    (!skips(Kafka::missing())).then(|| Kafka::with(&settings).unwrap())
});

/// Distinguishes topics of one run, and the process those of several runs.
static TOPICS: AtomicU32 = AtomicU32::new(0);

fn bootstrap() -> Option<String> {
    BROKER.as_ref().map(Kafka::bootstrap)
}

fn options(bootstrap: &str, protocol: GroupProtocol) -> KafkaOptions {
    let options = KafkaOptions::new(bootstrap).group_protocol(protocol);
    match protocol {
        GroupProtocol::Classic => options.set("heartbeat.interval.ms", "500"),
        _ => options,
    }
}

/// Makes a topic through the client, which is quicker than Kafka's own tool.
async fn topic(bootstrap: &str, partitions: i32) -> String {
    let number = TOPICS.fetch_add(1, Ordering::Relaxed);
    let name = format!("topic-{}-{number}", std::process::id());
    make(bootstrap, &name, partitions).await;
    name
}

async fn make(bootstrap: &str, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    // Some cases write records with times long ago, which the broker would delete at once.
    let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let new = new.set("retention.ms", "-1");
    let made = admin.create_topics([&new], &AdminOptions::new()).await.unwrap();
    made.into_iter().next().unwrap().unwrap();
    // The controller has it; the broker may hear of it a moment later.
    let kafka = KafkaLog::connect(bootstrap).unwrap();
    while kafka.partitions(name).await.unwrap() != Some(partitions) {}
}

/// Kafka under the conformance program.
struct Broker {
    bootstrap: String,
    log: Arc<KafkaLog>,
}

impl Harness for Broker {
    fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.log) as Arc<dyn Log>
    }

    fn create_topic(&self, partitions: i32) -> BoxFuture<'_, Result<String, LogError>> {
        Box::pin(async move { Ok(topic(&self.bootstrap, partitions).await) })
    }

    fn transaction_timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(2))
    }
}

/// The cases have topics, groups and ids of their own, so they run at once.
async fn conform(protocol: GroupProtocol) {
    let Some(bootstrap) = bootstrap() else { return };
    let log = Arc::new(KafkaLog::with(options(&bootstrap, protocol)).unwrap());
    let harness = &Broker { bootstrap, log };
    let run = |case: &'static conformance::Case| async move {
        let start = Instant::now();
        let outcome = case.run(harness).await;
        println!("{protocol:?} {}: {outcome:?} after {:?}", case.name, start.elapsed());
        (case.name, outcome)
    };
    let outcomes = join_all(conformance::cases().map(run)).await;
    let failed: Vec<_> =
        outcomes.into_iter().filter(|(_, it)| matches!(it, Outcome::Failed(_))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_conforms_with_classic_groups() {
    conform(GroupProtocol::Classic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_conforms_with_groups_of_the_new_protocol() {
    conform(GroupProtocol::Consumer).await;
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.unwrap()
}

fn settings(group: &str, topic: &str) -> ConsumerSettings {
    ConsumerSettings::new(group, [topic])
}

fn transactional(id: &str) -> ProducerSettings {
    ProducerSettings { transactional_id: Some(id.to_owned()), transaction_timeout: None }
}

/// Answers events until there are `count` records.
async fn read(consumer: &mut Box<dyn LogConsumer>, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        match within(consumer.next()).await.unwrap() {
            Event::Assigned(partitions) => {
                let starts = partitions.into_iter().map(|it| (it, None)).collect();
                consumer.assign(starts).await.unwrap();
            }
            Event::Revoked(partitions) | Event::Lost(partitions) => {
                consumer.unassign(partitions).await.unwrap();
            }
            Event::Records(more) => records.extend(more),
        }
    }
    records
}

fn after(record: &Record) -> Position {
    Position { partition: record.partition.clone(), next: record.offset + 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outsider_commits_for_a_group_that_nobody_joins() {
    let Some(bootstrap) = bootstrap() else { return };
    let input = topic(&bootstrap, 1).await;
    let kafka = KafkaLog::connect(&bootstrap).unwrap();
    let producer = within(kafka.producer(&transactional(&input))).await.unwrap();
    let outsider = kafka.outsider(&input).unwrap();
    let partition = TopicPartition::new(&*input, 0);
    for next in [7, 9] {
        within(producer.begin()).await.unwrap();
        let position = Position { partition: partition.clone(), next };
        within(producer.send_positions(vec![position], &outsider)).await.unwrap();
        within(producer.commit()).await.unwrap();
        let committed =
            within(kafka.committed(&input, std::slice::from_ref(&partition))).await.unwrap();
        assert_eq!(committed, [Some(next)]);
    }
    // The id fences its earlier holder although the group does not.
    within(producer.begin()).await.unwrap();
    let position = Position { partition: partition.clone(), next: 11 };
    within(producer.send_positions(vec![position], &outsider)).await.unwrap();
    let _heir = within(kafka.producer(&transactional(&input))).await.unwrap();
    let error = within(producer.commit()).await.unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Fenced, "{error}");
    let committed = within(kafka.committed(&input, &[partition])).await.unwrap();
    assert_eq!(committed, [Some(9)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_lies_between_the_stable_end_and_the_high_one() {
    let Some(bootstrap) = bootstrap() else { return };
    let output = topic(&bootstrap, 1).await;
    let kafka = KafkaLog::connect(&bootstrap).unwrap();
    let producer = within(kafka.producer(&transactional(&output))).await.unwrap();
    let partition = TopicPartition::new(&*output, 0);
    within(producer.begin()).await.unwrap();
    within(producer.send(Outgoing::to(&*output).value("open"))).await.unwrap();
    let open = within(kafka.bounds(&partition)).await.unwrap();
    assert_eq!((open.low, open.stable, open.high), (0, 0, 1));
    within(producer.commit()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_answered_in_milliseconds() {
    const ROUNDS: u32 = 50;
    let Some(bootstrap) = bootstrap() else { return };
    let input = topic(&bootstrap, 1).await;
    let kafka = KafkaLog::connect(&bootstrap).unwrap();
    let plain = within(kafka.producer(&ProducerSettings::default())).await.unwrap();
    within(plain.send(Outgoing::to(&*input).value("one"))).await.unwrap();
    let mut consumer = kafka.consumer(&settings(&input, &input)).unwrap();
    let record = read(&mut consumer, 1).await.remove(0);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        within(consumer.commit(vec![after(&record)])).await.unwrap();
    }
    let commit = start.elapsed() / ROUNDS;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        within(consumer.membership()).await.unwrap();
    }
    let membership = start.elapsed() / ROUNDS;
    println!("commit {commit:?}, membership {membership:?}");
    let most = Duration::from_millis(40);
    assert!(commit < most && membership < most, "{commit:?} {membership:?}");
}

/// Not a benchmark: the way is short when nothing waits for a timer of 100 ms.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_waits_for_no_timer() {
    const ROUNDS: u32 = 100;
    let Some(bootstrap) = bootstrap() else { return };
    let output = topic(&bootstrap, 4).await;
    let kafka = KafkaLog::connect(&bootstrap).unwrap();
    let producer = within(kafka.producer(&transactional(&output))).await.unwrap();
    let outsider = kafka.outsider(&output).unwrap();
    let mut spent = [Duration::ZERO; 4];
    for round in 0..ROUNDS {
        let start = Instant::now();
        within(producer.begin()).await.unwrap();
        let began = Instant::now();
        let record = |key| Outgoing::to(&*output).key(vec![key]).value(vec![0; 100]);
        let sends: Vec<_> = (0..20).map(|key| producer.send(record(key))).collect();
        for send in sends {
            within(send).await.unwrap();
        }
        let sent = Instant::now();
        let partition = TopicPartition::new(&*output, 0);
        let position = Position { partition, next: i64::from(round) };
        within(producer.send_positions(vec![position], &outsider)).await.unwrap();
        let placed = Instant::now();
        within(producer.commit()).await.unwrap();
        let steps = [began - start, sent - began, placed - sent, placed.elapsed()];
        spent.iter_mut().zip(steps).for_each(|(sum, step)| *sum += step);
    }
    let mean: Duration = spent.iter().sum::<Duration>() / ROUNDS;
    println!("begin, 20 sends, positions, commit: {mean:?} = {:?}", spent.map(|it| it / ROUNDS));
    assert!(mean < Duration::from_millis(80), "{mean:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_dropped_while_it_is_asked_leaves_at_once() {
    let Some(bootstrap) = bootstrap() else { return };
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let input = topic(&bootstrap, 4).await;
        let kafka = KafkaLog::with(options(&bootstrap, protocol)).unwrap();
        let mut first = kafka.consumer(&settings(&input, &input)).unwrap();
        let Event::Assigned(all) = within(first.next()).await.unwrap() else { panic!() };
        within(first.assign(all.into_iter().map(|it| (it, None)).collect())).await.unwrap();
        let mut second = kafka.consumer(&settings(&input, &input)).unwrap();
        let Event::Revoked(_) = within(first.next()).await.unwrap() else { panic!() };
        let start = Instant::now();
        drop(first);
        let mut count = 0;
        while count < 4 {
            let Event::Assigned(more) = within(second.next()).await.unwrap() else { panic!() };
            count += more.len();
            within(second.assign(more.into_iter().map(|it| (it, None)).collect())).await.unwrap();
        }
        // Its session would have lasted 45 seconds.
        assert!(start.elapsed() < Duration::from_secs(20), "{protocol:?} {:?}", start.elapsed());
        within(second.close()).await.unwrap();
    }
}

/// Reads `count` records, which must follow each other from `next`, and returns what comes next.
async fn follow(consumer: &mut Box<dyn LogConsumer>, mut next: i64, count: usize) -> i64 {
    for record in read(consumer, count).await {
        assert_eq!(record.offset, next);
        next += 1;
    }
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_costs_neither_a_record_nor_the_membership() {
    let Some(bootstrap) = bootstrap() else { return };
    let input = topic(&bootstrap, 1).await;
    let options = KafkaOptions::new(&bootstrap)
        .queued_max(10)
        .set("max.poll.interval.ms", "6000")
        .set("session.timeout.ms", "6000");
    let kafka = KafkaLog::with(options).unwrap();
    let plain = within(kafka.producer(&ProducerSettings::default())).await.unwrap();
    let value = |number: i32| Outgoing::to(&*input).value(number.to_string());
    for send in join_all((0..1000).map(|number| plain.send(value(number)))).await {
        send.unwrap();
    }
    let mut consumer = kafka.consumer(&settings(&input, &input)).unwrap();
    let partition = TopicPartition::new(&*input, 0);
    let to = |next| vec![Position { partition: partition.clone(), next }];
    let next = follow(&mut consumer, 0, 1).await;
    // Longer than the poll interval, and the queue is full all the time.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let next = follow(&mut consumer, next, 490).await;
    within(consumer.commit(to(next))).await.unwrap();

    within(consumer.seek(to(7))).await.unwrap();
    let next = follow(&mut consumer, 7, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    within(consumer.pause(vec![partition.clone()])).await.unwrap();
    let none = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await;
    assert!(none.is_err(), "{none:?}");
    within(consumer.resume(vec![partition.clone()])).await.unwrap();
    follow(&mut consumer, next, 100).await;
    within(consumer.pause(vec![partition.clone()])).await.unwrap();
    within(consumer.seek(to(900))).await.unwrap();
    within(consumer.resume(vec![partition])).await.unwrap();
    assert_eq!(follow(&mut consumer, 900, 100).await, 1000);
}

/// Says that it is not there, and goes on looking.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_after_its_consumer_is_found() {
    let Some(bootstrap) = bootstrap() else { return };
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        let name = format!("late-{protocol:?}-{}", std::process::id());
        let kafka = KafkaLog::with(options(&bootstrap, protocol)).unwrap();
        let mut consumer = kafka.consumer(&settings(&name, &name)).unwrap();
        if protocol == GroupProtocol::Classic {
            // The new protocol knows nothing of topics that are missing.
            let told = within(consumer.next()).await.unwrap_err();
            assert_eq!(told.kind(), LogErrorKind::Unavailable);
            assert!(told.to_string().starts_with(&format!("the topic `{name}` does not exist")));
        }
        make(&bootstrap, &name, 1).await;
        let producer = kafka.producer(&ProducerSettings::default()).await.unwrap();
        producer.send(Outgoing::to(&*name).value("late")).await.unwrap();
        let start = Instant::now();
        assert_eq!(read(&mut consumer, 1).await.len(), 1);
        println!("{protocol:?}: found after {:?}", start.elapsed());
        consumer.close().await.unwrap();
    }
}
