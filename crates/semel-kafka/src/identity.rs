//! What makes two records the same.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use semel::Key;
use serde_json::Value;

use crate::log::Record;
use crate::rejected::{Reason, Rejected};

/// What makes two records the same: where the id of a record is found.
///
/// An id of 1 to 255 visible ASCII characters is used as it is, so that people can look it up; any
/// other one is replaced by `b3:` and the BLAKE3 hash of its bytes.
///
/// ```
/// use semel_kafka::Identity;
///
/// let by_header = Identity::header("Idempotency-Key");
/// let by_content = Identity::json_pointer("/order/id");
/// let by_code = Identity::function(|record| record.value.as_deref().map(<[u8]>::to_vec));
/// ```
#[derive(Clone)]
pub struct Identity(Kind);

/// A caller's own rule.
type Rule = dyn Fn(&Record) -> Option<Vec<u8>> + Send + Sync;

#[derive(Clone)]
enum Kind {
    Function(Arc<Rule>),
    Header(Arc<str>),
    JsonPointer(Arc<str>),
    Key,
    Place,
}

impl Identity {
    /// The value of the last header of that name.
    #[must_use]
    pub fn header(name: impl Into<Arc<str>>) -> Self {
        Self(Kind::Header(name.into()))
    }

    /// The record's key. Only where a key comes once: a key that names a customer is none.
    #[must_use]
    pub fn key() -> Self {
        Self(Kind::Key)
    }

    /// A string or number in the JSON payload (RFC 6901), such as `/order/id`.
    #[must_use]
    pub fn json_pointer(pointer: impl Into<Arc<str>>) -> Self {
        Self(Kind::JsonPointer(pointer.into()))
    }

    /// Topic, partition and offset. Recognises a record that is delivered twice, not one that was
    /// written twice.
    #[must_use]
    pub fn place() -> Self {
        Self(Kind::Place)
    }

    /// Whatever this returns; none is a missing id.
    #[must_use]
    pub fn function(function: impl Fn(&Record) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self(Kind::Function(Arc::new(function)))
    }

    /// The id of a record.
    pub(crate) fn of(&self, record: &Record) -> Result<String, Rejected> {
        let missing = |what: String| {
            let way_out = "let its producer set it, or choose another identity";
            Rejected::at_once(Reason::MissingId, format!("the record has no {what}; {way_out}"))
        };
        match &self.0 {
            Kind::Function(function) => function(record)
                .filter(|id| !id.is_empty())
                .map(|id| text_of(&id))
                .ok_or_else(|| missing("id, says the function".to_owned())),
            Kind::Header(name) => record
                .header(name)
                .filter(|value| !value.is_empty())
                .map(|value| text_of(value))
                .ok_or_else(|| missing(format!("header `{name}`"))),
            Kind::JsonPointer(pointer) => in_json(pointer, record.value.as_ref())?
                .ok_or_else(|| missing(format!("string or number at `{pointer}`"))),
            Kind::Key => record
                .key
                .as_ref()
                .filter(|key| !key.is_empty())
                .map(|key| text_of(key))
                .ok_or_else(|| missing("key".to_owned())),
            Kind::Place => Ok(format!(
                "{}:{}:{}",
                record.partition.topic, record.partition.partition, record.offset
            )),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Function(_) => f.write_str("Identity(function)"),
            Kind::Header(name) => write!(f, "Identity(header {name})"),
            Kind::JsonPointer(pointer) => write!(f, "Identity(json pointer {pointer})"),
            Kind::Key => f.write_str("Identity(key)"),
            Kind::Place => f.write_str("Identity(place)"),
        }
    }
}

fn in_json(pointer: &str, value: Option<&Bytes>) -> Result<Option<String>, Rejected> {
    let Some(value) = value else { return Ok(None) };
    let parsed: Value = serde_json::from_slice(value).map_err(|error| {
        let message = format!("the record is no JSON, so `{pointer}` leads nowhere: {error}");
        Rejected::at_once(Reason::Malformed, message)
    })?;
    Ok(match parsed.pointer(pointer) {
        Some(Value::String(id)) if !id.is_empty() => Some(text_of(id.as_bytes())),
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => None,
    })
}

/// The id as it is kept. No id that is kept as it is can look like a hash.
fn text_of(id: &[u8]) -> String {
    match std::str::from_utf8(id) {
        Ok(text) if !text.starts_with("b3:") && Key::parse(text).is_ok() => text.to_owned(),
        _ => format!("b3:{}", blake3::hash(id)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::log::{Header, TopicPartition};

    fn record(key: Option<&'static str>, value: Option<&'static str>) -> Record {
        Record {
            partition: TopicPartition::new("orders", 3),
            offset: 17,
            key: key.map(Bytes::from),
            value: value.map(Bytes::from),
            headers: vec![Header::new("id", "first"), Header::new("id", "last")],
            timestamp: None,
        }
    }

    #[test]
    fn each_identity_finds_its_id() {
        let record = record(Some("k-1"), Some(r#"{"order":{"id":"o-9","number":7}}"#));
        let of = |identity: Identity| identity.of(&record).unwrap();
        assert_eq!(of(Identity::header("id")), "last");
        assert_eq!(of(Identity::key()), "k-1");
        assert_eq!(of(Identity::place()), "orders:3:17");
        assert_eq!(of(Identity::json_pointer("/order/id")), "o-9");
        assert_eq!(of(Identity::json_pointer("/order/number")), "7");
        assert_eq!(of(Identity::function(|_| Some(b"f".to_vec()))), "f");
    }

    #[test]
    fn a_missing_id_and_a_malformed_payload_are_told_apart() {
        let empty = record(None, Some("no json"));
        let why = |identity: Identity| identity.of(&empty).unwrap_err().reason;
        assert_eq!(why(Identity::header("other")), Reason::MissingId);
        assert_eq!(why(Identity::key()), Reason::MissingId);
        assert_eq!(why(Identity::json_pointer("/id")), Reason::Malformed);
        assert_eq!(why(Identity::function(|_| None)), Reason::MissingId);
        let object = record(None, Some(r#"{"id":{}}"#));
        let error = Identity::json_pointer("/id").of(&object).unwrap_err();
        assert_eq!(error.reason, Reason::MissingId);
    }

    #[test]
    fn ids_that_nobody_can_type_are_hashed_and_never_confused_with_others() {
        let of = |key: &'static str| Identity::key().of(&record(Some(key), None)).unwrap();
        assert_eq!(of("plain"), "plain");
        assert!(of("with space").starts_with("b3:"));
        let forged = of("with space");
        let leaked: &'static str = Box::leak(forged.clone().into_boxed_str());
        assert_ne!(of(leaked), forged);
    }
}
