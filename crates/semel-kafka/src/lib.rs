//! The Kafka door of semel: consumers and producers whose effects happen once.

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
