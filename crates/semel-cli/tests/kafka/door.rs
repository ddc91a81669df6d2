//! Groups, records and transactions for the doctor to look at.

use std::sync::Arc;

use semel_kafka::log::{
    ConsumerSettings, Event, Log, LogConsumer, LogProducer, Outgoing, Position, ProducerSettings,
    Record, TopicPartition,
};
use semel_kafka::{GroupProtocol, KafkaLog, KafkaOptions};
use tokio::runtime::Runtime;

/// A client of its own.
pub(crate) struct Door {
    runtime: Runtime,
    brokers: String,
}

impl Door {
    pub(crate) fn to(brokers: &str) -> Self {
        Self { runtime: Runtime::new().unwrap(), brokers: brokers.to_owned() }
    }

    fn log(&self) -> KafkaLog {
        KafkaLog::connect(&self.brokers).unwrap()
    }

    /// Writes records without a transaction.
    pub(crate) fn write(&self, topic: &str, count: usize) {
        self.runtime.block_on(async {
            let producer = self.log().producer(&ProducerSettings::default()).await.unwrap();
            for _ in 0..count {
                producer.send(Outgoing::to(topic).value("it")).await.unwrap();
            }
        });
    }

    /// Joins a group, reads so many records, commits the positions behind them, and stays.
    pub(crate) fn read(
        &self,
        topic: &str,
        group: &str,
        count: usize,
        protocol: GroupProtocol,
    ) -> Box<dyn LogConsumer> {
        let options = KafkaOptions::new(&self.brokers).group_protocol(protocol);
        let log = KafkaLog::with(options).unwrap();
        let settings = ConsumerSettings::new(group, [topic]);
        self.runtime.block_on(async {
            let mut consumer = log.consumer(&settings).unwrap();
            let mut read: Vec<Record> = Vec::new();
            while read.len() < count {
                match consumer.next().await.unwrap() {
                    Event::Assigned(partitions) => {
                        let starts = partitions.into_iter().map(|it| (it, None)).collect();
                        consumer.assign(starts).await.unwrap();
                    }
                    Event::Revoked(partitions) | Event::Lost(partitions) => {
                        consumer.unassign(partitions).await.unwrap();
                    }
                    Event::Records(records) => read.extend(records),
                }
            }
            // Of one partition the last one comes last.
            for record in read {
                let position = Position { partition: record.partition, next: record.offset + 1 };
                consumer.commit(vec![position]).await.unwrap();
            }
            consumer
        })
    }

    /// Leaves a group in order.
    pub(crate) fn leave(&self, member: Box<dyn LogConsumer>) {
        self.runtime.block_on(member.close()).unwrap();
    }

    /// Begins a transaction, and writes records to the first partition in it.
    pub(crate) fn begin(&self, topic: &str, id: &str, count: usize) -> Arc<dyn LogProducer> {
        self.runtime.block_on(async {
            let producer = self.transactional(id).await;
            producer.begin().await.unwrap();
            for _ in 0..count {
                let record = Outgoing { partition: Some(0), ..Outgoing::to(topic).value("it") };
                producer.send(record).await.unwrap();
            }
            producer
        })
    }

    pub(crate) fn abort(&self, producer: &Arc<dyn LogProducer>) {
        self.runtime.block_on(producer.abort()).unwrap();
    }

    /// Commits a position in the first partition, without joining the group.
    pub(crate) fn commit(&self, topic: &str, group: &str, next: i64) {
        self.runtime.block_on(async {
            let producer = self.transactional(group).await;
            let membership = self.log().outsider(group).unwrap();
            producer.begin().await.unwrap();
            let position = Position { partition: TopicPartition::new(topic, 0), next };
            producer.send_positions(vec![position], &membership).await.unwrap();
            producer.commit().await.unwrap();
        });
    }

    async fn transactional(&self, id: &str) -> Arc<dyn LogProducer> {
        let settings =
            ProducerSettings { transactional_id: Some(id.to_owned()), transaction_timeout: None };
        self.log().producer(&settings).await.unwrap()
    }
}
