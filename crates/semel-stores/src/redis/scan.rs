//! A walk through the names of all keys.

use redis::Value;
use semel::Error;

use super::RedisStore;
use super::fault::Fault;

/// A walk through the keys of the primaries that fit a pattern.
pub(super) struct Scan {
    pattern: String,
    nodes: Vec<String>,
    cursor: Vec<u8>,
}

impl Scan {
    /// Keys that one step looks at; the server is busy for well under a millisecond.
    pub(super) const STEP: usize = 1000;

    /// All records, or those of one key's text.
    pub(super) async fn new(store: &RedisStore, key: Option<&str>) -> Result<Self, Error> {
        let nodes = store.link.primaries().await?;
        Ok(Self { pattern: store.names.pattern(key), nodes, cursor: b"0".to_vec() })
    }

    /// All records on one of the primaries.
    pub(super) fn of_node(store: &RedisStore, node: String) -> Self {
        Self { pattern: store.names.pattern(None), nodes: vec![node], cursor: b"0".to_vec() }
    }

    /// Whether every key was looked at.
    pub(super) fn is_over(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The next few keys, perhaps none; `None` at the end. A key may come more than once, and one
    /// that is made meanwhile may be missed.
    pub(super) async fn next(&mut self, store: &RedisStore) -> Result<Option<Vec<String>>, Error> {
        let Some(node) = self.nodes.last() else { return Ok(None) };
        let mut command = redis::cmd("SCAN");
        command.arg(&self.cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(Self::STEP);
        let answer = store.link.ask_node_patiently(node, &command).await?;
        let (cursor, keys) = step_of(answer).map_err(|fault| fault.into_error(store.server()))?;
        if cursor == b"0" {
            self.nodes.pop();
        }
        self.cursor = cursor;
        Ok(Some(keys))
    }
}

fn step_of(answer: Value) -> Result<(Vec<u8>, Vec<String>), Fault> {
    let unexpected = || Fault::unexpected("no step of a scan").of_a_question();
    let Value::Array(parts) = answer else { return Err(unexpected()) };
    let Ok([Value::BulkString(cursor), Value::Array(keys)]) = <[Value; 2]>::try_from(parts) else {
        return Err(unexpected());
    };
    let text = |key| match key {
        Value::BulkString(key) => String::from_utf8(key).ok(),
        _ => None,
    };
    // A key that is no text is not ours, whatever the pattern says.
    Ok((cursor, keys.into_iter().filter_map(text).collect()))
}
