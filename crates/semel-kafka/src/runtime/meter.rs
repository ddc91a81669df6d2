//! The numbers of a consumer, through the `metrics` facade.

use metrics::{counter, gauge};

use crate::rejected::Reason;

/// Counts for one group. Names and meanings are listed in the documentation of the Kafka door.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    class: &'static str,
    group: String,
}

impl Meter {
    pub(crate) fn new(class: &'static str, group: &str) -> Self {
        Self { class, group: group.to_owned() }
    }

    pub(crate) fn handled(&self, count: usize) {
        self.records("handled", count);
    }

    pub(crate) fn duplicates(&self, count: usize) {
        self.records("duplicate", count);
    }

    fn records(&self, outcome: &'static str, count: usize) {
        let (class, group) = (self.class, self.group.clone());
        counter!(
            "semel_kafka_records_total",
            "class" => class, "group" => group, "outcome" => outcome
        )
        .increment(count as u64);
    }

    pub(crate) fn dead_letter(&self, reason: Reason) {
        let (class, group) = (self.class, self.group.clone());
        counter!(
            "semel_kafka_dead_letters_total",
            "class" => class, "group" => group, "reason" => reason.name()
        )
        .increment(1);
    }

    pub(crate) fn retried(&self, reason: Reason) {
        let (class, group) = (self.class, self.group.clone());
        counter!(
            "semel_kafka_retries_total",
            "class" => class, "group" => group, "reason" => reason.name()
        )
        .increment(1);
    }

    pub(crate) fn parked(&self, count: usize) {
        let (class, group) = (self.class, self.group.clone());
        counter!("semel_kafka_parked_total", "class" => class, "group" => group)
            .increment(count as u64);
    }

    pub(crate) fn rewound(&self) {
        let (class, group) = (self.class, self.group.clone());
        counter!("semel_kafka_rewinds_total", "class" => class, "group" => group).increment(1);
    }

    pub(crate) fn stopped(&self, partitions: usize) {
        self.gauge("semel_kafka_stopped_partitions", partitions);
    }

    pub(crate) fn assigned(&self, partitions: usize) {
        self.gauge("semel_kafka_assigned_partitions", partitions);
    }

    pub(crate) fn buffered(&self, records: usize) {
        self.gauge("semel_kafka_buffered_records", records);
    }

    /// How many records are readable and not finished, and how many an open transaction hides.
    pub(crate) fn behind(&self, records: i64, unstable: i64) {
        let count = |records: i64| usize::try_from(records).unwrap_or(0);
        self.gauge("semel_kafka_lag_records", count(records));
        self.gauge("semel_kafka_unstable_records", count(unstable));
    }

    /// Keys that have records, and handlers that run.
    pub(crate) fn lanes(&self, lanes: usize, running: usize) {
        self.gauge("semel_kafka_lanes", lanes);
        self.gauge("semel_kafka_running_handlers", running);
    }

    fn gauge(&self, name: &'static str, value: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let value = value as f64;
        let (class, group) = (self.class, self.group.clone());
        gauge!(name, "class" => class, "group" => group).set(value);
    }
}
