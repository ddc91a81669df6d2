//! Kafka's own acceptance test of transactions, for every class.

use std::time::Instant;

use semel::{Random, SeededRandom};
use semel_testkit::servers::Kafka;

use super::audit::audit;
use super::crew::Worker;
use super::job::Class;
use super::place::{Run, block_on, broker, until};

/// What happens to workers and to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Kill,
    Freeze,
    Join,
    Leave,
    Broker,
}

const TROUBLES: [Trouble; 11] = [
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

/// Workers in the middle of their work, and what becomes of them.
struct Stage {
    kafka: Kafka,
    run: Run,
    dice: Dice,
    crew: Vec<Worker>,
    slots: u32,
}

impl Stage {
    fn hire(&mut self) {
        self.crew.push(self.run.worker(&format!("slot{}", self.slots)));
        self.slots += 1;
    }

    async fn make(&mut self, trouble: Trouble) {
        let chosen = self.dice.below(self.crew.len());
        match trouble {
            Trouble::Kill => {
                let killed = self.crew.swap_remove(chosen);
                let slot = killed.job.slot.clone();
                killed.kill();
                self.crew.push(self.run.worker(&slot));
            }
            Trouble::Freeze => {
                let frozen = &self.crew[chosen];
                self.run.takes_in(frozen).await;
                frozen.freeze();
                self.run.gives_up(frozen).await;
                frozen.thaw();
            }
            Trouble::Join => self.hire(),
            Trouble::Leave => {
                let ended = self.crew.swap_remove(chosen).leave().await;
                assert_eq!(ended, "ended well");
            }
            Trouble::Broker => {
                self.kafka.kill().unwrap();
                self.kafka.start_again().unwrap();
            }
        }
    }
}

async fn accept(class: Class) {
    let records = setting("SEMEL_TEST_KAFKA_RECORDS", 5_000);
    let seed = setting("SEMEL_TEST_SEED", 1);
    let Some(kafka) = broker() else { return };
    let Some(mut run) = Run::new(&kafka.bootstrap(), class, "all").await else { return };
    run.batch_max = 750;
    let start = Instant::now();
    let dice = Dice(SeededRandom::new(u64::from(seed) << 32));
    let mut stage = Stage { kafka, run, dice, crew: Vec::new(), slots: 0 };
    (0..3).for_each(|_| stage.hire());
    let chunk = records / u32::try_from(TROUBLES.len() + 1).unwrap();
    for trouble in TROUBLES {
        let known = stage.run.sink.count().await;
        stage.run.feed(chunk).await;
        let goal = known + 1 + stage.dice.below(chunk as usize / 2);
        until("more effects", async || stage.run.sink.count().await >= goal).await;
        println!("{} {trouble:?} after {goal}, {:?}", class.name(), start.elapsed());
        stage.make(trouble).await;
    }
    stage.run.feed(records - stage.run.fed).await;
    stage.run.finishes().await;
    for worker in std::mem::take(&mut stage.crew) {
        assert_eq!(worker.leave().await, "ended well");
    }
    stage.run.assert_once_and_in_order().await;
    let more = audit(&stage.run).await;
    println!("{}: {records} records once and in order, {more}{:?}", class.name(), start.elapsed());
}

#[test]
fn a_transform_is_accepted() {
    block_on(accept(Class::Transform));
}

#[test]
fn an_inbox_in_postgres_is_accepted() {
    block_on(accept(Class::InboxPostgres));
}

#[test]
fn an_inbox_in_sqlite_is_accepted() {
    block_on(accept(Class::InboxSqlite));
}

#[test]
fn a_guarded_consumer_is_accepted() {
    block_on(accept(Class::Guarded));
}
