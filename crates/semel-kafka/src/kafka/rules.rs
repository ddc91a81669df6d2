//! Settings of librdkafka that would break a promise, by name.

use crate::log::{LogError, LogErrorKind};

/// What is wrong with a setting, and the way out.
struct Rule {
    name: &'static str,
    holds: fn(&str) -> bool,
    rule: &'static str,
    way_out: &'static str,
}

const LEAVE: &str = "leave the setting out";

const RULES: [Rule; 19] = [
    Rule {
        name: "enable.idempotence",
        holds: is_true,
        rule: "without idempotence a retry writes a record twice",
        way_out: LEAVE,
    },
    Rule {
        name: "acks",
        holds: |value| matches!(value, "all" | "-1"),
        rule: "a record that not all replicas have can be lost after it was acknowledged",
        way_out: LEAVE,
    },
    Rule {
        name: "max.in.flight.requests.per.connection",
        holds: |value| value.parse().is_ok_and(|count: u32| (1..=5).contains(&count)),
        rule: "a broker recognises only the last 5 batches of a producer",
        way_out: "set 1 to 5",
    },
    Rule {
        name: "message.send.max.retries",
        holds: |value| value == "2147483647",
        rule: "retries end by time and not by count",
        way_out: "set `delivery.timeout.ms`",
    },
    Rule {
        name: "message.timeout.ms",
        holds: |value| value.parse().is_ok_and(|millis: u64| millis > 0),
        rule: "a send has to end one day",
        way_out: "set a time in milliseconds",
    },
    Rule {
        name: "delivery.report.only.error",
        holds: is_false,
        rule: "a send would never learn that it succeeded",
        way_out: LEAVE,
    },
    Rule {
        name: "enable.auto.commit",
        holds: is_false,
        rule: "a position may only be committed when its record is finished",
        way_out: LEAVE,
    },
    Rule {
        name: "enable.auto.offset.store",
        holds: is_false,
        rule: "a position may only be committed when its record is finished",
        way_out: LEAVE,
    },
    Rule {
        name: "enable.partition.eof",
        holds: is_false,
        rule: "the end of a partition is no record",
        way_out: LEAVE,
    },
    Rule {
        name: "isolation.level",
        holds: |value| value == "read_committed",
        rule: "records of aborted transactions would be read",
        way_out: LEAVE,
    },
    Rule {
        name: "transactional.id",
        holds: never,
        rule: "each producer has its own",
        way_out: "set `ProducerSettings::transactional_id`",
    },
    Rule {
        name: "group.id",
        holds: never,
        rule: "each consumer has its own",
        way_out: "set `ConsumerSettings::group`",
    },
    Rule {
        name: "auto.offset.reset",
        holds: never,
        rule: "each consumer has its own",
        way_out: "set `ConsumerSettings::begin`",
    },
    Rule {
        name: "group.protocol",
        holds: never,
        rule: "it changes which other settings there are",
        way_out: "call `KafkaOptions::group_protocol`",
    },
    Rule {
        name: "bootstrap.servers",
        holds: never,
        rule: "there is one place for it",
        way_out: "give it to `KafkaOptions::new`",
    },
    Rule {
        name: "queuing.strategy",
        holds: |value| value == "fifo",
        rule: "records would overtake each other",
        way_out: LEAVE,
    },
    Rule {
        name: "api.version.request",
        holds: is_true,
        rule: "idempotence needs to know what the broker can do",
        way_out: LEAVE,
    },
    Rule { name: "log.queue", holds: never, rule: "the log goes to `tracing`", way_out: LEAVE },
    Rule {
        name: "transaction.timeout.ms",
        holds: |value| value.parse().is_ok_and(|millis: u64| millis > 0),
        rule: "a transaction has to end one day",
        way_out: "set a time in milliseconds",
    },
];

/// Names that librdkafka takes for one thing; the second is the one used here.
const ALIASES: [(&str, &str); 11] = [
    ("request.required.acks", "acks"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("retries", "message.send.max.retries"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("compression.type", "compression.codec"),
    ("auto.commit.enable", "enable.auto.commit"),
    ("metadata.broker.list", "bootstrap.servers"),
    ("sasl.mechanism", "sasl.mechanisms"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("auto.offset.store.enable", "enable.auto.offset.store"),
];

/// One name for each thing.
pub(super) fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name)
}

/// Refuses a setting that contradicts what the door promises.
pub(super) fn check(name: &str, value: &str) -> Result<(), LogError> {
    let broken = RULES.iter().find(|it| it.name == canonical(name) && !(it.holds)(value));
    let Some(Rule { rule, way_out, .. }) = broken else {
        return Ok(());
    };
    let message = format!("the setting `{name}` cannot be `{value}`: {rule}; {way_out}");
    Err(LogError::new(LogErrorKind::Invalid, message))
}

fn is_true(value: &str) -> bool {
    matches!(value, "true" | "t" | "1")
}

fn is_false(value: &str) -> bool {
    matches!(value, "false" | "f" | "0")
}

fn never(_: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str, value: &str) -> String {
        check(name, value).unwrap_err().to_string()
    }

    #[test]
    fn what_breaks_exactly_once_is_refused_under_every_name() {
        for (name, value) in [
            ("acks", "1"),
            ("acks", "0"),
            ("request.required.acks", "1"),
            ("enable.idempotence", "false"),
            ("max.in.flight", "6"),
            ("max.in.flight.requests.per.connection", "1000000"),
            ("retries", "0"),
            ("message.send.max.retries", "3"),
            ("delivery.timeout.ms", "0"),
            ("message.timeout.ms", "0"),
            ("enable.auto.commit", "true"),
            ("auto.commit.enable", "true"),
            ("enable.auto.offset.store", "true"),
            ("enable.partition.eof", "true"),
            ("isolation.level", "read_uncommitted"),
            ("transactional.id", "mine"),
            ("group.id", "mine"),
            ("auto.offset.reset", "latest"),
            ("group.protocol", "consumer"),
            ("bootstrap.servers", "there:9092"),
            ("metadata.broker.list", "there:9092"),
            ("delivery.report.only.error", "true"),
            ("queuing.strategy", "lifo"),
        ] {
            let message = refusal(name, value);
            assert!(message.contains(&format!("`{name}`")), "{message}");
            assert!(message.contains(&format!("`{value}`")), "{message}");
        }
    }

    #[test]
    fn a_refusal_tells_the_rule_and_the_way_out() {
        assert_eq!(
            refusal("max.in.flight", "6"),
            "the setting `max.in.flight` cannot be `6`: a broker recognises only the last 5 \
             batches of a producer; set 1 to 5"
        );
    }

    #[test]
    fn what_says_the_same_as_the_preset_is_accepted() {
        for (name, value) in [
            ("acks", "all"),
            ("request.required.acks", "-1"),
            ("enable.idempotence", "true"),
            ("max.in.flight", "5"),
            ("retries", "2147483647"),
            ("enable.auto.commit", "false"),
            ("isolation.level", "read_committed"),
            ("client.id", "me"),
        ] {
            assert!(check(name, value).is_ok(), "{name}={value}");
        }
    }
}
