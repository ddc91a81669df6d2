//! From arguments to the parts of a proxy; the rules between settings are checked on the way.

use std::sync::Arc;

use semel::{FingerprintKey, Guard, Inspect, Settings, Wait};
use semel_http::{IdempotencyLayer, OnMissing, Proxy, UnknownPolicy, proxy};

use super::arguments::{Arguments, Secret};
use super::metrics;
use crate::config;
use crate::failure::Failure;

pub(super) fn guard_settings(arguments: &Arguments) -> Result<Settings, Failure> {
    let given = &arguments.executions;
    let mut settings = Settings::default();
    settings.lease = given.lease;
    settings.execution_max = given.execution_max;
    settings.retention = given.retention;
    settings.retry_window = given.retry_window;
    settings.wait = if given.wait.is_zero() { Wait::Refuse } else { Wait::UpTo(given.wait) };
    settings.lost_leases_max = given.lost_leases_max;
    // A short lease shortens the default with it, so that `--lease 2s` needs no second flag. A
    // patience that was chosen is never changed behind the operator's back, but refused.
    let is_default = given.store_patience == settings.store_patience;
    let ceiling = if is_default { given.lease.mul_f32(0.9) } else { given.store_patience };
    settings.store_patience = given.store_patience.min(ceiling);
    settings.refuse_old_keys = !given.accept_old_keys;
    settings.outcome_bytes_max = arguments.limits.response_bytes_max.saturating_add(128 * 1024);
    settings.waiters_max = arguments.limits.in_flight_max;
    settings.validate()?;
    Ok(settings)
}

pub(super) fn layer_settings(arguments: &Arguments) -> semel_http::Settings {
    let (keys, limits) = (&arguments.keys, &arguments.limits);
    let mut settings = semel_http::Settings::proxy();
    settings.methods.clone_from(&keys.methods);
    settings.key_headers.clone_from(&keys.key_header);
    settings.key_pointer.clone_from(&keys.key_pointer);
    settings.on_missing = if keys.require_key { OnMissing::Refuse } else { OnMissing::Pass };
    settings.statuses = keys.status.clone();
    settings.store_unknown = arguments.executions.on_unknown == UnknownPolicy::Store;
    settings.outcome_header.clone_from(&keys.outcome_header);
    settings.request_bytes_max = limits.request_bytes_max;
    settings.response_bytes_max = limits.response_bytes_max;
    settings.request_read_max = limits.request_read_max;
    settings.in_flight_max = limits.in_flight_max;
    settings.problem_base.clone_from(&keys.problem_base);
    settings.canonical_json = keys.canonical_json;
    settings
}

pub(super) fn proxy_settings(arguments: &Arguments) -> proxy::Settings {
    let limits = &arguments.limits;
    let mut settings = proxy::Settings::new(&arguments.upstream);
    settings.connect = limits.connect;
    settings.response_head = limits.response_head;
    settings.response_idle = limits.response_idle;
    settings.body_idle = limits.body_idle;
    settings.upstream_idle = limits.upstream_idle;
    settings.upstream_reuse_keyed = limits.upstream_reuse_keyed;
    settings.upstream_in_flight_max = limits.upstream_in_flight_max;
    settings.upstream_idle_max = limits.upstream_idle_max;
    settings.connections_max = limits.connections_max;
    settings.header_read = limits.header_read;
    settings.client_idle = limits.client_idle;
    settings.client_write = limits.client_write;
    settings.header_bytes_max = limits.header_bytes_max;
    settings.streams_max = limits.streams_max;
    settings.tunnel_idle = limits.tunnel_idle;
    settings.drain_max = arguments.operations.drain_max;
    settings.forwarding = limits.forwarding;
    settings.trust_forwarded = limits.trust_forwarded;
    settings
}

/// The secret of the file or the environment, if there is one.
pub(super) fn secret(arguments: &Arguments) -> Result<Option<FingerprintKey>, Failure> {
    let given = match &arguments.secret.secret_file {
        Some(path) => Some(config::first_line(path)?),
        None if arguments.secret.is_in_variable => std::env::var(Secret::VARIABLE).ok(),
        None => None,
    };
    let parse = |secret: String| FingerprintKey::from_secret(secret.as_bytes());
    Ok(given.map(parse).transpose()?)
}

/// The whole proxy over this store.
pub(super) fn proxy(
    arguments: &Arguments,
    store: Arc<dyn Inspect>,
    secret: FingerprintKey,
) -> Result<Proxy, Failure> {
    let guard = Guard::builder(store)
        .operation(&arguments.keys.operation)?
        .effect(arguments.executions.on_unknown.effect())
        .settings(guard_settings(arguments)?)
        .observer(Arc::new(metrics::guard_event))
        .build()?;
    let builder = IdempotencyLayer::builder(guard);
    let builder = match &arguments.tenant.tenant_header {
        Some(name) => builder.tenant_from_header(name)?,
        None if arguments.tenant.single_tenant => builder.single_tenant(),
        None => builder.tenant_from_authorization(),
    };
    let layer = builder
        .settings(layer_settings(arguments))
        .secret(secret)
        .observer(metrics::answered)
        .build()?;
    Ok(Proxy::new(proxy_settings(arguments), layer)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Called {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// The defaults on the command line are those of the crates, so nothing drifts.
    #[test]
    fn the_defaults_of_the_flags_are_those_of_the_settings() {
        let called = Called::parse_from(["proxy", "--upstream", "http://app:8000"]);
        let arguments = called.arguments;
        assert_eq!(proxy_settings(&arguments), proxy::Settings::new("http://app:8000"));
        assert_eq!(layer_settings(&arguments), semel_http::Settings::proxy());
        let (guard, default) = (guard_settings(&arguments).unwrap(), Settings::default());
        let same = Settings::clone(&default);
        let mut same = same;
        same.outcome_bytes_max = guard.outcome_bytes_max;
        same.waiters_max = guard.waiters_max;
        assert_eq!(guard, same);
    }
}
