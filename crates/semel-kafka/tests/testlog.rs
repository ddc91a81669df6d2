//! The log in the process passes the conformance program, is deterministic, fails as it is told
//! to, and shows a reader exactly what was committed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use semel::{BoxFuture, ManualClock};
use semel_kafka::conformance::{self, Harness};
use semel_kafka::log::{
    ConsumerSettings, Event, Log, LogConsumer, LogError, LogErrorKind, LogProducer, Outgoing,
    Position, ProducerSettings, TopicPartition,
};
use semel_kafka::{Op, TestLog};

struct InProcess(TestLog, AtomicU32);

impl Harness for InProcess {
    fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.0.clone())
    }

    fn create_topic(&self, partitions: i32) -> BoxFuture<'_, Result<String, LogError>> {
        let name = format!("topic-{}", self.1.fetch_add(1, Ordering::Relaxed));
        self.0.create_topic(&name, partitions);
        Box::pin(async { Ok(name) })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn calm(&self) -> Duration {
        Duration::from_millis(10)
    }

    fn transaction_timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(50))
    }
}

#[tokio::test]
async fn every_case_of_the_program_holds() {
    let report = conformance::run(&InProcess(TestLog::new(), AtomicU32::new(0))).await;
    assert!(report.failed.is_empty() && report.skipped.is_empty(), "{report}");
}

#[tokio::test]
async fn every_case_holds_when_records_come_one_by_one() {
    let log = TestLog::new().with_batch_max(1);
    let report = conformance::run(&InProcess(log, AtomicU32::new(0))).await;
    assert!(report.failed.is_empty() && report.skipped.is_empty(), "{report}");
}

/// What a future says when it is asked once.
fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// What a future says that need not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match poll(future) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits"),
    }
}

fn kind<T: Debug>(answer: Result<T, LogError>) -> LogErrorKind {
    answer.expect_err("it succeeded").kind()
}

fn setup(partitions: i32) -> (TestLog, ManualClock) {
    let clock = ManualClock::new();
    let log = TestLog::with_clock(Arc::new(clock.clone()));
    log.create_topic("t", partitions);
    (log, clock)
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn position(partition: i32, next: i64) -> Position {
    Position { partition: at(partition), next }
}

fn record(partition: i32, value: &str) -> Outgoing {
    let mut record = Outgoing::to("t").value(value.to_owned());
    record.partition = Some(partition);
    record
}

fn join(log: &TestLog) -> Box<dyn LogConsumer> {
    log.consumer(&ConsumerSettings::new("g", ["t"])).unwrap()
}

fn make(log: &TestLog, id: &str) -> Arc<dyn LogProducer> {
    let transactional_id = Some(id.to_owned());
    let settings = ProducerSettings { transactional_id, ..ProducerSettings::default() };
    now(log.producer(&settings)).unwrap()
}

fn begun(log: &TestLog, id: &str) -> Arc<dyn LogProducer> {
    let producer = make(log, id);
    now(producer.begin()).unwrap();
    producer
}

fn values(log: &TestLog) -> Vec<String> {
    log.topic_records("t").iter().map(value_of).collect()
}

fn value_of(record: &semel_kafka::log::Record) -> String {
    String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
}

/// One step of a consumer that answers every event; what it saw, or nothing when it waits.
fn step(consumer: &mut dyn LogConsumer) -> Option<String> {
    let Poll::Ready(event) = poll(consumer.next()) else { return None };
    Some(match event.unwrap() {
        Event::Assigned(partitions) => {
            let starts = partitions.iter().map(|it| (it.clone(), None)).collect();
            now(consumer.assign(starts)).unwrap();
            format!("assigned {}", names(&partitions))
        }
        Event::Revoked(partitions) => {
            now(consumer.unassign(partitions.clone())).unwrap();
            format!("revoked {}", names(&partitions))
        }
        Event::Lost(partitions) => {
            now(consumer.unassign(partitions.clone())).unwrap();
            format!("lost {}", names(&partitions))
        }
        Event::Records(records) => {
            format!("read {}", records.iter().map(value_of).collect::<Vec<_>>().join(" "))
        }
    })
}

fn names(partitions: &[TopicPartition]) -> String {
    partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn steps(consumer: &mut dyn LogConsumer) -> Vec<String> {
    std::iter::from_fn(|| step(consumer)).collect()
}

#[test]
fn the_same_calls_give_the_same_answers() {
    let story = || {
        let (log, clock) = setup(5);
        let mut told = Vec::new();
        let mut members: Vec<_> = (0..3).map(|_| join(&log)).collect();
        for round in 0..4 {
            for key in ["a", "b", "c", "d"] {
                let delivered = log.append(Outgoing::to("t").key(key).value(key));
                told.push(format!("{delivered:?}"));
            }
            told.push(format!("{:?}", log.append(Outgoing::to("t").value("none"))));
            for member in &mut members {
                told.extend(steps(member.as_mut()));
            }
            match round {
                0 => log.rotate("g"),
                1 => drop(members.remove(1)),
                2 => clock.advance(Duration::from_secs(400)),
                _ => {}
            }
        }
        told.push(format!("{:?} {:?}", log.members("g"), log.topic_records("t")));
        told
    };
    let told = story();
    assert!(told.iter().any(|it| it.starts_with("revoked")), "{told:#?}");
    assert!(told.iter().any(|it| it.starts_with("lost")), "{told:#?}");
    assert_eq!(told, story());
}

#[test]
fn as_little_moves_as_a_fair_share_allows() {
    let (log, _) = setup(4);
    let mut first = join(&log);
    assert_eq!(steps(first.as_mut()), ["assigned t-0 t-1 t-2 t-3"]);
    let mut second = join(&log);
    assert_eq!(steps(second.as_mut()), [""; 0], "the old owner has not let go");
    assert_eq!(steps(first.as_mut()), ["revoked t-2 t-3"]);
    assert_eq!(steps(second.as_mut()), ["assigned t-2 t-3"]);
    let mut third = join(&log);
    assert_eq!(steps(first.as_mut()).len() + steps(second.as_mut()).len(), 1);
    assert_eq!(steps(third.as_mut()), ["assigned t-3"]);
    drop(first);
    assert_eq!(steps(second.as_mut()), ["assigned t-0"]);
    assert_eq!(steps(third.as_mut()), ["assigned t-1"]);
}

#[test]
fn a_silent_member_is_given_up_and_hears_of_its_loss() {
    let (log, clock) = setup(2);
    let (mut silent, mut other) = (join(&log), join(&log));
    assert_eq!(steps(silent.as_mut()), ["assigned t-0"]);
    assert_eq!(steps(other.as_mut()), ["assigned t-1"]);
    let old = now(silent.membership()).unwrap();
    clock.advance(Duration::from_secs(299));
    assert_eq!(steps(other.as_mut()), [""; 0]);
    clock.advance(Duration::from_secs(1));
    assert_eq!(steps(other.as_mut()), ["assigned t-0"]);

    assert_eq!(kind(now(silent.commit(vec![position(0, 0)]))), LogErrorKind::Abortable);
    let producer = begun(&log, "p");
    for membership in [old, now(silent.membership()).unwrap()] {
        let sent = now(producer.send_positions(vec![position(0, 0)], &membership));
        assert_eq!(kind(sent), LogErrorKind::Abortable);
    }
    assert_eq!(steps(silent.as_mut()), ["lost t-0"]);
    assert_eq!(steps(other.as_mut()), ["revoked t-1"], "the lost one has joined again");
    assert_eq!(steps(silent.as_mut()), ["assigned t-1"]);
}

#[tokio::test]
async fn a_member_that_waits_is_alive_and_is_woken_by_the_clock() {
    let (log, clock) = setup(1);
    let producer = begun(&log, "p");
    now(producer.send(record(0, "late"))).unwrap();
    log.append(record(0, "hidden")).unwrap();
    let mut member = join(&log);
    assert_eq!(steps(member.as_mut()), ["assigned t-0"]);
    let waits = tokio::spawn(async move { member.next().await });
    tokio::task::yield_now().await;
    clock.advance(Duration::from_secs(1000));
    let event = waits.await.unwrap().unwrap();
    let Event::Records(records) = event else { panic!("{event:?}") };
    assert_eq!(records.iter().map(value_of).collect::<Vec<_>>(), ["hidden"]);
    assert_eq!(kind(now(producer.commit())), LogErrorKind::Fenced);
}

#[test]
fn a_member_that_clings_to_a_revoked_partition_is_given_up() {
    let (log, clock) = setup(2);
    let mut first = join(&log);
    assert_eq!(steps(first.as_mut()), ["assigned t-0 t-1"]);
    let mut second = join(&log);
    assert!(matches!(now(first.next()), Ok(Event::Revoked(_))));
    clock.advance(Duration::from_secs(299));
    assert_eq!(steps(second.as_mut()), [""; 0]);
    assert_eq!(steps(first.as_mut()), [""; 0]);
    clock.advance(Duration::from_secs(1));
    assert_eq!(steps(second.as_mut()), ["assigned t-0 t-1"]);
    assert_eq!(steps(first.as_mut()), ["lost t-0 t-1"]);
}

#[test]
fn a_member_that_was_expelled_joins_again() {
    let (log, _) = setup(1);
    let mut member = join(&log);
    assert_eq!(steps(member.as_mut()), ["assigned t-0"]);
    let id = log.members("g")[0];
    log.expel("g", id);
    log.expel("g", id);
    assert_eq!(log.members("g"), [0; 0]);
    log.append(record(0, "a")).unwrap();
    assert_eq!(steps(member.as_mut()), ["lost t-0", "assigned t-0", "read a"]);
}

#[test]
fn a_rebalance_ends_the_generation_and_a_rotation_moves_everything() {
    let (log, _) = setup(2);
    let (mut first, mut second) = (join(&log), join(&log));
    assert_eq!(steps(first.as_mut()), ["assigned t-0"]);
    assert_eq!(steps(second.as_mut()), ["assigned t-1"]);
    let old = now(first.membership()).unwrap();
    log.rebalance("g");
    assert_eq!(steps(first.as_mut()), [""; 0]);
    let producer = begun(&log, "p");
    let sent = now(producer.send_positions(vec![position(0, 0)], &old));
    assert_eq!(kind(sent), LogErrorKind::Abortable);
    log.rotate("g");
    assert_eq!(steps(first.as_mut()), ["revoked t-0"]);
    assert_eq!(steps(second.as_mut()), ["revoked t-1", "assigned t-0"]);
    assert_eq!(steps(first.as_mut()), ["assigned t-1"]);
}

#[test]
fn a_new_owner_waits_for_positions_that_are_about_to_change() {
    let (log, _) = setup(1);
    for value in ["a", "b"] {
        log.append(record(0, value)).unwrap();
    }
    let mut first = join(&log);
    assert_eq!(steps(first.as_mut()), ["assigned t-0", "read a b"]);
    let producer = begun(&log, "p");
    let membership = now(first.membership()).unwrap();
    now(producer.send_positions(vec![position(0, 1)], &membership)).unwrap();
    drop(first);
    let mut second = join(&log);
    assert!(matches!(now(second.next()), Ok(Event::Assigned(_))));
    assert!(poll(second.assign(vec![(at(0), None)])).is_pending());
    now(producer.commit()).unwrap();
    now(second.assign(vec![(at(0), None)])).unwrap();
    assert_eq!(steps(second.as_mut()), ["read b"]);
}

#[test]
fn every_call_fails_once_as_it_is_told_to_and_has_no_effect() {
    let unavailable = LogErrorKind::Unavailable;
    let (log, _) = setup(1);
    log.fail_next(Op::Producer, unavailable);
    assert_eq!(kind(now(log.producer(&ProducerSettings::default()))), unavailable);
    let producer = make(&log, "p");
    log.fail_next(Op::Begin, unavailable);
    assert_eq!(kind(now(producer.begin())), unavailable);
    assert_eq!(log.open_transactions(), [""; 0]);
    now(producer.begin()).unwrap();
    assert_eq!(log.open_transactions(), ["p"]);
    let outsider = log.outsider("g").unwrap();
    log.fail_next(Op::SendPositions, unavailable);
    assert_eq!(kind(now(producer.send_positions(vec![position(0, 7)], &outsider))), unavailable);
    log.fail_next(Op::Commit, unavailable);
    assert_eq!(kind(now(producer.commit())), unavailable);
    now(producer.commit()).unwrap();
    assert_eq!(now(log.committed("g", &[at(0)])).unwrap(), [None]);
    now(producer.begin()).unwrap();
    log.fail_next(Op::Abort, unavailable);
    assert_eq!(kind(now(producer.abort())), unavailable);
    assert_eq!(log.open_transactions(), ["p"]);

    let mut member = join(&log);
    log.fail_next(Op::Next, unavailable);
    assert_eq!(kind(now(member.next())), unavailable);
    assert_eq!(steps(member.as_mut()), ["assigned t-0"]);
    log.fail_next(Op::ConsumerCommit, LogErrorKind::Abortable);
    assert_eq!(kind(now(member.commit(vec![position(0, 0)]))), LogErrorKind::Abortable);
    assert_eq!(now(member.committed(vec![at(0)])).unwrap(), [None]);
    now(member.commit(vec![position(0, 0)])).unwrap();
    assert_eq!(now(member.committed(vec![at(0)])).unwrap(), [Some(0)]);
}

#[test]
fn a_failed_send_spoils_its_transaction() {
    let (log, _) = setup(1);
    let producer = begun(&log, "p");
    now(producer.send(record(0, "a"))).unwrap();
    log.fail_next(Op::Send, LogErrorKind::Unavailable);
    assert_eq!(kind(now(producer.send(record(0, "b")))), LogErrorKind::Unavailable);
    now(producer.send(record(0, "c"))).unwrap();
    assert_eq!(kind(now(producer.commit())), LogErrorKind::Abortable);
    now(producer.abort()).unwrap();
    now(producer.begin()).unwrap();
    now(producer.send(record(0, "d"))).unwrap();
    now(producer.commit()).unwrap();
    assert_eq!(values(&log), ["d"]);
}

#[test]
fn an_injected_fencing_ends_the_transaction_and_the_producer() {
    for op in [Op::Send, Op::SendPositions, Op::Commit, Op::Abort] {
        let (log, _) = setup(1);
        let producer = begun(&log, "p");
        now(producer.send(record(0, "a"))).unwrap();
        log.fail_next(op, LogErrorKind::Fenced);
        let outsider = log.outsider("g").unwrap();
        let failed = match op {
            Op::Send => kind(now(producer.send(record(0, "b")))),
            Op::SendPositions => kind(now(producer.send_positions(vec![], &outsider))),
            Op::Commit => kind(now(producer.commit())),
            _ => kind(now(producer.abort())),
        };
        assert_eq!(failed, LogErrorKind::Fenced);
        assert_eq!(log.open_transactions(), [""; 0]);
        assert_eq!(kind(now(producer.begin())), LogErrorKind::Fenced);
        assert_eq!(values(&log), [""; 0]);
    }
}

#[test]
fn a_commit_whose_answer_is_lost_took_effect_or_is_decided_by_the_next_producer() {
    for took_effect in [true, false] {
        let (log, _) = setup(1);
        let producer = begun(&log, "p");
        now(producer.send(record(0, "a"))).unwrap();
        let outsider = log.outsider("g").unwrap();
        now(producer.send_positions(vec![position(0, 1)], &outsider)).unwrap();
        log.lose_next_commit(took_effect);
        assert_eq!(kind(now(producer.commit())), LogErrorKind::Indefinite);
        assert_eq!(kind(now(producer.commit())), LogErrorKind::Fenced);
        assert_eq!(kind(now(producer.abort())), LogErrorKind::Fenced);
        assert_eq!(log.open_transactions().is_empty(), took_effect);
        assert_eq!(poll(log.committed("g", &[at(0)])).is_ready(), took_effect);

        let next = make(&log, "p");
        let expected = if took_effect { vec!["a"] } else { vec![] };
        assert_eq!(values(&log), expected);
        let committed = now(log.committed("g", &[at(0)])).unwrap();
        assert_eq!(committed, [took_effect.then_some(1)]);
        now(next.begin()).unwrap();
    }
}

#[test]
fn while_the_log_is_down_everything_is_unavailable_and_nothing_is_forgotten() {
    let unavailable = LogErrorKind::Unavailable;
    let (log, clock) = setup(1);
    let mut member = join(&log);
    assert_eq!(steps(member.as_mut()), ["assigned t-0"]);
    let settings = ProducerSettings {
        transactional_id: Some("p".to_owned()),
        transaction_timeout: Some(Duration::from_secs(3600)),
    };
    let producer = now(log.producer(&settings)).unwrap();
    now(producer.begin()).unwrap();
    now(producer.send(record(0, "a"))).unwrap();
    log.set_down(true);
    assert_eq!(kind(now(producer.commit())), unavailable);
    assert_eq!(kind(now(log.partitions("t"))), unavailable);
    assert_eq!(kind(now(log.bounds(&at(0)))), unavailable);
    assert_eq!(kind(now(log.committed("g", &[at(0)]))), unavailable);
    assert_eq!(kind(now(log.producer(&ProducerSettings::default()))), unavailable);
    assert_eq!(kind(now(member.commit(vec![]))), unavailable);
    assert_eq!(kind(now(member.next())), unavailable);
    assert!(poll(member.next()).is_pending(), "an outage is reported once");
    clock.advance(Duration::from_secs(1000));
    log.set_down(false);
    now(producer.commit()).unwrap();
    assert_eq!(steps(member.as_mut()), ["read a"]);
}

#[test]
fn a_record_has_a_bound() {
    let log = TestLog::new().with_record_bytes_max(10);
    log.create_topic("t", 1);
    log.append(record(0, "0123456789")).unwrap();
    assert_eq!(kind(log.append(record(0, "0123456789a"))), LogErrorKind::Invalid);
    assert_eq!(kind(log.append(record(1, "a"))), LogErrorKind::Invalid);
}

#[test]
fn the_end_of_a_transaction_takes_an_offset() {
    let (log, _) = setup(1);
    let producer = begun(&log, "p");
    now(producer.send(record(0, "a"))).unwrap();
    now(producer.commit()).unwrap();
    assert_eq!(log.append(record(0, "b")).unwrap().offset, 2);
    assert_eq!(now(log.bounds(&at(0))).unwrap().stable, 3);
}

/// What one of two producers does.
#[derive(Clone, Copy, Debug)]
enum Move {
    Begin(usize),
    Send(usize, i32),
    Commit(usize),
    CommitUnanswered(usize, bool),
    Abort(usize),
    Replace(usize),
    /// A record without a transaction.
    Append(i32),
}

fn moves() -> impl Strategy<Value = Move> {
    let who = 0..2_usize;
    prop_oneof![
        3 => who.clone().prop_map(Move::Begin),
        6 => (who.clone(), 0..2).prop_map(|(who, partition)| Move::Send(who, partition)),
        2 => who.clone().prop_map(Move::Commit),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, yes)| Move::CommitUnanswered(who, yes)),
        1 => who.clone().prop_map(Move::Abort),
        1 => who.prop_map(Move::Replace),
        2 => (0..2).prop_map(Move::Append),
    ]
}

/// The simplest log that is right: what was written, by which transaction, and what came of it.
#[derive(Default)]
struct Reference {
    written: Vec<(i32, String, usize)>,
    /// Whether each transaction was committed; nothing as long as it is open.
    fates: Vec<Option<bool>>,
    open: [Option<usize>; 2],
    over: [bool; 2],
}

impl Reference {
    fn end(&mut self, who: usize, commit: bool) {
        if let Some(transaction) = self.open[who].take() {
            self.fates[transaction] = Some(commit);
        }
    }

    fn readable(&self, partition: i32) -> Vec<String> {
        let written = self.written.iter().filter(|(place, ..)| *place == partition);
        let stable = written.take_while(|(.., transaction)| self.fates[*transaction].is_some());
        let committed = stable.filter(|(.., transaction)| self.fates[*transaction] == Some(true));
        committed.map(|(_, value, _)| value.clone()).collect()
    }

    /// Whether the move succeeds.
    fn apply(&mut self, it: Move, value: String) -> bool {
        match it {
            Move::Append(partition) => {
                self.fates.push(Some(true));
                self.written.push((partition, value, self.fates.len() - 1));
                true
            }
            Move::Replace(who) => {
                self.end(who, false);
                self.over[who] = false;
                true
            }
            Move::Begin(who) | Move::Send(who, _) | Move::Commit(who) | Move::Abort(who)
                if self.over[who] =>
            {
                false
            }
            Move::Begin(who) => {
                let free = self.open[who].is_none();
                if free {
                    self.fates.push(None);
                    self.open[who] = Some(self.fates.len() - 1);
                }
                free
            }
            Move::Send(who, partition) => {
                let written = self.open[who].map(|transaction| (partition, value, transaction));
                self.written.extend(written.clone());
                written.is_some()
            }
            Move::Commit(who) => {
                let open = self.open[who].is_some();
                self.end(who, true);
                open
            }
            Move::CommitUnanswered(who, took_effect) => {
                if took_effect {
                    self.end(who, true);
                }
                self.over[who] = true;
                false
            }
            Move::Abort(who) => {
                self.end(who, false);
                true
            }
        }
    }
}

fn apply(log: &TestLog, producers: &mut [Arc<dyn LogProducer>], it: Move, value: &str) -> bool {
    match it {
        Move::Append(partition) => log.append(record(partition, value)).is_ok(),
        Move::Replace(who) => {
            producers[who] = make(log, ["one", "two"][who]);
            true
        }
        Move::Begin(who) => now(producers[who].begin()).is_ok(),
        Move::Send(who, partition) => now(producers[who].send(record(partition, value))).is_ok(),
        Move::Commit(who) => now(producers[who].commit()).is_ok(),
        Move::Abort(who) => now(producers[who].abort()).is_ok(),
        Move::CommitUnanswered(who, took_effect) => {
            log.lose_next_commit(took_effect);
            now(producers[who].commit()).is_ok()
        }
    }
}

proptest! {
    #[test]
    fn a_reader_sees_exactly_what_was_committed_in_order(moves in vec(moves(), 1..60)) {
        let (log, _) = setup(2);
        let mut producers = vec![make(&log, "one"), make(&log, "two")];
        let mut reference = Reference::default();
        let mut reader = join(&log);
        let mut read: BTreeMap<i32, Vec<String>> = BTreeMap::from([(0, vec![]), (1, vec![])]);
        prop_assert_eq!(steps(reader.as_mut()), ["assigned t-0 t-1"]);
        for (number, it) in moves.into_iter().enumerate() {
            let value = number.to_string();
            // A producer that is over never gets as far as the fault, which would hit another.
            if matches!(it, Move::CommitUnanswered(who, _) if reference.over[who]) {
                continue;
            }
            let done = apply(&log, &mut producers, it, &value);
            prop_assert_eq!(done, reference.apply(it, value), "{:?}", it);
            while let Poll::Ready(event) = poll(reader.next()) {
                let Event::Records(records) = event.unwrap() else { panic!("no records") };
                for record in &records {
                    read.get_mut(&record.partition.partition).unwrap().push(value_of(record));
                }
            }
            for (partition, values) in &read {
                prop_assert_eq!(values, &reference.readable(*partition), "after {:?}", it);
            }
        }
    }
}
