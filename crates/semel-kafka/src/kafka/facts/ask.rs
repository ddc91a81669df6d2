//! The questions, in their order.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::groups::GroupInfo;
use rdkafka::metadata::{Metadata, MetadataBroker, MetadataPartition, MetadataTopic};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::super::context::Logs;
use super::super::options::refused;
use super::super::release::release;
use super::super::{convert, fault};
use super::witness::Witness;
use super::{
    KafkaBroker, KafkaFacts, KafkaGroup, KafkaLog, KafkaMember, KafkaPartition, KafkaSettings,
    KafkaTopic, OWN_TOPICS,
};
use crate::log::{Bounds, LogError, LogErrorKind, TopicPartition};

/// How long one attempt to reach a broker may take, before it is asked whether there is hope.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Where partitions begin or end.
type Ends = BTreeMap<TopicPartition, i64>;

/// Everything but the settings.
pub(super) async fn overview(
    log: &KafkaLog,
    group: &str,
    topics: &[String],
) -> Result<KafkaFacts, LogError> {
    let (group, topics) = (group.to_owned(), topics.to_vec());
    log.ask(move |log, time| {
        topics.iter().try_for_each(|topic| convert::check_topic(topic))?;
        let witness = Witness::default();
        let mut config = log.options.asker("read_uncommitted")?;
        // Positions that a transaction is about to change are told as they are.
        config.set("group.id", &group);
        let client = config.create_with_context(witness.clone());
        let client: BaseConsumer<Witness> = client.map_err(|error| refused(&error))?;
        let metadata = reach(&client, &witness, time)?;
        let round_trip = round_trip(&client, &metadata, time)?;
        let (group, positions) = match group_of(&client, &group, &metadata, &topics, time) {
            Ok((group, positions)) => (Ok(group), positions),
            Err(error) => (Err(error), Ends::new()),
        };
        let mut facts = facts(&metadata, topics, &positions);
        (facts.round_trip, facts.group) = (round_trip, group);
        release(client);
        for (partition, bounds) in bounds(log, &led(&facts), time)? {
            if let Some(found) = find(&mut facts, &partition) {
                found.first = Some(bounds);
            }
        }
        Ok(facts)
    })
    .await
}

/// Where the partitions begin and end now.
pub(super) async fn bounds_again(log: &KafkaLog, facts: &mut KafkaFacts) -> Result<(), LogError> {
    if facts.observed.is_zero() {
        let all = facts.topics.iter_mut().flat_map(|it| &mut it.partitions);
        all.for_each(|it| it.last = it.first);
        return Ok(());
    }
    let partitions = led(facts);
    for (partition, bounds) in log.ask(move |log, time| bounds(log, &partitions, time)).await? {
        if let Some(found) = find(facts, &partition) {
            found.last = Some(bounds);
        }
    }
    Ok(())
}

/// The settings of brokers and topics.
pub(super) async fn settings(log: &KafkaLog, facts: &mut KafkaFacts) {
    let admin = log.options.asker("read_committed").and_then(|config| {
        let admin = config.create_with_context(Logs);
        admin.map_err(|error| refused(&error))
    });
    let admin: AdminClient<Logs> = match admin {
        Ok(admin) => admin,
        // Made of the same settings as the client before, so there are no facts to fill.
        Err(_) => return,
    };
    let time = log.options.request_max;
    let brokers = facts.brokers.iter_mut().map(|broker| describe_broker(&admin, broker, time));
    join_all(brokers).await;
    let topics = facts.topics.iter_mut().chain(&mut facts.own_topics);
    join_all(topics.map(|topic| describe_topic(&admin, topic, time))).await;
    release(admin);
}

async fn describe_broker(admin: &AdminClient<Logs>, broker: &mut KafkaBroker, time: Duration) {
    let what = format!("tell the settings of broker {}", broker.id);
    broker.settings = describe(admin, ResourceSpecifier::Broker(broker.id), &what, time).await;
}

async fn describe_topic(admin: &AdminClient<Logs>, topic: &mut KafkaTopic, time: Duration) {
    let what = format!("tell the settings of the topic {}", topic.name);
    topic.settings = describe(admin, ResourceSpecifier::Topic(&topic.name), &what, time).await;
}

async fn describe(
    admin: &AdminClient<Logs>,
    whose: ResourceSpecifier<'_>,
    what: &str,
    time: Duration,
) -> Result<KafkaSettings, LogError> {
    let options = AdminOptions::new().request_timeout(Some(time));
    let told = admin.describe_configs(&[whose], &options).await;
    let told = told.map_err(|error| fault::plain(what, error))?;
    let entries = told.into_iter().flatten().flat_map(|it| {
        let is_meant = !matches!(it.specifier, OwnedResourceSpecifier::Group(_));
        it.entries.into_iter().filter(move |_| is_meant)
    });
    let plain = entries.filter(|it| !it.is_sensitive);
    let settings: KafkaSettings = plain.filter_map(|it| Some((it.name, it.value?))).collect();
    if settings.is_empty() {
        // The answer has an error in it, which rdkafka does not hand over.
        let message = format!("Kafka did not {what}; allow us the operation DescribeConfigs");
        return Err(LogError::new(LogErrorKind::Invalid, message));
    }
    Ok(settings)
}

/// Everything that brokers know of topics; the first question of all.
fn reach(
    client: &BaseConsumer<Witness>,
    witness: &Witness,
    time: Duration,
) -> Result<Metadata, LogError> {
    let mut left = time;
    loop {
        let attempt = left.min(ATTEMPT);
        let error = match client.fetch_metadata(None, attempt) {
            Ok(metadata) => return Ok(metadata),
            Err(error) => error,
        };
        left -= attempt;
        while client.poll(Duration::ZERO).is_some() {}
        if left.is_zero() || witness.is_hopeless() {
            let reason = witness.reason().unwrap_or_else(|| error.to_string());
            let message = format!("no broker answers: {reason}");
            return Err(LogError::new(LogErrorKind::Unavailable, message).with_source(error));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a real network is measured with the real clock")]
fn round_trip(
    client: &BaseConsumer<Witness>,
    metadata: &Metadata,
    time: Duration,
) -> Result<Duration, LogError> {
    // A single topic, because the answer about all of them may be long.
    let topic = metadata.topics().first().map(MetadataTopic::name);
    let start = Instant::now();
    let answer = client.fetch_metadata(topic, time);
    answer.map_err(|error| fault::plain("answer a second time", error))?;
    Ok(start.elapsed())
}

/// The group, and its positions in these topics; in all topics when none is given.
fn group_of(
    client: &BaseConsumer<Witness>,
    name: &str,
    metadata: &Metadata,
    topics: &[String],
    time: Duration,
) -> Result<(Option<KafkaGroup>, Ends), LogError> {
    let what = format!("tell about the group {name}");
    let list = client.fetch_group_list(Some(name), time);
    let list = list.map_err(|error| fault::plain(&what, error))?;
    let group = list.groups().iter().find(|it| it.name() == name).map(group);
    let mut asked = TopicPartitionList::new();
    for topic in metadata.topics() {
        let is_asked = topics.iter().any(|it| it == topic.name());
        if is_asked || topics.is_empty() && !topic.name().starts_with("__") {
            for partition in topic.partitions() {
                asked.add_partition(topic.name(), partition.id());
            }
        }
    }
    if asked.count() == 0 {
        return Ok((group, Ends::new()));
    }
    let what = format!("tell the committed positions of {name}");
    let told = client.committed_offsets(asked, time);
    Ok((group, ends(&told.map_err(|error| fault::plain(&what, error))?)))
}

fn group(info: &GroupInfo) -> KafkaGroup {
    let members = info.members().iter().map(|it| KafkaMember {
        client: it.client_id().to_owned(),
        host: it.client_host().trim_start_matches('/').to_owned(),
    });
    KafkaGroup {
        state: info.state().to_owned(),
        assignor: info.protocol().to_owned(),
        members: members.collect(),
    }
}

fn facts(metadata: &Metadata, mut asked: Vec<String>, positions: &Ends) -> KafkaFacts {
    let has_position =
        |topic: &MetadataTopic| positions.keys().any(|it| &*it.topic == topic.name());
    if asked.is_empty() {
        let read = metadata.topics().iter().filter(|it| has_position(it));
        asked = read.map(|it| it.name().to_owned()).collect();
    }
    let named = |name: &str| metadata.topics().iter().find(|it| it.name() == name);
    let exists = |name: &str| named(name).is_some_and(|it| !it.partitions().is_empty());
    let mut brokers: Vec<_> = metadata.brokers().iter().collect();
    brokers.sort_by_key(|broker| broker.id());
    let broker = |it: &MetadataBroker| KafkaBroker {
        id: it.id(),
        address: format!("{}:{}", it.host(), it.port()),
        settings: Ok(KafkaSettings::new()),
    };
    let (known, unknown): (Vec<_>, Vec<_>) = asked.into_iter().partition(|it| exists(it));
    let topic = |name: &str| named(name).map(|found| topic(found, positions));
    KafkaFacts {
        brokers: brokers.into_iter().map(broker).collect(),
        round_trip: Duration::ZERO,
        topics: known.iter().filter_map(|name| topic(name)).collect(),
        unknown_topics: unknown,
        own_topics: OWN_TOPICS.iter().filter_map(|name| topic(name)).collect(),
        group: Ok(None),
        observed: Duration::ZERO,
    }
}

fn topic(found: &MetadataTopic, positions: &Ends) -> KafkaTopic {
    let partition = |it: &MetadataPartition| KafkaPartition {
        id: it.id(),
        leader: Some(it.leader()).filter(|leader| *leader >= 0),
        replicas: it.replicas().len(),
        in_sync: it.isr().len(),
        committed: positions.get(&TopicPartition::new(found.name(), it.id())).copied(),
        first: None,
        last: None,
    };
    let mut partitions: Vec<_> = found.partitions().iter().map(partition).collect();
    partitions.sort_by_key(|partition| partition.id);
    KafkaTopic { name: found.name().to_owned(), partitions, settings: Ok(KafkaSettings::new()) }
}

fn find<'a>(facts: &'a mut KafkaFacts, at: &TopicPartition) -> Option<&'a mut KafkaPartition> {
    let topic = facts.topics.iter_mut().find(|it| *it.name == *at.topic)?;
    topic.partitions.iter_mut().find(|it| it.id == at.partition)
}

/// The partitions that somebody leads: the others tell nothing, and take their time for it.
fn led(facts: &KafkaFacts) -> Vec<TopicPartition> {
    let mut all = Vec::new();
    for topic in &facts.topics {
        let led = topic.partitions.iter().filter(|it| it.leader.is_some());
        all.extend(led.map(|it| TopicPartition::new(&*topic.name, it.id)));
    }
    all
}

/// One question to each leader, however many partitions it leads.
fn bounds(
    log: &KafkaLog,
    partitions: &[TopicPartition],
    time: Duration,
) -> Result<Vec<(TopicPartition, Bounds)>, LogError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let edge = |isolation, end| -> Result<Ends, LogError> {
        let list = convert::list(partitions.iter().map(|it| (it, end)))?;
        // A leader that does not answer leaves all of them unknown, and is named by its settings.
        let told = log.asker(isolation)?.offsets_for_times(list, time);
        Ok(told.map(|told| ends(&told)).unwrap_or_default())
    };
    let low = edge("read_committed", Offset::Beginning)?;
    // In this order, so that `stable` is never beyond `high`.
    let stable = edge("read_committed", Offset::End)?;
    let high = edge("read_uncommitted", Offset::End)?;
    let whole = |at: &TopicPartition| {
        let (low, stable, high) = (*low.get(at)?, *stable.get(at)?, *high.get(at)?);
        Some((at.clone(), Bounds { low, stable, high }))
    };
    Ok(partitions.iter().filter_map(whole).collect())
}

fn ends(list: &TopicPartitionList) -> Ends {
    let elements = list.elements();
    let end = |it: &TopicPartitionListElem<'_>| {
        it.error().ok()?;
        let Offset::Offset(offset) = it.offset() else { return None };
        Some((TopicPartition::new(it.topic(), it.partition()), offset))
    };
    elements.iter().filter_map(end).collect()
}
