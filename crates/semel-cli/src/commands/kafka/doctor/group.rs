//! What is to be said about a group and about its place in the topics.

use std::time::Duration;

use semel_kafka::log::Bounds;
use semel_kafka::{KafkaFacts, KafkaGroup, KafkaPartition};

use super::topics::{covers, keeps};
use super::{Finding, Wish, kept, lowest, millis, some};
use crate::text;

/// Offsets behind the position that are no work: the mark at the end of a transaction.
const MARK: i64 = 1;

pub(super) fn judge(facts: &KafkaFacts, wish: &Wish<'_>, findings: &mut Vec<Finding>) {
    findings.push(membership(facts, wish));
    findings.extend(offsets_retention(facts, wish));
    if facts.topics.is_empty() {
        return;
    }
    if facts.group.is_ok() {
        findings.push(lag(facts));
        findings.extend(misplaced(facts));
    }
    findings.push(transactions(facts, wish));
}

/// Partitions with their names and where they begin and end.
fn places(facts: &KafkaFacts) -> impl Iterator<Item = Place<'_>> {
    facts.topics.iter().flat_map(|topic| {
        topic.partitions.iter().filter_map(|partition| {
            let bounds = partition.last?;
            Some(Place { topic: &topic.name, partition, bounds })
        })
    })
}

#[derive(Clone, Copy)]
struct Place<'a> {
    topic: &'a str,
    partition: &'a KafkaPartition,
    bounds: Bounds,
}

impl Place<'_> {
    fn name(&self) -> String {
        format!("{}-{}", self.topic, self.partition.id)
    }

    /// From the position, or from the beginning without one, to the end of what can be read.
    fn lag(&self) -> i64 {
        let from = self.partition.committed.unwrap_or(self.bounds.low).max(self.bounds.low);
        self.bounds.stable.saturating_sub(from).max(0)
    }
}

fn membership(facts: &KafkaFacts, wish: &Wish<'_>) -> Finding {
    let name = wish.group;
    let has_position = places(facts).any(|it| it.partition.committed.is_some());
    let group = match &facts.group {
        Ok(group) => group.as_ref(),
        Err(error) => {
            return Finding::new("group", format!("{name}: unknown"), Some(&error.to_string()));
        }
    };
    let Some(group) = group else {
        let advice = "no broker knows it: is the name right, and has it ever run?";
        return Finding::new("group", format!("{name}: unknown"), Some(advice));
    };
    if group.state == "Dead" && has_position {
        let seen = format!("{name}: its members are assigned by the brokers and cannot be listed");
        return Finding::new("group", seen, None);
    }
    let waits = places(facts).any(|it| it.lag() > MARK);
    let problem = (group.members.is_empty() && waits)
        .then_some("records wait and it has no members; start its consumers");
    Finding::new("group", format!("{name}: {}", members(group)), problem)
}

fn members(group: &KafkaGroup) -> String {
    let count = group.members.len();
    let plural = if count == 1 { "" } else { "s" };
    let who = |it: &semel_kafka::KafkaMember| format!("{} at {}", it.client, it.host);
    let who: Vec<_> = group.members.iter().map(who).collect();
    let mut seen = format!("{}, {count} member{plural}", group.state);
    for more in [&group.assignor, &some(&who)] {
        if !more.is_empty() {
            seen = format!("{seen}, {more}");
        }
    }
    seen
}

/// Whether the group may forget its place while records are still there.
fn offsets_retention(facts: &KafkaFacts, wish: &Wish<'_>) -> Option<Finding> {
    let minutes = lowest(facts, "offsets.retention.minutes")?;
    let forgotten = millis(minutes.saturating_mul(60_000))?;
    let settings = facts.topics.iter().filter_map(|topic| topic.settings.as_ref().ok());
    let longer = |time: Option<Duration>| time.is_none_or(|time| time > forgotten);
    let times = settings.filter_map(keeps).filter(|time| longer(*time));
    let uncovered = times.filter(|time| !covers(wish.window, *time));
    // Without an end is the longest of all.
    let longest = uncovered.max_by_key(|time| time.unwrap_or(Duration::MAX));
    let problem = longest.map(|time| {
        format!(
            "a group without members for so long begins anew, and records are kept {}: all of \
             them run again (with auto.offset.reset=latest they are skipped instead); raise \
             offsets.retention.minutes, or make the window as long",
            kept(time)
        )
    });
    let seen = format!("{} without members", text::duration(forgotten));
    Some(Finding::new("offsets.retention", seen, problem.as_deref()))
}

fn lag(facts: &KafkaFacts) -> Finding {
    let behind: Vec<_> = places(facts).filter(|it| it.lag() > 0).collect();
    let sum = behind.iter().fold(0_i64, |sum, it| sum.saturating_add(it.lag()));
    let each: Vec<_> = behind.iter().map(|it| format!("{} {}", it.name(), it.lag())).collect();
    let none = places(facts).filter(|it| it.partition.committed.is_none()).count();
    let mut seen = format!("{sum} in all");
    if !each.is_empty() {
        seen = format!("{seen}: {}", some(&each));
    }
    if none > 0 {
        seen = format!("{seen}; without a position: {none}");
    }
    Finding::new("lag", seen, None)
}

/// A position that cannot be right.
struct Misplaced {
    is_such: fn(Bounds, i64) -> bool,
    seen: &'static str,
    advice: &'static str,
}

const MISPLACED: [Misplaced; 3] = [
    Misplaced {
        is_such: |bounds, at| at < bounds.low,
        seen: "before the first record",
        advice: "records were deleted before the group had read them, and they are lost; raise \
                 retention.ms, and start its consumers sooner",
    },
    Misplaced {
        is_such: |bounds, at| at > bounds.high,
        seen: "beyond the end",
        advice: "the topic was made anew, or lost its end: its records would be skipped or read \
                 from the first one; set it with kafka-consumer-groups.sh --reset-offsets",
    },
    Misplaced {
        is_such: |bounds, at| at > bounds.stable && at <= bounds.high,
        seen: "inside an open transaction",
        advice: "the group reads what was not committed; set isolation.level=read_committed",
    },
];

fn misplaced(facts: &KafkaFacts) -> Vec<Finding> {
    let find = |kind: &Misplaced| {
        let such = places(facts).filter_map(|it| {
            let at = it.partition.committed.filter(|at| (kind.is_such)(it.bounds, *at))?;
            Some(format!("{} at {at} of {}..{}", it.name(), it.bounds.low, it.bounds.high))
        });
        let such: Vec<_> = such.collect();
        let seen = || format!("{}: {}", kind.seen, some(&such));
        (!such.is_empty()).then(|| Finding::new("position", seen(), Some(kind.advice)))
    };
    MISPLACED.iter().filter_map(find).collect()
}

/// What open transactions hide.
fn transactions(facts: &KafkaFacts, wish: &Wish<'_>) -> Finding {
    let open: Vec<_> = places(facts).filter(|it| it.bounds.stable < it.bounds.high).collect();
    let hidden = |it: &Place<'_>| it.bounds.high.saturating_sub(it.bounds.stable);
    let sum = open.iter().fold(0_i64, |sum, it| sum.saturating_add(hidden(it)));
    let hanging: Vec<_> = open.iter().filter(|it| hangs(it.partition)).collect();
    let Some(first) = hanging.first() else {
        let seen = match sum {
            0 => "hide nothing".to_owned(),
            sum => format!("hide {sum}, and they move"),
        };
        return Finding::new("open transactions", seen, None);
    };
    let watched = text::duration(facts.observed);
    let each = |it: &&Place<'_>| format!("{} from {} on", it.name(), it.bounds.stable);
    let named: Vec<_> = hanging.iter().map(each).collect();
    let limit = lowest(facts, "transaction.max.timeout.ms").and_then(millis);
    let limit = limit.map_or_else(String::new, |limit| format!(" ({})", text::duration(limit)));
    let (topic, brokers) = (first.topic, text::shell_word(wish.brokers));
    let tool = format!("kafka-transactions.sh --bootstrap-server {brokers}");
    let advice = format!(
        "nobody reads beyond it. Since when it is open cannot be seen; Kafka aborts it after its \
         time-out, at most transaction.max.timeout.ms{limit}. When it is still there then: \
         `{tool} find-hanging --topic {topic}` and `{tool} abort --topic {topic} --partition {} \
         --start-offset {}`",
        first.partition.id, first.bounds.stable
    );
    let seen = format!("hide {sum}; hanging for at least {watched}: {}", some(&named));
    Finding::new("open transactions", seen, Some(&advice))
}

/// A transaction was open at the first look, and the same one at the last.
fn hangs(partition: &KafkaPartition) -> bool {
    let (Some(first), Some(last)) = (partition.first, partition.last) else { return false };
    first.stable < first.high && last.stable < last.high && first.stable == last.stable
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use semel_kafka::KafkaFacts;
    use semel_kafka::log::Bounds;

    use super::super::sample::{advice, healthy, judged, judged_with, seen};

    fn at(committed: i64, bounds: [i64; 3]) -> KafkaFacts {
        let mut facts = healthy();
        let partition = &mut facts.topics[0].partitions[0];
        let [low, stable, high] = bounds;
        let bounds = Some(Bounds { low, stable, high });
        (partition.first, partition.last) = (bounds, bounds);
        partition.committed = Some(committed);
        facts
    }

    #[test]
    fn a_group_is_shown_with_its_members() {
        let findings = judged(&healthy());
        assert_eq!(
            seen(&findings, "group"),
            "shop: Stable, 1 member, cooperative-sticky, worker at 10.0.0.7"
        );
        let mut facts = healthy();
        facts.group = Ok(None);
        assert!(advice(&judged(&facts), "group").unwrap().contains("name"));
    }

    #[test]
    fn a_group_without_members_is_found_when_something_waits() {
        let mut facts = healthy();
        let group = facts.group.as_mut().unwrap().as_mut().unwrap();
        group.members.clear();
        group.state = "Empty".to_owned();
        assert!(advice(&judged(&facts), "group").unwrap().contains("start"));
        // Only the mark at the end of a transaction is left.
        for partition in &mut facts.topics[0].partitions {
            partition.committed = partition.last.map(|it| it.stable - 1);
        }
        assert_eq!(advice(&judged(&facts), "group"), None);
    }

    #[test]
    fn a_group_whose_members_the_brokers_assign_is_no_dead_one() {
        let mut facts = healthy();
        let group = facts.group.as_mut().unwrap().as_mut().unwrap();
        group.members.clear();
        group.state = "Dead".to_owned();
        let findings = judged(&facts);
        assert!(seen(&findings, "group").contains("assigned by the brokers"));
        assert_eq!(advice(&findings, "group"), None);
    }

    #[test]
    fn lag_is_told_in_all_and_for_each_partition() {
        assert_eq!(seen(&judged(&healthy()), "lag"), "12 in all: orders-0 5, orders-1 7");
        let mut facts = healthy();
        facts.topics[0].partitions[1].committed = None;
        assert_eq!(
            seen(&judged(&facts), "lag"),
            "105 in all: orders-0 5, orders-1 100; without a position: 1"
        );
    }

    #[test]
    fn a_position_that_cannot_be_right_is_named() {
        let findings = judged(&at(4, [10, 20, 20]));
        assert_eq!(seen(&findings, "position"), "before the first record: orders-0 at 4 of 10..20");
        assert!(advice(&findings, "position").unwrap().contains("lost"));
        let findings = judged(&at(21, [10, 20, 20]));
        assert!(advice(&findings, "position").unwrap().contains("made anew"));
        let findings = judged(&at(19, [10, 15, 20]));
        assert!(advice(&findings, "position").unwrap().contains("read_committed"));
        for right in [10, 15] {
            let findings = judged(&at(right, [10, 15, 20]));
            assert!(findings.iter().all(|it| it.what != "position"));
        }
    }

    #[test]
    fn a_transaction_that_does_not_end_is_named_with_the_way_out() {
        let mut facts = at(15, [10, 15, 20]);
        facts.observed = Duration::from_secs(2);
        let findings = judged(&facts);
        assert_eq!(
            seen(&findings, "open transactions"),
            "hide 5; hanging for at least 2s: orders-0 from 15 on"
        );
        let told = advice(&findings, "open transactions").unwrap();
        assert!(told.contains("(15m)"), "{told}");
        assert!(told.contains("--bootstrap-server kafka:9092 find-hanging --topic orders"));
        assert!(told.contains("abort --topic orders --partition 0 --start-offset 15"), "{told}");
    }

    #[test]
    fn transactions_that_come_and_go_hang_nowhere() {
        // It ended and the next one began.
        let mut facts = at(15, [10, 15, 20]);
        facts.topics[0].partitions[0].last = Some(Bounds { low: 10, stable: 21, high: 22 });
        let findings = judged(&facts);
        assert_eq!(seen(&findings, "open transactions"), "hide 1, and they move");
        assert_eq!(advice(&findings, "open transactions"), None);
        // It began while we watched.
        facts.topics[0].partitions[0].first = Some(Bounds { low: 10, stable: 21, high: 21 });
        assert_eq!(advice(&judged(&facts), "open transactions"), None);
    }

    #[test]
    fn a_group_that_forgets_its_place_needs_a_window() {
        let mut facts = healthy();
        let settings = facts.topics[0].settings.as_mut().unwrap();
        settings.insert("retention.ms".to_owned(), (30 * 86_400_000_i64).to_string());
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        for (window, is_problem) in [(None, true), (days(29), true), (days(30), false)] {
            let findings = judged_with(&facts, window);
            let told = advice(&findings, "offsets.retention");
            assert_eq!(told.is_some_and(|told| told.contains("30d")), is_problem, "{told:?}");
        }
        assert_eq!(advice(&judged_with(&healthy(), None), "offsets.retention"), None);
    }
}
