//! The Kafka door of semel: consumers and producers whose effects happen once.
//!
//! A broker delivers a record again after every crash, rebalance and time-out between an effect
//! and the commit of its position, and a producer that retries writes it again. Kafka's own
//! exactly-once settings cover what is in Kafka and know nothing of a business id. What can be
//! promised beyond that depends on where the effect is, so each place has a type:
//!
//! - [`Inbox`]: it is rows in a database, PostgreSQL or SQLite. Exactly once for each id, in the
//!   order of each partition.
//! - [`Transform`]: it is records in Kafka. The outputs of each record exactly once, in order, for
//!   readers of committed records.
//! - [`Guarded`]: it is anywhere else. What the guard's [`Effect`](semel::Effect) promises, in the
//!   order of each key.
//!
//! # From here
//!
//! - [`Identity`] says where a record's id is, and [`Window`] for how long an `Inbox` remembers it.
//! - [`Poison`] says what becomes of a record that cannot be handled. It is a required choice.
//! - [`ConsumerOptions`] holds every bound with its default and reason.
//! - [`outbox`] takes records from a database into the log, exactly once.
//! - [`log`] and [`ledger`] are the contracts with a log and a database, for adapters of your own;
//!   `conformance` (feature) is the program that a log must pass.
//! - [`TestLog`] is a log in the process for tests: Kafka's semantics, and it fails when told to.
//!
//! # Features
//!
//! - `rdkafka` (default): `KafkaLog`, which is Apache Kafka through librdkafka. Needs a C compiler
//!   and make, and minutes.
//! - `postgres`, `sqlite`: `PostgresLedger`, `SqliteLedger`.
//! - `conformance`: the program that every log passes.
//! - `failpoints`: named points at which tests stop or kill the process.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod failpoint;
mod guarded;
mod identity;
mod inbox;
#[cfg(feature = "rdkafka")]
mod kafka;
pub mod ledger;
pub mod log;
mod options;
pub mod outbox;
mod rejected;
mod runtime;
mod testlog;
mod transform;
mod window;

pub use self::guarded::Guarded;
pub use self::identity::Identity;
pub use self::inbox::{Inbox, InboxHandler};
#[cfg(feature = "rdkafka")]
pub use self::kafka::{
    GroupProtocol, KafkaBroker, KafkaFacts, KafkaGroup, KafkaLog, KafkaMember, KafkaOptions,
    KafkaPartition, KafkaSettings, KafkaTopic,
};
#[cfg(feature = "postgres")]
pub use self::ledger::{PostgresLedger, PostgresTransaction};
#[cfg(feature = "sqlite")]
pub use self::ledger::{SqliteLedger, SqliteTransaction};
pub use self::options::{ConsumerOptions, Order};
pub use self::rejected::{Failed, Poison, Reason, dead_letter};
pub use self::testlog::{Op, TestLog};
pub use self::transform::{KEY_HEADER, Transform};
pub use self::window::{Clockwork, Refresh, TimeWindow, Window};
