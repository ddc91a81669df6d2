//! Consume, transform, produce.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use semel::ErrorKind;
use semel_kafka::log::{Log, LogErrorKind, Outgoing, ProducerSettings, Record};
use semel_kafka::{
    ConsumerOptions, Failed, Identity, KEY_HEADER, Op, Poison, TestLog, Transform, dead_letter,
};

use super::support::{
    Switch, assert_once_and_in_order, block_on, fill, header, log, number, options, read,
};

fn transform(log: &TestLog, id: &str, options: ConsumerOptions) -> Transform {
    Transform::new(Arc::new(log.clone()), id, Identity::header("id"), options).unwrap()
}

fn copy(record: &Record) -> Outgoing {
    let Record { key, value, .. } = record.clone();
    Outgoing { key, value, ..Outgoing::to("out") }
}

#[test]
fn every_record_has_its_outputs_once_in_order_and_with_keys_of_their_own() {
    block_on(async {
        let log = log();
        fill(&log, 0..300, 7);
        let switch = Switch::new();
        let consumer = transform(&log, "copy", options("in"));
        let until = switch.until();
        let run = tokio::spawn(async move {
            consumer.run(|record| async move { Ok(vec![copy(&record)]) }, until).await
        });
        let outputs = read(&log, "out", 300).await;
        switch.off();
        run.await.unwrap().unwrap();
        let numbers: Vec<_> = outputs.iter().map(number).collect();
        assert_once_and_in_order(&numbers, 300, 7);
        let mut keys: Vec<_> = outputs.iter().map(|it| header(it, KEY_HEADER)).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 300);
        assert!(log.open_transactions().is_empty());
        assert!(log.members("group").is_empty());
    });
}

#[test]
fn outputs_that_are_written_again_after_an_abort_have_the_same_keys() {
    block_on(async {
        let log = log();
        fill(&log, 0..1, 1);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        log.fail_next(Op::Commit, LogErrorKind::Abortable);
        let switch = Switch::new();
        let (consumer, until) = (transform(&log, "copy", options("in")), switch.until());
        let attempts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&attempts);
        let run = tokio::spawn(async move {
            let handler = move |record: Arc<Record>| {
                counted.fetch_add(1, Ordering::SeqCst);
                async move { Ok(vec![copy(&record), copy(&record)]) }
            };
            consumer.run(handler, until).await
        });
        let outputs = read(&log, "out", 2).await;
        switch.off();
        run.await.unwrap().unwrap();
        seen.lock().unwrap().extend(outputs.iter().map(|it| header(it, KEY_HEADER)));
        assert_eq!(attempts.load(Ordering::SeqCst), 2);
        assert_eq!(log.topic_records("out").len(), 2);
        let parent = semel::RecordId {
            tenant: semel::Tenant::single(),
            operation: semel::Operation::new("group").unwrap(),
            key: semel::Key::parse("id-0").unwrap(),
        };
        let expected = ["0", "1"].map(|it| semel::Key::derived(&parent, it).as_str().to_owned());
        assert_eq!(*seen.lock().unwrap(), expected);
    });
}

#[test]
fn a_record_that_cannot_be_handled_goes_to_the_dead_letters_and_the_others_go_on() {
    block_on(async {
        let log = log();
        fill(&log, 0..50, 5);
        log.append(Outgoing::to("in").key("0").value("50")).unwrap(); // no id
        let attempts = Arc::new(AtomicU32::new(0));
        let (counted, switch) = (Arc::clone(&attempts), Switch::new());
        let (consumer, until) = (transform(&log, "copy", options("in")), switch.until());
        let run = tokio::spawn(async move {
            let handler = move |record: Arc<Record>| {
                let counted = Arc::clone(&counted);
                async move {
                    match number(&record) {
                        7 => {
                            counted.fetch_add(1, Ordering::SeqCst);
                            Err(Failed::retry("no luck with 7"))
                        }
                        13 => Err(Failed::poison("never 13")),
                        20 => panic!("20 panics"),
                        30 => Ok(vec![Outgoing::to("nowhere").value("x")]),
                        _ => Ok(vec![copy(&record)]),
                    }
                }
            };
            consumer.run(handler, until).await
        });
        let outputs = read(&log, "out", 46).await;
        let dead = read(&log, "dead", 5).await;
        switch.off();
        run.await.unwrap().unwrap();
        assert_eq!(outputs.len(), 46);
        let about = |number: &str| {
            let found = dead.iter().find(|it| it.value.as_deref() == Some(number.as_bytes()));
            let letter = found.unwrap_or_else(|| panic!("no letter about {number}: {dead:?}"));
            let told = |name| header(letter, name);
            (told(dead_letter::REASON), told(dead_letter::ATTEMPTS), told(dead_letter::DETAIL))
        };
        assert_eq!(about("7"), ("handler-failed".into(), "3".into(), "no luck with 7".into()));
        assert_eq!(about("13").1, "1");
        assert_eq!(about("20").2, "the handler panicked");
        assert_eq!(about("30").0, "output-refused");
        assert_eq!(about("50").0, "missing-id");
        assert_eq!(header(&dead[0], dead_letter::TOPIC), "in");
        assert_eq!(header(&dead[0], dead_letter::GROUP), "group");
        // Its outputs were dropped with every attempt: none was written.
        assert_eq!(log.topic_records("out").len(), 46);
    });
}

#[test]
fn where_it_is_to_stop_only_the_partition_of_the_record_stops() {
    block_on(async {
        let log = log();
        fill(&log, 0..60, 6);
        let bad = log.topic_records("in").iter().find(|it| number(it) == 0).unwrap().clone();
        let same = |it: &&Record| it.partition == bad.partition;
        let others = log.topic_records("in").iter().filter(|it| !same(it)).count();
        let stop = ConsumerOptions::new("group", ["in"], Poison::stop(1)).batch_max(20);
        let (consumer, switch) = (transform(&log, "copy", stop), Switch::new());
        let until = switch.until();
        let run = tokio::spawn(async move {
            let handler = |record: Arc<Record>| async move {
                if number(&record) == 0 {
                    return Err(Failed::poison("zero"));
                }
                Ok(vec![copy(&record)])
            };
            consumer.run(handler, until).await
        });
        let outputs = read(&log, "out", others).await;
        switch.off();
        run.await.unwrap().unwrap();
        assert_eq!(outputs.len(), others);
        let committed = log.committed("group", &[bad.partition]).await.unwrap();
        assert_eq!(committed, [None], "nothing behind the bad record may be committed");
    });
}

#[test]
fn another_instance_with_the_same_transactional_id_is_named() {
    block_on(async {
        let log = log();
        fill(&log, 0..1, 1);
        let consumer = transform(&log, "mine", options("in"));
        let thief = log.clone();
        let handler = move |_: Arc<Record>| {
            let thief = thief.clone();
            async move {
                let transactional_id = Some("mine".to_owned());
                let settings = ProducerSettings { transactional_id, transaction_timeout: None };
                thief.producer(&settings).await.unwrap();
                Ok(Vec::new())
            }
        };
        let error = consumer.run(handler, std::future::pending()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClaimLost);
        assert!(error.to_string().contains("`mine`; give each its own"), "{error}");
    });
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    let log = Arc::new(log());
    let refused = |options: ConsumerOptions| {
        let error = Transform::new(log.clone(), "id", Identity::key(), options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        error.to_string()
    };
    assert!(refused(options("in").batch_max(0)).contains("batch_max"));
    assert!(refused(options("in").batch_max(500)).contains("buffer_max"));
    assert!(refused(options("a b")).contains("a topic named `a b`"));
    let none: [&str; 0] = [];
    assert!(refused(ConsumerOptions::new("g", none, Poison::stop(1))).contains("no topic"));
    assert!(refused(ConsumerOptions::new("g", ["t"], Poison::stop(0))).contains("attempt"));
    let error = Transform::new(log.clone(), "", Identity::key(), options("in")).unwrap_err();
    assert!(error.to_string().contains("transactional id"));
}
