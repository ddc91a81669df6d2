//! What is to be said about the topics that a group reads.

use std::time::Duration;

use semel_kafka::{KafkaFacts, KafkaSettings, KafkaTopic};

use super::brokers::{copies, settings_of};
use super::{Finding, Wish, kept, millis, number, some};
use crate::text;

pub(super) fn judge(facts: &KafkaFacts, wish: &Wish<'_>, findings: &mut Vec<Finding>) {
    if facts.topics.is_empty() && facts.unknown_topics.is_empty() {
        let advice = "the group has no position anywhere; name what it reads with --topic";
        findings.push(Finding::new("topic", "none", Some(advice)));
    }
    for name in &facts.unknown_topics {
        let advice = "there is no such topic, or we may not see it (the operation Describe)";
        findings.push(Finding::new("topic", format!("{name}: unknown"), Some(advice)));
    }
    for topic in &facts.topics {
        let count = topic.partitions.len();
        let plural = if count == 1 { "" } else { "s" };
        let seen = format!("{}: {count} partition{plural}", topic.name);
        findings.push(Finding::new("topic", seen, None));
        findings.extend(leaders(topic));
        match settings_of(topic) {
            Ok(settings) => look(topic, settings, wish, findings),
            Err(finding) => findings.push(finding),
        }
    }
}

fn look(
    topic: &KafkaTopic,
    settings: &KafkaSettings,
    wish: &Wish<'_>,
    findings: &mut Vec<Finding>,
) {
    let name = &topic.name;
    findings.extend(replicas(topic, settings));
    if let Some(value) = settings.get("unclean.leader.election.enable") {
        let problem = (value == "true").then_some(
            "a replica that lacks acknowledged records may lead, and they are lost; set it false",
        );
        let seen = format!("{name}: {value}");
        findings.push(Finding::new("unclean.leader.election", seen, problem));
    }
    if let Some(value) = settings.get("cleanup.policy") {
        let problem = value.contains("compact").then_some(
            "of the records of a key only the last one stays: a group that falls behind never sees \
             the others; read a topic with cleanup.policy=delete",
        );
        findings.push(Finding::new("cleanup.policy", format!("{name}: {value}"), problem));
    }
    if let Some(value) = settings.get("message.timestamp.type") {
        let note = match value.as_str() {
            "CreateTime" => "; an event-time window trusts the clocks of producers",
            _ => "; an event-time window counts from the arrival at the broker",
        };
        findings.push(Finding::new("timestamps", format!("{name}: {value}{note}"), None));
    }
    findings.extend(retention(topic, settings, wish));
}

fn leaders(topic: &KafkaTopic) -> Option<Finding> {
    let lone = topic.partitions.iter().filter(|it| it.leader.is_none());
    let lone: Vec<_> = lone.map(|it| format!("{}-{}", topic.name, it.id)).collect();
    let advice = "nobody can read or write them; start the brokers that have them";
    (!lone.is_empty())
        .then(|| Finding::new("leaders", format!("none of {}", some(&lone)), Some(advice)))
}

fn replicas(topic: &KafkaTopic, settings: &KafkaSettings) -> Option<Finding> {
    let factor = topic.partitions.iter().map(|it| it.replicas).min()?;
    let needed = number(settings, "min.insync.replicas");
    let lacking = topic.partitions.iter().filter(|it| it.in_sync < it.replicas);
    let lacking: Vec<_> = lacking.map(|it| format!("{}-{}", topic.name, it.id)).collect();
    let mut seen = format!("{}: {}", topic.name, copies(factor, needed));
    if !lacking.is_empty() {
        seen = format!("{seen}; not all are in sync of {}", some(&lacking));
    }
    let problem = if factor == 1 {
        Some("acknowledged records are lost with the disk of one broker; give the topic 3 replicas")
    } else if needed == Some(1) {
        Some("`acks=all` may mean a single copy; set min.insync.replicas=2")
    } else if !lacking.is_empty() {
        Some("one broker less may stop all writes; look at the brokers that lag behind")
    } else {
        None
    };
    Some(Finding::new("replicas", seen, problem))
}

/// For how long a topic keeps its records; `None` when for ever.
pub(super) fn keeps(settings: &KafkaSettings) -> Option<Option<Duration>> {
    let is_deleted = settings.get("cleanup.policy").is_none_or(|it| it.contains("delete"));
    if !is_deleted {
        return Some(None);
    }
    number(settings, "retention.ms").map(millis)
}

/// Whether everything that can come back is still known.
pub(super) fn covers(window: Option<Duration>, kept: Option<Duration>) -> bool {
    window.is_some_and(|window| kept.is_some_and(|kept| window >= kept))
}

fn retention(topic: &KafkaTopic, settings: &KafkaSettings, wish: &Wish<'_>) -> Option<Finding> {
    let time = keeps(settings)?;
    let name = &topic.name;
    // A record is deleted with its whole segment.
    let segment = number(settings, "segment.ms").and_then(millis).unwrap_or_default();
    let later = match time {
        Some(_) => format!(" and up to {} longer", text::duration(segment)),
        None => String::new(),
    };
    let Some(window) = wish.window else {
        let seen = format!("{name}: {}{later}; --window is compared with it", kept(time));
        return Some(Finding::new("retention", seen, None));
    };
    let window_text = text::duration(window);
    let problem = (!covers(Some(window), time)).then(|| {
        format!(
            "a replay of the topic brings records back that are older than {window_text}, and \
             they run again; make the window as long as the topic keeps them"
        )
    });
    let seen = format!("{name}: {}{later}, window {window_text}", kept(time));
    Some(Finding::new("retention", seen, problem.as_deref()))
}

#[cfg(test)]
mod tests {
    use semel_kafka::KafkaFacts;

    use super::super::Finding;
    use super::super::sample::{advice, healthy, judged, seen};

    fn with(name: &str, value: &str) -> KafkaFacts {
        let mut facts = healthy();
        let settings = facts.topics[0].settings.as_mut().unwrap();
        settings.insert(name.to_owned(), value.to_owned());
        facts
    }

    fn told<'a>(findings: &'a [Finding], what: &str) -> &'a str {
        advice(findings, what).unwrap_or_else(|| panic!("no advice about {what}: {findings:#?}"))
    }

    #[test]
    fn a_topic_that_is_not_there_is_named() {
        let mut facts = healthy();
        facts.unknown_topics = vec!["ordres".to_owned()];
        let findings = judged(&facts);
        assert!(findings.iter().any(|it| it.seen == "ordres: unknown" && it.advice.is_some()));
        facts = healthy();
        facts.topics.clear();
        assert!(told(&judged(&facts), "topic").contains("--topic"));
    }

    #[test]
    fn a_partition_without_a_leader_is_named() {
        let mut facts = healthy();
        facts.topics[0].partitions[1].leader = None;
        let findings = judged(&facts);
        assert_eq!(seen(&findings, "leaders"), "none of orders-1");
        assert!(told(&findings, "leaders").contains("start the brokers"));
    }

    #[test]
    fn too_few_copies_are_told_apart() {
        let mut facts = healthy();
        facts.topics[0].partitions[0].replicas = 1;
        facts.topics[0].partitions[0].in_sync = 1;
        assert!(told(&judged(&facts), "replicas").contains("disk of one broker"));
        assert!(told(&judged(&with("min.insync.replicas", "1")), "replicas").contains("acks=all"));
        let mut facts = healthy();
        facts.topics[0].partitions[1].in_sync = 2;
        let findings = judged(&facts);
        assert!(seen(&findings, "replicas").contains("not all are in sync of orders-1"));
        assert!(told(&findings, "replicas").contains("lag behind"));
    }

    #[test]
    fn what_loses_records_is_found() {
        let findings = judged(&with("unclean.leader.election.enable", "true"));
        assert!(told(&findings, "unclean.leader.election").contains("lost"));
        for policy in ["compact", "compact,delete"] {
            let findings = judged(&with("cleanup.policy", policy));
            assert!(told(&findings, "cleanup.policy").contains("only the last one"));
        }
    }

    #[test]
    fn whose_clock_an_event_time_window_trusts_is_noted() {
        let seen_with = |value| {
            let findings = judged(&with("message.timestamp.type", value));
            assert_eq!(advice(&findings, "timestamps"), None);
            seen(&findings, "timestamps").to_owned()
        };
        assert!(seen_with("CreateTime").contains("clocks of producers"));
        assert!(seen_with("LogAppendTime").contains("arrival"));
    }

    #[test]
    fn a_window_that_is_shorter_than_the_retention_is_found() {
        let findings = judged(&healthy());
        assert_eq!(seen(&findings, "retention"), "orders: 7d and up to 7d longer, window 7d");
        let findings = judged(&with("retention.ms", "604800001"));
        assert!(told(&findings, "retention").contains("run again"));
        let findings = judged(&with("retention.ms", "-1"));
        assert_eq!(seen(&findings, "retention"), "orders: for ever, window 7d");
        assert!(told(&findings, "retention").contains("run again"));
        // What is only compacted is never deleted for its age.
        let findings = judged(&with("cleanup.policy", "compact"));
        assert_eq!(seen(&findings, "retention"), "orders: for ever, window 7d");
    }
}
