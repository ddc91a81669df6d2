//! What kind of server it is, and whether records are safe on it.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, RedisError, Value};
use semel::ErrorKind;

use super::fault::Fault;
use super::link::{Link, Wire};
use super::shards;

/// The oldest server with everything the scripts use.
const MAJOR_MIN: u64 = 7;

/// What a Redis server, or every primary of a cluster, says about itself; for diagnosis.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisFacts {
    /// The URL of the server without the login.
    pub server: String,
    /// The primaries; one of them unless it is a cluster.
    pub nodes: Vec<RedisNode>,
    /// What the cluster thinks of itself (`ok` or `fail`); `None` when it is no cluster.
    pub cluster_state: Option<String>,
    /// Slots that nobody serves; empty where the access list hides them.
    pub unserved: Vec<UnservedSlots>,
    /// One question and its answer, on average.
    pub round_trip: Duration,
}

/// Slots of a cluster that nobody serves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnservedSlots {
    /// The first of them and the last.
    pub slots: (u16, u16),
    /// The node that has them and is gone; `None` where no node has them.
    pub node: Option<String>,
}

/// One server that takes writes.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RedisNode {
    /// Host and port; empty for a single server.
    pub address: String,
    /// `Redis` or `Valkey`.
    pub product: String,
    /// Its version.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
    /// What it does when its memory is full.
    pub eviction_policy: String,
    /// Whether it writes an append-only file.
    pub append_only: bool,
    /// When the append-only file is synced (`always`, `everysec`, `no`); `None` when the server
    /// does not let us see.
    pub append_sync: Option<String>,
    /// Replicas that are connected.
    pub replicas: u64,
    /// How many of them a write needs; `None` when the server does not let us see.
    pub replicas_min: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// The most memory it takes, in bytes; `None` when it has no limit.
    pub memory_bytes_max: Option<u64>,
    /// Keys that it threw away because its memory was full, since it was started.
    pub evicted_keys: u64,
    /// Whether it is one of a cluster's nodes.
    pub(super) is_of_cluster: bool,
}

impl RedisFacts {
    /// Nobody who accepts the loss should forget it.
    pub(super) fn warn_of_eviction(&self, server: &str) {
        for node in self.nodes.iter().filter(|node| node.evicts()) {
            let (address, policy) = (&node.address, &node.eviction_policy);
            tracing::warn!(
                "the store at {server} may evict records (`maxmemory-policy` is `{policy}` \
                 {address}), which `allow_eviction` accepts: an evicted operation is forgotten, \
                 and its retry runs again"
            );
        }
    }

    /// Whether an acknowledged write is on the disk of every primary.
    pub(super) fn is_durable(&self) -> bool {
        let is_synced =
            |node: &RedisNode| node.append_only && node.append_sync.as_deref() == Some("always");
        !self.nodes.is_empty() && self.nodes.iter().all(is_synced)
    }
}

impl RedisNode {
    fn evicts(&self) -> bool {
        self.eviction_policy != "noeviction"
    }
}

/// Looks at a fresh connection and refuses servers that would lose or deny records.
pub(super) async fn admit(wire: &mut Wire, allow_eviction: bool) -> Result<RedisFacts, Fault> {
    let facts = gather(wire).await.map_err(|error| Fault::of(&error).of_a_question())?;
    for node in &facts.nodes {
        // Even one that has all slots: it refuses calls about several keys.
        if node.is_of_cluster && matches!(wire, Wire::Single(_)) {
            let what = "this server is a node of a cluster, and has only some of the keys; write \
                        redis-cluster://host:port,…";
            return Err(Fault::lasting(ErrorKind::Settings, what));
        }
        let major = node.version.split('.').next().and_then(|major| major.parse::<u64>().ok());
        if major.is_none_or(|major| major < MAJOR_MIN) {
            let (product, version) = (&node.product, &node.version);
            let what = format!(
                "{product} {version} is too old: the scripts need {MAJOR_MIN}.0 or later; \
                 upgrade the server"
            );
            return Err(Fault::lasting(ErrorKind::Settings, what));
        }
        if node.role != "master" {
            let what = "it is a replica, which cannot take claims; give the address of the \
                        primary, or a redis-sentinel:// URL that finds it";
            return Err(Fault::unreachable(what));
        }
        if node.evicts() && !allow_eviction {
            let policy = &node.eviction_policy;
            let what = format!(
                "`maxmemory-policy` is `{policy}`: a full server would forget operations, and \
                 their retries would run again; set it to `noeviction`, or use a server of its \
                 own for the records, or accept the loss with `allow_eviction=true` in the store \
                 URL"
            );
            return Err(Fault::lasting(ErrorKind::Settings, what));
        }
    }
    Ok(facts)
}

/// Questions whose answers are timed.
const QUESTIONS: u32 = 20;

/// Looks at the server again and times it.
pub(super) async fn look(wire: &mut Wire, link: &Link) -> Result<RedisFacts, Fault> {
    let mut facts = admit(wire, link.allow_eviction()).await?;
    let start = link.now();
    for _ in 0..QUESTIONS {
        wire.ask(&redis::cmd("PING")).await.map_err(|error| Fault::of(&error))?;
    }
    facts.round_trip = link.now().since(start) / QUESTIONS;
    link.server().clone_into(&mut facts.server);
    Ok(facts)
}

/// Asks everything but the round trip.
async fn gather(wire: &mut Wire) -> Result<RedisFacts, RedisError> {
    let mut nodes = Vec::new();
    let settings = redis_settings(wire).await;
    for (address, info) in wire.ask_primaries(&redis::cmd("INFO")).await? {
        let info = lines(&info);
        let settings = settings.get(&address).cloned().unwrap_or_default();
        nodes.push(node(address, &info, &settings));
    }
    let (mut cluster_state, mut unserved) = (None, Vec::new());
    if let Wire::Cluster(_) = wire {
        cluster_state = lines(&wire.ask_any("INFO").await?).get("cluster_state").cloned();
        if cluster_state.as_deref() != Some("ok") {
            // Older access lists do not have this right.
            let answer = wire.ask_any("SHARDS").await;
            unserved = answer.as_ref().map(shards::unserved).unwrap_or_default();
        }
    }
    let (server, round_trip) = (String::new(), Duration::ZERO);
    Ok(RedisFacts { server, nodes, cluster_state, unserved, round_trip })
}

/// The settings of each primary; empty where the access list hides them.
async fn redis_settings(wire: &mut Wire) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("appendfsync").arg("min-replicas-to-write");
    let Ok(answers) = wire.ask_primaries(&command).await else {
        return BTreeMap::new();
    };
    answers.into_iter().map(|(address, answer)| (address, pairs(answer))).collect()
}

fn node(
    address: String,
    info: &BTreeMap<String, String>,
    settings: &BTreeMap<String, String>,
) -> RedisNode {
    let text = |name: &str| info.get(name).cloned().unwrap_or_default();
    let number = |name: &str| info.get(name).and_then(|it| it.parse().ok()).unwrap_or(0);
    let valkey = info.get("valkey_version");
    RedisNode {
        address,
        product: if valkey.is_some() { "Valkey" } else { "Redis" }.to_owned(),
        version: valkey.cloned().unwrap_or_else(|| text("redis_version")),
        role: text("role"),
        eviction_policy: text("maxmemory_policy"),
        append_only: number("aof_enabled") == 1,
        append_sync: settings.get("appendfsync").cloned(),
        replicas: number("connected_slaves"),
        replicas_min: settings.get("min-replicas-to-write").and_then(|it| it.parse().ok()),
        memory_bytes: number("used_memory"),
        memory_bytes_max: Some(number("maxmemory")).filter(|max| *max > 0),
        evicted_keys: number("evicted_keys"),
        is_of_cluster: number("cluster_enabled") == 1,
    }
}

impl Wire {
    /// The answers of all nodes that take writes, by their addresses.
    pub(super) async fn ask_primaries(
        &mut self,
        command: &Cmd,
    ) -> Result<Vec<(String, Value)>, RedisError> {
        if let Self::Single(_) = self {
            return Ok(vec![(String::new(), self.ask(command).await?)]);
        }
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let answers = match self.route(command.clone(), all).await? {
            Value::Map(answers) => answers,
            other => return Err(redis::ParsingError::from(format!("{other:?}")).into()),
        };
        Ok(answers.into_iter().map(|(address, answer)| (text_of(&address), answer)).collect())
    }

    /// Asks the node at an address that [`Self::ask_primaries`] gave.
    pub(super) async fn ask_node(
        &mut self,
        address: &str,
        command: Cmd,
    ) -> Result<Value, RedisError> {
        match address.rsplit_once(':') {
            Some((host, port)) => {
                let (host, port) = (host.to_owned(), port.parse().unwrap_or_default());
                let node = SingleNodeRoutingInfo::ByAddress { host, port };
                self.route(command, RoutingInfo::SingleNode(node)).await
            }
            None => self.ask(&command).await,
        }
    }

    /// What some node of a cluster says about the cluster.
    async fn ask_any(&mut self, what: &str) -> Result<Value, RedisError> {
        let mut command = redis::cmd("CLUSTER");
        command.arg(what);
        self.route(command, RoutingInfo::SingleNode(SingleNodeRoutingInfo::Random)).await
    }

    async fn route(&mut self, command: Cmd, routing: RoutingInfo) -> Result<Value, RedisError> {
        let answer = match self {
            Self::Cluster(connection) => connection.route_command(command, routing).await?,
            Self::Single(_) => self.ask(&command).await?,
        };
        answer.extract_error()
    }
}

/// Whether a server, asked alone, says that it is in no cluster.
pub(super) async fn is_no_cluster(connection: MultiplexedConnection) -> bool {
    let mut question = redis::cmd("INFO");
    question.arg("cluster");
    let answer = Wire::Single(connection).ask(&question).await;
    answer.is_ok_and(|info| lines(&info).get("cluster_enabled").is_some_and(|it| it == "0"))
}

/// The lines of an answer of the form `name:value`.
fn lines(answer: &Value) -> BTreeMap<String, String> {
    let text = text_of(answer);
    let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Names and values, one after the other.
fn pairs(answer: Value) -> BTreeMap<String, String> {
    let Value::Array(values) = answer else { return BTreeMap::new() };
    let pairs = values.chunks_exact(2);
    pairs.map(|pair| (text_of(&pair[0]), text_of(&pair[1]))).collect()
}

pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}
