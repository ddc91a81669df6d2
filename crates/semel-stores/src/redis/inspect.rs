//! Looking around on the server.
//!
//! Open records (held, in progress, interrupted) are found through the shards' indexes. Completed
//! ones have no index, because it would cost every completion: they are found by going through all
//! keys of the server, which takes about a second for each million.

use redis::Value;
use semel::Error;

use super::RedisStore;
use super::fault::Fault;
use super::lane::offset_argument;
use super::script;

/// Keys that one step of a scan looks at; the server is busy for well under a millisecond.
const SCAN_STEP: usize = 1000;

impl RedisStore {
    /// Redis deletes expired records by itself. Only records that have expired by a shifted test
    /// clock are left for us.
    pub(super) async fn sweep_now(&self, limit: usize) -> Result<usize, Error> {
        let offset = offset_argument(&self.options.clock_offset);
        let mut swept = 0;
        if offset == b"0" {
            return Ok(swept);
        }
        let mut scan = Scan::new(self, None).await?;
        while let Some(records) = scan.next(self).await? {
            if swept >= limit {
                break;
            }
            for record in records {
                let left = (limit - swept).to_string().into_bytes();
                let mut patience = self.link.patience();
                let (keys, arguments) = ([record], [offset.clone(), left]);
                let answer =
                    self.link.run_patiently(&script::SWEEP, &keys, &arguments, &mut patience);
                if let Value::Int(1) = answer.await? {
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }
}

/// A walk through the keys of every primary that fit a pattern.
pub(super) struct Scan {
    pattern: String,
    nodes: Vec<String>,
    cursor: Vec<u8>,
}

impl Scan {
    pub(super) async fn new(store: &RedisStore, key: Option<&str>) -> Result<Self, Error> {
        let nodes = store.link.primaries().await?;
        Ok(Self { pattern: store.names.pattern(key), nodes, cursor: b"0".to_vec() })
    }

    /// The next few keys, perhaps none; `None` at the end. A key may come more than once.
    pub(super) async fn next(
        &mut self,
        store: &RedisStore,
    ) -> Result<Option<Vec<String>>, Error> {
        let Some(node) = self.nodes.last() else { return Ok(None) };
        let mut command = redis::cmd("SCAN");
        command.arg(&self.cursor).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(SCAN_STEP);
        let answer = store.link.ask_node_patiently(node, &command).await?;
        let (cursor, keys) = step_of(answer).map_err(|it| it.into_error(store.server()))?;
        if cursor == b"0" {
            self.nodes.pop();
        }
        self.cursor = cursor;
        Ok(Some(keys))
    }
}

fn step_of(answer: Value) -> Result<(Vec<u8>, Vec<String>), Fault> {
    let unexpected = || Fault::unexpected("no step of a scan");
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
