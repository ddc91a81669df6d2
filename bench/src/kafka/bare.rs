//! The loop over librdkafka as it is rightly written by hand: consume, produce, wait for the
//! deliveries, send the offsets with the member's identity, commit.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Message, Offset, TopicPartitionList};

use super::ground::Progress;
use crate::Error;

/// How long one call may take on a busy machine.
const CALL_MAX: Duration = Duration::from_secs(30);

/// How long a transaction waits for one more record.
const MORE_MAX: Duration = Duration::from_millis(1);

pub(super) struct Bare {
    pub(super) bootstrap: String,
    /// Of the group and of the transactions.
    pub(super) name: String,
    pub(super) input: String,
    pub(super) output: String,
    pub(super) batch_max: usize,
}

/// How many records were delivered, and how many were not. Not `flush`: rdkafka's waits 100 ms
/// each time, because its `poll` goes on until its time is over.
#[derive(Default)]
struct Deliveries {
    counts: Mutex<(usize, usize)>,
    news: Condvar,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(_) => counts.0 += 1,
            Err(_) => counts.1 += 1,
        }
        self.news.notify_one();
    }
}

impl Deliveries {
    /// Waits until so many records are delivered, and forgets them.
    fn wait_for(&self, sent: usize) -> Result<(), Error> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |(delivered, failed): &mut (usize, usize)| *delivered + *failed < sent;
        let waited = self.news.wait_timeout_while(counts, CALL_MAX, is_open);
        let (mut counts, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *counts) == (sent, 0) {
            return Ok(());
        }
        Err("a record was not delivered".into())
    }
}

impl Bare {
    pub(super) fn run(&self, progress: &Progress) -> Result<(), Error> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", &self.name)
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .create()?;
        let producer: ThreadedProducer<Deliveries> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("transactional.id", &self.name)
            // As ours: librdkafka's 5 ms would be felt in each transaction.
            .set("linger.ms", "1")
            .create_with_context(Deliveries::default())?;
        producer.init_transactions(CALL_MAX)?;
        consumer.subscribe(&[&*self.input])?;
        let goal = progress.goal();
        while progress.count() < goal {
            self.transact(&consumer, &producer, progress)?;
        }
        progress.stop();
        Ok(())
    }

    /// One transaction, unless there is nothing to read.
    fn transact(
        &self,
        consumer: &BaseConsumer,
        producer: &ThreadedProducer<Deliveries>,
        progress: &Progress,
    ) -> Result<(), Error> {
        let mut next = BTreeMap::new();
        let mut count = 0;
        let mut patience = Duration::from_millis(100);
        while count < self.batch_max {
            let Some(message) = consumer.poll(patience) else { break };
            let message = message?;
            if count == 0 {
                progress.begin();
                producer.begin_transaction()?;
                patience = MORE_MAX;
            }
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.output);
            (record.key, record.payload) = (message.key(), message.payload());
            producer.send(record).map_err(|(error, _)| error)?;
            next.insert(message.partition(), message.offset() + 1);
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        producer.context().wait_for(count)?;
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in next {
            offsets.add_partition_offset(&self.input, partition, Offset::Offset(next))?;
        }
        let group = consumer.group_metadata().ok_or("the consumer has no group")?;
        producer.send_offsets_to_transaction(&offsets, &group, CALL_MAX)?;
        producer.commit_transaction(CALL_MAX)?;
        (0..count).for_each(|_| progress.end(Duration::ZERO));
        Ok(())
    }
}
