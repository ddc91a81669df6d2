//! What only a PostgreSQL server can tell.

use std::time::Duration;

use semel_stores::postgres::{Facts, PostgresStore};

use super::Finding;
use crate::failure::Failure;
use crate::text;

/// A question and its answer that take longer are a finding: every request pays them twice.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(20);
/// A transaction that is open for longer keeps rows locked and partitions from being dropped.
const TRANSACTION_MAX: Duration = Duration::from_secs(60);

pub(super) async fn look(store: &PostgresStore) -> Result<Vec<Finding>, Failure> {
    let facts = store.facts().await?;
    let mut findings = vec![
        Finding::new(
            "server",
            format!("PostgreSQL {} at {}", facts.server_version, store.place()),
            None,
        ),
        schema(&facts),
    ];
    let standby = facts.is_standby.then_some("it is read-only; name the primary in the URL");
    let role = if facts.is_standby { "standby" } else { "primary" };
    findings.push(Finding::new("role", role, standby));
    findings.extend(facts.settings.iter().map(|(name, value)| setting(name, value)));
    findings.push(standbys(&facts));
    let plain = (!facts.is_encrypted && !is_local(store.place())).then_some(
        "answers and the password cross the network in the clear; use sslmode=verify-full",
    );
    findings.push(Finding::new("encrypted", yes(facts.is_encrypted), plain));
    let slow = (facts.round_trip > ROUND_TRIP_MAX)
        .then_some("the server is far away or busy; each request asks it twice");
    let millis = facts.round_trip.as_secs_f64() * 1e3;
    findings.push(Finding::new("round trip", format!("{millis:.1} ms"), slow));
    let (used, allowed) = facts.connections;
    let full = (used.saturating_mul(10) >= allowed.saturating_mul(9))
        .then_some("hardly a connection is left; raise max_connections or use a pooler");
    findings.push(Finding::new("connections", format!("{used} of {allowed}"), full));
    let long = (facts.longest_transaction > TRANSACTION_MAX)
        .then_some("it keeps dead rows and old partitions; look into pg_stat_activity");
    let longest = text::duration(facts.longest_transaction);
    findings.push(Finding::new("longest transaction", longest, long));
    let (partitions, over) = facts.partitions;
    let unswept = (over > 1).then_some("nobody drops them; `semel records purge --expired`");
    findings.push(Finding::new("partitions", format!("{partitions}, {over} expired"), unswept));
    Ok(findings)
}

fn schema(facts: &Facts) -> Finding {
    let (found, known) = facts.schema_version;
    let old = (found < known).then_some("run `semel migrate up`");
    Finding::new("schema", format!("version {found} of {known}"), old)
}

fn setting(name: &'static str, value: &str) -> Finding {
    let problem = match (name, value) {
        ("fsync", "off") => Some("a crash of the machine loses or damages records; switch it on"),
        ("full_page_writes", "off") => Some("a crash can damage records; switch it on"),
        ("synchronous_commit", "off") => {
            Some("a crash loses answered completions; `on` or at least `local`")
        }
        ("default_transaction_isolation", other) if other != "read committed" => {
            Some("claims are refused; set it back to `read committed` for this user")
        }
        ("default_transaction_read_only", "on") => Some("nothing can be written; switch it off"),
        _ => None,
    };
    let value = if value.is_empty() { "none" } else { value };
    Finding::new(name, value, problem)
}

/// A failover keeps an answered completion only where a standby has confirmed it.
fn standbys(facts: &Facts) -> Finding {
    let is_set = |name: &str, fits: fn(&str) -> bool| {
        facts.settings.iter().any(|(setting, value)| *setting == name && fits(value))
    };
    let is_waited_for = is_set("synchronous_standby_names", |names| !names.is_empty())
        && !is_set("synchronous_commit", |how| matches!(how, "local" | "off"));
    let loses = facts.standbys > 0 && !is_waited_for;
    let seen = match (facts.standbys, is_waited_for) {
        (0, _) => "none".to_owned(),
        (many, true) => format!("{many}, commits wait for them"),
        (many, false) => format!("{many}, no commit waits for them"),
    };
    Finding::new("standbys", seen, None).warning(loses.then(|| {
        "a failover forgets what has not reached the standby: those retries run again, also with \
         `hold`, and only `keyed` and `fenced-query` keep the effect at one; set \
         synchronous_standby_names, with synchronous_commit on; see docs/postgres.md"
            .to_owned()
    }))
}

fn is_local(place: &str) -> bool {
    place.split(',').all(|host| {
        ["127.", "localhost", "[::1]", "::1", "/"].iter().any(|local| host.starts_with(local))
    })
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}
