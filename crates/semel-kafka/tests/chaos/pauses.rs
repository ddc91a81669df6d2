//! A pause ends with the partition's assignment.

use std::time::Duration;

use semel_kafka::log::{
    ConsumerSettings, Event, Log, LogConsumer, Outgoing, ProducerSettings, TopicPartition,
};
use semel_kafka::{GroupProtocol, KafkaLog, KafkaOptions};

use super::place::{block_on, create_topic, shared_broker};

type Consumer = Box<dyn LogConsumer>;

async fn next(consumer: &mut Consumer) -> Event {
    let event = tokio::time::timeout(Duration::from_secs(30), consumer.next());
    event.await.expect("nothing happens").unwrap()
}

/// Answers until it has so many partitions more.
async fn gets(consumer: &mut Consumer, count: usize) -> Vec<TopicPartition> {
    let mut got = Vec::new();
    while got.len() < count {
        let Event::Assigned(more) = next(consumer).await else { panic!("not given to it") };
        consumer.assign(more.iter().cloned().map(|it| (it, None)).collect()).await.unwrap();
        got.extend(more);
    }
    got
}

async fn comes_back(bootstrap: &str, protocol: GroupProtocol) {
    let topic = format!("pauses-{protocol:?}");
    create_topic(bootstrap, &topic, 2).await;
    let mut options = KafkaOptions::new(bootstrap).group_protocol(protocol);
    if protocol == GroupProtocol::Classic {
        options = options.set("heartbeat.interval.ms", "300");
    }
    let kafka = KafkaLog::with(options).unwrap();
    let settings = ConsumerSettings::new(&topic, [&topic]);
    let mut first = kafka.consumer(&settings).unwrap();
    let both = gets(&mut first, 2).await;
    first.pause(both).await.unwrap();
    let mut second = kafka.consumer(&settings).unwrap();
    let Event::Revoked(gone) = next(&mut first).await else { panic!("nothing is taken away") };
    assert_eq!(gone.len(), 1);
    first.unassign(gone.clone()).await.unwrap();
    assert_eq!(gets(&mut second, 1).await, gone);
    second.close().await.unwrap();
    assert_eq!(gets(&mut first, 1).await, gone);
    let producer = kafka.producer(&ProducerSettings::default()).await.unwrap();
    let record = Outgoing { partition: Some(gone[0].partition), ..Outgoing::to(&*topic) };
    producer.send(record.value("new")).await.unwrap();
    let Event::Records(records) = next(&mut first).await else { panic!("no record") };
    assert_eq!(records[0].partition, gone[0]);
    first.close().await.unwrap();
}

#[test]
fn a_partition_that_comes_back_is_not_paused_any_more() {
    block_on(async {
        let Some(bootstrap) = shared_broker() else { return };
        comes_back(&bootstrap, GroupProtocol::Classic).await;
        comes_back(&bootstrap, GroupProtocol::Consumer).await;
    });
}
