//! An Apache Kafka keeps what the page of `servers` promises.
//!
//! Each test starts its own. It is skipped by name when Java is not on this machine, unless
//! everything is required.

#![allow(clippy::disallowed_methods, reason = "a cluster that elects a leader sends no signal")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use semel_testkit::servers::{Kafka, KafkaCluster, KafkaVersion, skips};

type Story = Result<(), Box<dyn std::error::Error>>;

#[test]
fn a_kafka_keeps_its_topics_over_a_crash() -> Story {
    if skips(Kafka::missing()) {
        return Ok(());
    }
    let mut kafka = Kafka::with(&[("log.retention.hours", "7")])?;
    let bootstrap = kafka.bootstrap();
    kafka.create_topic("orders", 3)?;
    let twice = kafka.create_topic("orders", 3).unwrap_err().to_string();
    assert!(twice.contains("already exists"), "{twice}");
    kafka.kill()?;
    assert!(TcpStream::connect(&bootstrap).is_err());
    kafka.start_again()?;
    assert_eq!(kafka.bootstrap(), bootstrap);
    let told = kafka.describe_topic("orders")?;
    assert!(told.contains("PartitionCount: 3 ReplicationFactor: 1"), "{told}");
    assert_eq!(told.matches("Leader: 0").count(), 3, "{told}");
    Ok(())
}

#[test]
fn a_frozen_kafka_does_not_answer_until_it_is_thawed() -> Story {
    if skips(Kafka::missing()) {
        return Ok(());
    }
    let kafka = Kafka::with(&[])?;
    let mut client = TcpStream::connect(kafka.bootstrap())?;
    kafka.freeze()?;
    // Which requests it knows (`ApiVersions`, version 0), asked by a client without a name.
    client.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff])?;
    client.set_read_timeout(Some(Duration::from_millis(200)))?;
    assert!(client.read(&mut [0; 8]).is_err());
    kafka.thaw()?;
    client.set_read_timeout(None)?;
    let mut answer = [0; 8];
    client.read_exact(&mut answer)?;
    assert_eq!(answer[4..], [0, 0, 0, 7]);
    Ok(())
}

#[test]
fn a_kafka_that_cannot_start_says_why() -> Story {
    if skips(Kafka::missing()) {
        return Ok(());
    }
    let refused = Kafka::with(&[("log.segment.bytes", "banana")]).unwrap_err().to_string();
    assert!(refused.contains("Invalid value banana"), "{refused}");
    let refused = Kafka::with(&[("log.dirs", "/dev/null/data")]).unwrap_err().to_string();
    assert!(refused.contains("/dev/null/data"), "{refused}");
    Ok(())
}

#[test]
fn an_older_kafka_starts_as_well() -> Story {
    if skips(KafkaVersion::V3_9.missing()) {
        return Ok(());
    }
    let kafka = Kafka::start_version(KafkaVersion::V3_9)?;
    kafka.create_topic("orders", 2)?;
    assert!(kafka.describe_topic("orders")?.contains("PartitionCount: 2"));
    Ok(())
}

#[test]
fn a_cluster_survives_its_leader_and_then_all_of_its_brokers() -> Story {
    if skips(KafkaCluster::missing()) {
        return Ok(());
    }
    let mut cluster = KafkaCluster::start()?;
    assert_eq!(cluster.bootstrap(), cluster.addresses().join(","));
    cluster.create_topic("orders", 1)?;
    let first = cluster.leader("orders", 0)?;
    let told = cluster.describe_topic("orders")?;
    assert!(told.contains("ReplicationFactor: 3 Configs: min.insync.replicas=2"), "{told}");
    cluster.kill_broker(first);
    while cluster.leader("orders", 0).is_ok_and(|leader| leader == first) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = cluster.leader("orders", 0)?;
    cluster.freeze_broker(second);
    cluster.thaw_broker(second);
    cluster.start_broker_again(first)?;
    let told = cluster.describe_topic("orders")?;
    let (_, in_sync) = told.split_once("Isr: ").ok_or("no replicas")?;
    let in_sync = in_sync.split_whitespace().next().unwrap_or_default();
    assert_eq!(in_sync.matches(',').count(), 2, "{told}");
    // All of it down: nobody answers before two are back.
    (0..3).for_each(|broker| cluster.kill_broker(broker));
    (0..3).try_for_each(|broker| cluster.start_broker_again(broker))?;
    cluster.leader("orders", 0)?;
    Ok(())
}

/// The other half of the next test, in a process of its own with a variable of its own.
#[test]
#[ignore = "it wants to be given a Kafka"]
fn uses_the_kafka_that_it_is_given() -> Story {
    let mut kafka = Kafka::start()?;
    assert_eq!(kafka.bootstrap(), std::env::var("SEMEL_TEST_KAFKA")?);
    kafka.create_topic("given", 2)?;
    for refused in [kafka.kill(), kafka.start_again(), kafka.freeze(), kafka.thaw()] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("SEMEL_TEST_KAFKA"), "{refused}");
    }
    Ok(())
}

#[test]
fn a_kafka_that_is_given_is_used_and_left_alone() -> Story {
    if skips(Kafka::missing()) {
        return Ok(());
    }
    let kafka = Kafka::with(&[])?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", "uses_the_kafka_that_it_is_given", "--ignored"])
        .env("SEMEL_TEST_KAFKA", kafka.bootstrap())
        .output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(kafka.describe_topic("given")?.contains("PartitionCount: 2"));
    Ok(())
}
