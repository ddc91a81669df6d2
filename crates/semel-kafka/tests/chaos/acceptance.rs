//! Kafka's own acceptance test of transactions, for every class.

use std::time::Instant;

use futures_util::future::join_all;
use semel::{Random, SeededRandom};
use semel_kafka::GroupProtocol;
use semel_testkit::servers::{Kafka, KafkaCluster};

use super::audit::audit;
use super::crew::Worker;
use super::job::{Class, FAILING};
use super::place::{Run, block_on, broker, cluster};

/// What happens to workers and to brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill,
    Freeze,
    Join,
    Leave,
    /// Of three, the others do its work for a while.
    Broker,
}

/// Without the death of the broker: a lone one of Kafka 4.3 that dies between the decision about a
/// transaction and its markers takes its partitions for deleted when it comes back, because they
/// have no leader for a moment, and leaves the markers out. What was committed stays hidden for
/// ever. With three brokers a partition always has a leader.
const TROUBLES: [Trouble; 9] = [
    Trouble::Kill,
    Trouble::Freeze,
    Trouble::Join,
    Trouble::Kill,
    Trouble::Kill,
    Trouble::Leave,
    Trouble::Freeze,
    Trouble::Kill,
    Trouble::Kill,
];

/// For classes without transactions of Kafka.
const TROUBLES_WITH_BROKER: [Trouble; 11] = [
    Trouble::Kill,
    Trouble::Freeze,
    Trouble::Join,
    Trouble::Kill,
    Trouble::Broker,
    Trouble::Kill,
    Trouble::Leave,
    Trouble::Freeze,
    Trouble::Kill,
    Trouble::Broker,
    Trouble::Kill,
];

const TROUBLES_OF_THREE: [Trouble; 8] = [
    Trouble::Kill,
    Trouble::Broker,
    Trouble::Freeze,
    Trouble::Broker,
    Trouble::Join,
    Trouble::Broker,
    Trouble::Leave,
    Trouble::Broker,
];

const CLASSES: [Class; 4] =
    [Class::Transform, Class::InboxPostgres, Class::InboxSqlite, Class::Guarded];

struct Dice(SeededRandom);

impl Dice {
    fn below(&self, bound: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes).unwrap();
        usize::try_from(u64::from_le_bytes(bytes) % bound as u64).unwrap()
    }
}

fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |it| it.parse().unwrap())
}

/// Who is on the stage, and what happens to all of them.
struct Play {
    /// Of these runs among all others.
    name: &'static str,
    classes: &'static [Class],
    protocol: GroupProtocol,
    troubles: &'static [Trouble],
    records: u32,
}

/// Where the records are.
enum Brokers {
    One(Kafka),
    /// With the one that dies next.
    Three(KafkaCluster, usize),
}

impl Brokers {
    fn bootstrap(&self) -> String {
        match self {
            Self::One(kafka) => kafka.bootstrap(),
            Self::Three(cluster, _) => cluster.bootstrap(),
        }
    }

    /// One of them dies and comes back, be it alone or with work going on meanwhile.
    async fn lose_one(&mut self, meanwhile: impl Future<Output = ()>) {
        match self {
            Self::One(kafka) => {
                kafka.kill().unwrap();
                kafka.start_again().unwrap();
                meanwhile.await;
            }
            Self::Three(cluster, next) => {
                cluster.kill_broker(*next);
                meanwhile.await;
                cluster.start_broker_again(*next).unwrap();
                *next = (*next + 1) % cluster.addresses().len();
            }
        }
    }
}

/// Workers of one class in the middle of their work, and what becomes of them.
struct Act {
    run: Run,
    dice: Dice,
    crew: Vec<Worker>,
    slots: u32,
    /// How many numbers are written before each trouble.
    chunk: u32,
}

impl Act {
    fn hire(&mut self) {
        self.crew.push(self.run.worker(&format!("slot{}", self.slots)));
        self.slots += 1;
    }

    /// Goes on for a while.
    async fn work(&mut self) {
        let known = self.run.sink.count().await;
        self.run.feed(self.chunk).await;
        let goal = known + 1 + self.dice.below(self.chunk as usize / 2);
        self.run.reaches(goal).await;
    }

    fn kill_one(&mut self) {
        let killed = self.crew.swap_remove(self.dice.below(self.crew.len()));
        let slot = killed.job.slot.clone();
        killed.kill();
        self.crew.push(self.run.worker(&slot));
    }

    async fn make(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Kill => self.kill_one(),
            Trouble::Freeze => {
                let frozen = &self.crew[self.dice.below(self.crew.len())];
                self.run.takes_in(frozen).await;
                frozen.freeze();
                self.run.gives_up(frozen).await;
                frozen.thaw();
            }
            Trouble::Join => self.hire(),
            Trouble::Leave => {
                let left = self.crew.swap_remove(self.dice.below(self.crew.len()));
                assert_eq!(left.leave().await, "ended well");
            }
            // While it is away, or just after, workers die as well.
            Trouble::Broker => {
                self.work().await;
                self.kill_one();
                self.work().await;
            }
        }
    }

    /// Comes to the end with this many numbers, and is judged.
    async fn end(mut self, records: u32) -> String {
        self.run.feed(records.saturating_sub(self.run.fed)).await;
        self.run.finishes().await;
        for worker in std::mem::take(&mut self.crew) {
            assert_eq!(worker.leave().await, "ended well");
        }
        self.run.assert_once_and_in_order().await;
        let more = audit(&self.run).await;
        format!("{}: {} records once and in order, {more}", self.run.name, self.run.fed)
    }
}

/// Classes side by side on the same brokers, and the troubles that all of them have.
async fn accept(mut brokers: Brokers, play: Play) {
    let Play { name, classes, protocol, troubles, records } = play;
    let seed = u64::from(setting("SEMEL_TEST_SEED", 1)) << 32;
    // A trouble with a broker is work for two more.
    let away = troubles.iter().filter(|it| **it == Trouble::Broker).count();
    let chunk = records / u32::try_from(troubles.len() + 2 * away + 1).unwrap();
    let mut acts = Vec::new();
    for class in classes {
        let Some(mut run) = Run::new(&brokers.bootstrap(), *class, name).await else { return };
        (run.batch_max, run.protocol) = (750, protocol);
        let dice = Dice(SeededRandom::new(seed));
        let mut act = Act { run, dice, crew: Vec::new(), slots: 0, chunk };
        (0..3).for_each(|_| act.hire());
        acts.push(act);
    }
    let start = Instant::now();
    for trouble in troubles {
        join_all(acts.iter_mut().map(Act::work)).await;
        println!("{name} {classes:?} {trouble:?} {:?}", start.elapsed());
        let made = join_all(acts.iter_mut().map(|act| act.make(*trouble)));
        match trouble {
            Trouble::Broker => brokers.lose_one(async { drop(made.await) }).await,
            _ => drop(made.await),
        }
    }
    for told in join_all(acts.into_iter().map(|act| act.end(records))).await {
        println!("{told}{:?}", start.elapsed());
    }
}

/// One class on one broker.
fn is_accepted(classes: &'static [Class; 1]) {
    let Some(kafka) = broker() else { return };
    let troubles = match classes {
        [Class::Transform] => &TROUBLES[..],
        _ => &TROUBLES_WITH_BROKER[..],
    };
    let play = Play {
        name: "alone",
        classes,
        protocol: GroupProtocol::Classic,
        troubles,
        records: setting("SEMEL_TEST_KAFKA_RECORDS", 5_000),
    };
    block_on(accept(Brokers::One(kafka), play));
}

#[test]
fn a_transform_is_accepted() {
    is_accepted(&[Class::Transform]);
}

#[test]
fn an_inbox_in_postgres_is_accepted() {
    is_accepted(&[Class::InboxPostgres]);
}

#[test]
fn an_inbox_in_sqlite_is_accepted() {
    is_accepted(&[Class::InboxSqlite]);
}

#[test]
fn a_guarded_consumer_is_accepted() {
    is_accepted(&[Class::Guarded]);
}

#[test]
fn all_are_accepted_where_brokers_assign_the_partitions() {
    let Some(kafka) = broker() else { return };
    let play = Play {
        name: "assigned",
        classes: &CLASSES,
        protocol: GroupProtocol::Consumer,
        troubles: &TROUBLES,
        records: setting("SEMEL_TEST_KAFKA_RECORDS", 2_000),
    };
    block_on(accept(Brokers::One(kafka), play));
}

/// Some keys fail again and again and go through the retry topic; their order is kept all the same.
#[test]
fn all_are_accepted_while_some_keys_wait_in_retry_topics() {
    let Some(kafka) = broker() else { return };
    let play = Play {
        name: FAILING,
        classes: &CLASSES,
        protocol: GroupProtocol::Classic,
        troubles: &TROUBLES,
        records: setting("SEMEL_TEST_KAFKA_RECORDS", 2_000),
    };
    block_on(accept(Brokers::One(kafka), play));
}

#[test]
fn all_are_accepted_on_three_brokers_of_which_one_is_away() {
    let Some(cluster) = cluster() else { return };
    let play = Play {
        name: "three",
        classes: &CLASSES,
        protocol: GroupProtocol::Classic,
        troubles: &TROUBLES_OF_THREE,
        records: setting("SEMEL_TEST_KAFKA_RECORDS", 2_000),
    };
    block_on(accept(Brokers::Three(cluster, 0), play));
}
