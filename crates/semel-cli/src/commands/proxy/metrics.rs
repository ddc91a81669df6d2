//! What the proxy counts. Names carry their unit, labels have few values, and no key is in them.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use semel::Event;
use semel::store::Counts;
use semel_http::Answered;

use crate::failure::Failure;

/// Starts counting.
pub(super) fn install() -> Result<PrometheusHandle, Failure> {
    let handle = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| Failure::runtime("the metrics could not be started").caused_by(&error))?;
    describe_counter!(
        "semel_http_requests_total",
        "answered requests by decision and status class"
    );
    describe_counter!("semel_guard_events_total", "what the guard did, by event");
    describe_counter!("semel_sweep_records_total", "expired records that were deleted");
    describe_gauge!("semel_store_records", "records by state; silent ones are in-progress too");
    Ok(handle)
}

pub(super) fn answered(answered: &Answered) {
    let class = match answered.status.map(|status| status.as_u16() / 100) {
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        Some(_) => "1xx",
        None => "none",
    };
    let decision = answered.decision.name();
    counter!("semel_http_requests_total", "decision" => decision, "status" => class).increment(1);
}

pub(super) fn guard_event(event: &Event) {
    let name = match event {
        Event::ClaimLost => "claim-lost",
        Event::Claimed { attempts: 1 } => "claimed",
        Event::Claimed { .. } => "taken-over",
        Event::Completed => "completed",
        Event::LeaseLost => "lease-lost",
        Event::NotApplied => "not-applied",
        Event::Refused { .. } => "refused",
        Event::Replayed => "replayed",
        Event::StoreError { .. } => "store-error",
        Event::Unknown => "unknown",
        Event::Waiting => "waiting",
        _ => "other",
    };
    counter!("semel_guard_events_total", "event" => name).increment(1);
}

pub(super) fn swept(records: usize) {
    counter!("semel_sweep_records_total").increment(records as u64);
}

pub(super) fn counted(counts: &Counts) {
    let states = [
        ("completed", counts.completed),
        ("expired", counts.expired),
        ("held", counts.held),
        ("in-progress", counts.in_progress),
        ("interrupted", counts.interrupted),
        ("silent", counts.silent),
    ];
    for (state, records) in states {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and near is enough")]
        gauge!("semel_store_records", "state" => state).set(records as f64);
    }
}
