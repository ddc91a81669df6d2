//! `semel kafka doctor`: what it is told, and what it tells.

mod brokers;
mod group;
#[cfg(test)]
mod sample;
mod topics;

use std::path::PathBuf;
use std::time::Duration;

use semel::SystemClock;
use semel_http::parse_duration;
use semel_kafka::log::{LogError, LogErrorKind};
use semel_kafka::{KafkaFacts, KafkaLog, KafkaOptions, KafkaSettings};

use crate::commands::doctor::{Finding, tell};
use crate::failure::Failure;
use crate::text;

/// How long the answer to one question may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where Kafka is; one broker that is up is enough
    #[arg(long, value_name = "HOST:PORT,…", env = "SEMEL_KAFKA_BROKERS")]
    brokers: String,
    /// The consumer group
    #[arg(long)]
    group: String,
    /// A topic that the group reads; may be repeated. Without it: all in which it has a position
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// For how long the group remembers what it has done, to compare it with what Kafka keeps
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    window: Option<Duration>,
    /// How long to watch a transaction that is open
    #[arg(long, value_name = "DUR", value_parser = parse_duration, default_value = "2s")]
    observe: Duration,
    /// A setting of librdkafka; may be repeated. Passwords belong into `--settings-file`
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// File with such settings, one on a line
    #[arg(long, value_name = "FILE", env = "SEMEL_KAFKA_SETTINGS_FILE")]
    settings_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What the facts are held against.
#[derive(Debug)]
struct Wish<'a> {
    brokers: &'a str,
    group: &'a str,
    window: Option<Duration>,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let log = KafkaLog::with(options(&arguments)?).map_err(|error| wrong(&error))?;
    let Arguments { brokers, group, topics, window, observe, json, .. } = arguments;
    let wish = Wish { brokers: &brokers, group: &group, window };
    let findings = match log.facts(&group, &topics, observe, &SystemClock).await {
        Ok(facts) => judge(&facts, &wish),
        Err(error) if error.kind() == LogErrorKind::Invalid => return Err(wrong(&error)),
        Err(error) => vec![unreachable(&brokers, &error)],
    };
    tell(&findings, json, &format!("the group {group}"))
}

fn options(arguments: &Arguments) -> Result<KafkaOptions, Failure> {
    let mut options = KafkaOptions::new(&arguments.brokers).request_max(REQUEST_MAX);
    let in_file = arguments.settings_file.as_deref().map(in_file).transpose()?;
    for (name, value) in in_file.into_iter().flatten().chain(arguments.settings.clone()) {
        options = options.set(name, value);
    }
    Ok(options)
}

/// The settings of a file: like `--set`, with empty lines and comments behind `#`.
fn in_file(path: &std::path::Path) -> Result<Vec<(String, String)>, Failure> {
    let shown = path.display();
    let unread = |error| Failure::usage(format!("{shown} cannot be read: {error}"));
    let held = std::fs::read_to_string(path).map_err(unread)?;
    let lines = held.lines().map(str::trim).zip(1..);
    let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    // Without the line itself: it may hold a password.
    let read = |(line, number)| {
        setting(line).map_err(|why| Failure::usage(format!("{shown}, line {number}: {why}")))
    };
    lines.map(read).collect()
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write NAME=VALUE, for example client.id=shop".to_owned()),
    }
}

fn wrong(error: &LogError) -> Failure {
    Failure::usage(error)
}

fn unreachable(brokers: &str, error: &LogError) -> Finding {
    let advice = format!("{error}; are they up, and is --brokers right?");
    Finding::new("brokers", format!("{brokers} out of reach"), Some(&advice))
}

fn judge(facts: &KafkaFacts, wish: &Wish<'_>) -> Vec<Finding> {
    let mut findings = vec![Finding::new("program", env!("CARGO_PKG_VERSION"), None)];
    brokers::judge(facts, &mut findings);
    topics::judge(facts, wish, &mut findings);
    group::judge(facts, wish, &mut findings);
    findings
}

/// A setting as a number, when it is there.
fn number(settings: &KafkaSettings, name: &str) -> Option<i64> {
    settings.get(name)?.parse().ok()
}

/// A time in milliseconds; negative ones mean that there is no end.
fn millis(number: i64) -> Option<Duration> {
    u64::try_from(number).ok().map(Duration::from_millis)
}

/// The lowest value among the brokers.
fn lowest(facts: &KafkaFacts, name: &str) -> Option<i64> {
    let settings = facts.brokers.iter().filter_map(|broker| broker.settings.as_ref().ok());
    settings.filter_map(|settings| number(settings, name)).min()
}

/// How long something is kept.
fn kept(time: Option<Duration>) -> String {
    time.map_or_else(|| "for ever".to_owned(), text::duration)
}

/// Few words for many things: the first ones, and how many more there are.
fn some(things: &[String]) -> String {
    const SHOWN_MAX: usize = 8;
    let shown = things.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match things.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{advice, healthy, judged};
    use super::*;

    #[test]
    fn nothing_is_wrong_with_a_healthy_cluster() {
        let findings = judged(&healthy());
        assert!(findings.iter().all(|it| it.advice.is_none()), "{findings:#?}");
    }

    #[test]
    fn brokers_out_of_reach_are_a_finding_with_the_reason() {
        let error = LogError::new(LogErrorKind::Unavailable, "no broker answers: refused");
        let finding = unreachable("kafka:9092", &error);
        assert_eq!((finding.what, &*finding.seen), ("brokers", "kafka:9092 out of reach"));
        let advice = finding.advice.unwrap();
        assert!(advice.contains("refused") && advice.contains("--brokers"), "{advice}");
    }

    #[test]
    fn what_a_broker_does_not_tell_is_a_finding_and_no_guess() {
        let mut facts = healthy();
        let denied = || Err(LogError::new(LogErrorKind::Invalid, "denied; allow it"));
        facts.brokers[0].settings = denied();
        facts.topics[0].settings = denied();
        facts.own_topics[0].settings = denied();
        facts.group = Err(LogError::new(LogErrorKind::Invalid, "no group for you"));
        let findings = judged(&facts);
        assert_eq!(advice(&findings, "group"), Some("no group for you"));
        let told: Vec<_> = findings.iter().filter(|it| it.what == "settings").collect();
        let seen: Vec<_> = told.iter().map(|it| &*it.seen).collect();
        let untold = ["broker 0: unknown", "__consumer_offsets: unknown", "orders: unknown"];
        assert_eq!(seen, untold);
        assert_eq!(findings.iter().filter(|it| it.advice.is_some()).count(), 4, "{findings:#?}");
    }

    #[test]
    fn a_setting_has_a_name_and_a_value() {
        let read = |text| setting(text).map_err(drop);
        assert_eq!(read("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(read(" a = "), Ok(("a".to_owned(), String::new())));
        assert_eq!((read("a"), read("=b"), read("")), (Err(()), Err(()), Err(())));
    }

    #[test]
    fn a_broken_line_of_a_file_is_named_without_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kafka.properties");
        std::fs::write(&path, "# shop\n\nclient.id=shop\n").unwrap();
        assert_eq!(in_file(&path).unwrap(), [("client.id".to_owned(), "shop".to_owned())]);
        std::fs::write(&path, "client.id=shop\nhunter2\n").unwrap();
        let told = format!("{:?}", in_file(&path).unwrap_err());
        assert!(told.contains("line 2") && !told.contains("hunter2"), "{told}");
    }

    #[test]
    fn many_things_are_cut_short() {
        let things: Vec<_> = (0..10).map(|it| it.to_string()).collect();
        assert_eq!(some(&things), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
        assert_eq!(some(&things[..2]), "0, 1");
    }
}
