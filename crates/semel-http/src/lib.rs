//! Idempotency-Key for any tower service.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod answer;
mod body;
mod duration;
mod event;
mod fingerprint;
mod hop;
mod key;
mod layer;
#[cfg(feature = "proxy")]
pub mod proxy;
mod replay;
mod settings;
mod status;
mod tenant;

pub use answer::{PROBLEMS_PATH, Refusal};
pub use body::Body;
pub use duration::parse_duration;
pub use event::{Answered, Decision, Observer};
pub use key::Spelling;
pub use layer::{
    IdempotencyLayer, IdempotencyService, LayerBuilder, OpenTransaction, ResponseFuture, Scoped,
    Tx, Unscoped,
};
#[cfg(feature = "proxy")]
pub use proxy::Proxy;
pub use settings::{OnMissing, Settings, UnknownPolicy};
pub use status::{Disposition, StatusRules};
pub use tenant::TenantOf;
