//! The Kafka door of semel: consumers and producers whose effects happen once.

pub mod ledger;
pub mod log;
mod window;

pub use self::window::{Clockwork, Refresh, TimeWindow, Window};
