//! What `semel kafka doctor` says about a real Apache Kafka.
//!
//! Goal: whoever operates a group learns from the exit code whether its work can take effect once,
//! and from the text what stands in the way and how to get out.
//! Method: real brokers (a test says `SKIPPED` where Java is missing), groups and transactions made
//! through the door itself, and one thing broken in each test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and real processes are watched with the real clock"
)]

mod door;

use std::net::TcpListener;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use semel_kafka::GroupProtocol;
use semel_testkit::servers::{Kafka, KafkaCluster, KafkaVersion, skips};
use serde_json::Value;

use self::door::Door;

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Exit code, standard output and standard error.
fn doctor(words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    let output = command.args(["kafka", "doctor"]).args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (said, complained) = (text(output.stdout), text(output.stderr));
    assert!(!complained.contains("panicked"), "{words:?}: {complained}");
    (output.status.code(), said, complained)
}

/// What the doctor found.
#[derive(Debug)]
struct Told {
    exit: Option<i32>,
    is_safe: bool,
    findings: Vec<(String, String, Option<String>)>,
}

impl Told {
    /// Asks, and again as long as only the machine is busy.
    fn of(words: &[&str]) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = Self::now(words);
            let is_busy = told.problems().contains(&"round trip");
            if !is_busy || Instant::now() > deadline {
                return told;
            }
        }
    }

    fn now(words: &[&str]) -> Self {
        let (exit, said, complained) = doctor(&[words, &["--json"]].concat());
        assert_eq!((said.lines().count(), &*complained), (1, ""), "{said}");
        let told: Value = serde_json::from_str(&said).unwrap();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let finding = |it: &Value| {
            (text(&it["what"]).unwrap(), text(&it["seen"]).unwrap(), text(&it["advice"]))
        };
        let findings = told["findings"].as_array().unwrap().iter().map(finding).collect();
        Self { exit, is_safe: told["safe"].as_bool().unwrap(), findings }
    }

    fn problems(&self) -> Vec<&str> {
        let wrong = self.findings.iter().filter(|(_, _, advice)| advice.is_some());
        wrong.map(|(what, _, _)| what.as_str()).collect()
    }

    fn seen(&self, what: &str) -> &str {
        let found = self.findings.iter().find(|it| it.0 == what);
        &found.unwrap_or_else(|| panic!("nothing about {what}: {self:#?}")).1
    }

    fn advice(&self, what: &str) -> &str {
        let wrong = |it: &&(String, String, Option<String>)| it.0 == what && it.2.is_some();
        let found = self.findings.iter().find(wrong);
        let found = found.unwrap_or_else(|| panic!("no advice about {what}: {self:#?}"));
        found.2.as_deref().unwrap()
    }
}

/// One broker for all tests that do not break it.
fn broker() -> Option<&'static Kafka> {
    // Nobody drops it: it goes with this process. Never one that is given, for its settings count.
    static SERVER: OnceLock<Kafka> = OnceLock::new();
    (!skips(Kafka::missing())).then(|| SERVER.get_or_init(|| Kafka::with(&[]).unwrap()))
}

#[test]
fn a_cluster_with_three_copies_and_a_long_window_is_safe() {
    if skips(KafkaCluster::missing()) {
        return;
    }
    let mut cluster = KafkaCluster::start().unwrap();
    cluster.create_topic("orders", 2).unwrap();
    let brokers = cluster.bootstrap();
    let door = Door::to(&brokers);
    door.write("orders", 10);
    let member = door.read("orders", "shop", 10, GroupProtocol::Classic);
    let words = ["--brokers", &brokers, "--group", "shop", "--window", "7d"];
    let told = Told::of(&words);
    assert_eq!((told.exit, told.is_safe, told.problems()), (Some(0), true, vec![]), "{told:#?}");
    assert_eq!(told.seen("topic"), "orders: 2 partitions");
    assert_eq!(told.seen("lag"), "0 in all");
    assert_eq!(told.seen("replicas"), "orders: 3 replicas, a write needs 2");
    assert_eq!(told.seen("offsets topic"), "3 replicas, a write needs 2");
    assert_eq!(told.seen("transaction log"), "3 replicas, a write needs 2, not made yet");
    assert!(told.seen("version").starts_with("4.0 or later; groups: "), "{told:#?}");
    let group = told.seen("group");
    assert!(group.starts_with("shop: Stable, 1 member, cooperative-sticky, "), "{group}");
    let (exit, said, _) = doctor(&words);
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.ends_with("the group shop is safe\n") && !said.contains("!!"), "{said}");
    door.leave(member);
    // Nobody knows what is older than an hour, and the topic keeps it for a week.
    let told = Told::of(&["--brokers", &brokers, "--group", "shop", "--window", "1h"]);
    assert_eq!((told.exit, told.problems()), (Some(1), vec!["retention"]), "{told:#?}");
    assert!(told.advice("retention").contains("run again"));
    // The others go on without it, which takes them three seconds.
    cluster.kill_broker(0);
    let deadline = Instant::now() + PATIENCE;
    while !Told::now(&words).problems().contains(&"replicas") {
        assert!(Instant::now() < deadline, "nobody misses the broker");
    }
    let told = Told::of(&words);
    assert_eq!(told.problems(), ["replicas"], "{told:#?}");
    assert!(told.seen("replicas").contains("not all are in sync of orders-0, orders-1"));
}

#[test]
fn a_single_broker_is_told_what_it_loses() {
    let Some(kafka) = broker() else { return };
    kafka.create_topic("alone", 1).unwrap();
    let door = Door::to(&kafka.bootstrap());
    door.write("alone", 3);
    door.leave(door.read("alone", "alone", 3, GroupProtocol::Classic));
    let told = Told::of(&["--brokers", &kafka.bootstrap(), "--group", "alone"]);
    assert_eq!(told.exit, Some(1));
    assert!(told.problems().contains(&"offsets topic"), "{told:#?}");
    assert!(told.advice("replicas").contains("the disk of one broker"));
    assert!(told.seen("retention").contains("--window is compared with it"));
    assert_eq!(told.seen("group"), "alone: Empty, 0 members");
    assert!(!told.problems().contains(&"group"), "nothing waits: {told:#?}");
    door.write("alone", 2);
    let told = Told::of(&["--brokers", &kafka.bootstrap(), "--group", "alone"]);
    assert_eq!(told.seen("lag"), "2 in all: alone-0 2");
    assert!(told.advice("group").contains("start its consumers"));
}

#[test]
fn what_does_not_exist_is_named() {
    let Some(kafka) = broker() else { return };
    let brokers = kafka.bootstrap();
    let told = Told::of(&["--brokers", &brokers, "--group", "nobody", "--topic", "ordres"]);
    assert_eq!((told.exit, told.seen("topic")), (Some(1), "ordres: unknown"), "{told:#?}");
    assert!(told.advice("topic").contains("no such topic"));
    assert!(told.advice("group").contains("is the name right"));
    let told = Told::of(&["--brokers", &brokers, "--group", "nobody"]);
    assert!(told.advice("topic").contains("--topic"), "{told:#?}");
    // Asking made nothing.
    assert!(kafka.describe_topic("ordres").is_err());
}

#[test]
fn a_group_whose_members_the_brokers_assign_is_alive() {
    let Some(kafka) = broker() else { return };
    kafka.create_topic("assigned", 1).unwrap();
    let door = Door::to(&kafka.bootstrap());
    door.write("assigned", 3);
    let member = door.read("assigned", "assigned", 3, GroupProtocol::Consumer);
    let told = Told::of(&["--brokers", &kafka.bootstrap(), "--group", "assigned"]);
    assert!(told.seen("group").contains("assigned by the brokers"), "{told:#?}");
    assert!(!told.problems().contains(&"group"), "{told:#?}");
    assert_eq!(told.seen("lag"), "0 in all");
    door.leave(member);
}

#[test]
fn a_transaction_that_does_not_end_is_named_until_it_ends() {
    let Some(kafka) = broker() else { return };
    kafka.create_topic("open", 2).unwrap();
    let brokers = kafka.bootstrap();
    let door = Door::to(&brokers);
    let open = door.begin("open", "id", 3);
    let words = ["--brokers", &brokers, "--group", "g", "--topic", "open", "--observe", "300ms"];
    let told = Told::of(&words);
    assert_eq!(told.exit, Some(1));
    let seen = told.seen("open transactions");
    assert_eq!(seen, "hide 3; hanging for at least 300ms: open-0 from 0 on");
    let advice = told.advice("open transactions");
    for part in ["(15m)", "find-hanging --topic open", "--partition 0 --start-offset 0"] {
        assert!(advice.contains(part), "no `{part}` in {advice}");
    }
    door.abort(&open);
    let told = Told::of(&words);
    assert_eq!(told.seen("open transactions"), "hide nothing");
}

#[test]
fn a_position_that_a_topic_cannot_have_is_named() {
    let Some(kafka) = broker() else { return };
    kafka.create_topic("anew", 1).unwrap();
    let door = Door::to(&kafka.bootstrap());
    door.write("anew", 3);
    door.commit("anew", "anew", 1000);
    let told = Told::of(&["--brokers", &kafka.bootstrap(), "--group", "anew"]);
    assert_eq!(told.seen("position"), "beyond the end: anew-0 at 1000 of 0..3");
    assert!(told.advice("position").contains("made anew"));
}

#[test]
fn brokers_that_are_not_there_are_found_in_bounded_time() {
    // Bound and let go: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let brokers = format!("127.0.0.1:{port}");
    let start = Instant::now();
    let told = Told::now(&["--brokers", &brokers, "--group", "shop"]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!((told.exit, told.problems()), (Some(1), vec!["brokers"]), "{told:#?}");
    assert_eq!(told.seen("brokers"), format!("{brokers} out of reach"));
    assert!(told.advice("brokers").contains("Connection refused"), "{told:#?}");
    // One that takes calls and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let brokers = silent.local_addr().unwrap().to_string();
    let start = Instant::now();
    let told = Told::now(&["--brokers", &brokers, "--group", "shop"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert_eq!((told.exit, told.problems()), (Some(1), vec!["brokers"]), "{told:#?}");
}

#[test]
fn a_call_that_is_wrong_ends_with_2_and_says_why() {
    let fails = |words: &[&str], part: &str| {
        let (exit, said, complained) = doctor(words);
        assert_eq!((exit, &*said), (Some(2), ""), "{words:?}: {complained}");
        assert!(complained.contains(part), "{words:?}: no `{part}` in {complained}");
    };
    let with =
        |more: &[&'static str]| [&["--brokers", "127.0.0.1:1", "--group", "g"], more].concat();
    fails(&["--group", "g"], "--brokers");
    fails(&["--brokers", "127.0.0.1:1"], "--group");
    fails(&with(&["--window", "soon"]), "`30s`");
    fails(&with(&["--set", "client.id"]), "NAME=VALUE");
    fails(&with(&["--set", "acks=1"]), "the setting `acks` cannot be `1`");
    fails(&with(&["--set", "no.such=thing"]), "`no.such`");
    fails(&with(&["--topic", "no topic"]), "no name of a topic");
    fails(&with(&["--settings-file", "/nowhere/kafka"]), "/nowhere/kafka");
}

#[test]
fn an_older_kafka_is_looked_at_as_well() {
    if skips(KafkaVersion::V3_9.missing()) {
        return;
    }
    let kafka = Kafka::start_version(KafkaVersion::V3_9).unwrap();
    kafka.create_topic("orders", 1).unwrap();
    let brokers = kafka.bootstrap();
    let told = Told::of(&["--brokers", &brokers, "--group", "shop", "--topic", "orders"]);
    assert!(told.seen("version").starts_with("before 4.0"), "{told:#?}");
    assert_eq!(told.seen("topic"), "orders: 1 partition");
    assert_eq!(told.seen("unclean.leader.election"), "orders: false");
}
