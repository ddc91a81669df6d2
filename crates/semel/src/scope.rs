//! Whose key it is.

use std::sync::Arc;

use crate::error::Error;
use crate::key::{Key, visible};

/// The principal whose keys must not meet anybody else's: an account, an API client, a queue.
/// 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// Checks the rule and keeps the text.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) names the rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, Error> {
        visible("tenant", text, 255).map(Self)
    }

    /// Everybody shares one name space. Right only where all callers are one principal; said
    /// aloud, so that nobody shares keys between customers by accident.
    #[must_use]
    pub fn single() -> Self {
        Self("-".into())
    }

    /// The text of the tenant.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is being done, as a stable name: `create_order`, `POST /orders`. The same key under two
/// operations names two records. 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation(Arc<str>);

impl Operation {
    /// Checks the rule and keeps the text.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) names the rule that the text breaks.
    pub fn new(text: &str) -> Result<Self, Error> {
        visible("operation", text, 255).map(Self)
    }

    /// The text of the operation.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// (scope, key): the name under which a store keeps a record. The scope is tenant and operation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Whose key it is.
    pub tenant: Tenant,
    /// What is being done.
    pub operation: Operation,
    /// The caller's name for it.
    pub key: Key,
}

impl RecordId {
    /// 32 bytes that stand for this id in a store: a hash over the length-prefixed parts, so that
    /// no choice of names can collide with another's and no name needs quoting.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("semel 2026-11 record id 1");
        for part in [self.tenant.as_str(), self.operation.as_str(), self.key.as_str()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}
