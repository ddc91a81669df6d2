//! What only a Redis or Valkey server can tell.

use std::time::Duration;

use semel::Error;
use semel_stores::redis::{RedisFacts, RedisNode, RedisOptions, RedisStore};

use super::Finding;
use crate::failure::Failure;

/// A question and its answer that take longer are a finding: every request pays them twice.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(20);

pub(super) async fn look(store: &RedisStore) -> Result<Vec<Finding>, Failure> {
    Ok(describe(&store.facts().await?))
}

/// What can be said about a server whose records cannot be used, and why they cannot.
pub(super) async fn look_without_records(url: &str, why: &Error) -> Option<Vec<Finding>> {
    let options = RedisOptions::default().allow_eviction(true).patience(Duration::ZERO);
    let facts = options.look(url).await.ok()?;
    let mut findings = describe(&facts);
    findings.push(Finding::new("records", "none that can be used", Some(&why.to_string())));
    Some(findings)
}

fn describe(facts: &RedisFacts) -> Vec<Finding> {
    let mut findings = vec![Finding::new("server", facts.server.as_str(), None)];
    if let Some(state) = &facts.cluster_state {
        let problem = (state != "ok").then(|| unserved(facts));
        findings.push(Finding::new("cluster", state.as_str(), problem.as_deref()));
    }
    let slow = (facts.round_trip > ROUND_TRIP_MAX)
        .then_some("the server is far away or busy; each request asks it twice");
    let millis = facts.round_trip.as_secs_f64() * 1e3;
    findings.push(Finding::new("round trip", format!("{millis:.1} ms"), slow));
    let is_watched = facts.server.contains("-sentinel://");
    for node in &facts.nodes {
        look_at(node, is_watched, &mut findings);
    }
    findings
}

/// Which parts of a cluster are missing.
fn unserved(facts: &RedisFacts) -> String {
    let gaps = facts.unserved.iter().map(|gap| {
        let (first, last) = gap.slots;
        match &gap.node {
            Some(node) => format!("slots {first} to {last}, whose node {node} is gone"),
            None => format!("slots {first} to {last}, which no node has"),
        }
    });
    let gaps: Vec<_> = gaps.collect();
    if gaps.is_empty() {
        return "parts of the cluster cannot be written".to_owned();
    }
    format!("not served: {}; start the nodes again, or give the slots to others", gaps.join("; "))
}

fn look_at(node: &RedisNode, is_watched: bool, findings: &mut Vec<Finding>) {
    let name = format!("{} {} {}", node.product, node.version, node.address);
    findings.push(Finding::new("version", name.trim_end(), None));
    let replica = (node.role != "master").then_some("it is a replica; it takes no writes");
    findings.push(Finding::new("role", node.role.as_str(), replica));
    let evicts = (node.eviction_policy != "noeviction").then_some(
        "a full server throws records away and their operations run again; \
         CONFIG SET maxmemory-policy noeviction",
    );
    findings.push(Finding::new("maxmemory-policy", node.eviction_policy.as_str(), evicts));
    let evicted = (node.evicted_keys > 0)
        .then_some("keys were thrown away since the start; records may be among them");
    findings.push(Finding::new("evicted keys", node.evicted_keys.to_string(), evicted));
    let sync = node.append_sync.as_deref().unwrap_or("unknown");
    let (seen, forgets) = match (node.append_only, sync) {
        (false, _) => {
            ("no".to_owned(), Some("a restart forgets everything; CONFIG SET appendonly yes"))
        }
        (true, "always") => ("yes, synced always".to_owned(), None),
        (true, sync) => (format!("yes, synced {sync}"), None),
    };
    findings.push(Finding::new("append-only file", seen, forgets));
    let replicas = match node.replicas_min {
        Some(min) => format!("{}, a write needs {min}", node.replicas),
        None => node.replicas.to_string(),
    };
    let loses = (node.replicas > 0 || is_watched).then(|| lost_by_failover(node));
    findings.push(Finding::new("replicas", replicas, None).warning(loses));
    let (used, max) = (node.memory_bytes, node.memory_bytes_max);
    let seen = match max {
        Some(max) => format!("{} of {} MiB", used >> 20, max >> 20),
        None => format!("{} MiB, no limit", used >> 20),
    };
    let full = max
        .is_some_and(|max| used.saturating_mul(10) >= max.saturating_mul(9))
        .then_some("nearly full; a full server refuses keyed requests with 503");
    findings.push(Finding::new("memory", seen, full));
}

/// Replication is asynchronous, whatever is set.
fn lost_by_failover(node: &RedisNode) -> String {
    let narrower = match node.replicas_min {
        Some(0) => "; min-replicas-to-write 1 narrows the window",
        _ => "",
    };
    format!(
        "a failover forgets what has not reached the replica: those retries run again, also with \
         `hold`, and only `keyed` and `fenced-query` keep the effect at one{narrower}; see \
         docs/redis.md"
    )
}
