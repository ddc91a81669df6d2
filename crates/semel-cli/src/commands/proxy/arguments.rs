//! Every setting of the proxy: flag, environment variable, name in the file, default and reason,
//! in one place.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use clap::builder::BoolishValueParser;
use semel_http::proxy::Forwarding;
use semel_http::{StatusRules, UnknownPolicy, parse_duration};

use crate::cli::StoreArguments;
use crate::config::{Rivals, Settled, Source};

#[derive(Clone, Debug, clap::Args)]
// The last one counts, so that a script can add to the flags it was given.
#[command(args_override_self = true, allow_negative_numbers = true)]
#[command(after_help = "Settings come from flags, then SEMEL_… variables, then the file of \
    --config (the same names without dashes), then defaults.")]
pub(crate) struct Arguments {
    /// TOML file with settings of the same names
    #[arg(long, value_name = "FILE", env = "SEMEL_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// Where requests go: http://HOST:PORT
    #[arg(long, value_name = "URL", env = "SEMEL_UPSTREAM")]
    pub(crate) upstream: String,

    /// Where clients connect; port 0 takes a free one
    #[arg(long, value_name = "ADDR", env = "SEMEL_LISTEN", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,

    /// Where operators connect: /live /ready /metrics /config /log-level. Off when left out
    #[arg(long, value_name = "ADDR", env = "SEMEL_ADMIN")]
    pub(crate) admin: Option<String>,

    #[command(flatten)]
    pub(crate) store: StoreArguments,

    #[command(flatten, next_help_heading = "Keys and answers")]
    pub(crate) keys: Keys,

    #[command(flatten, next_help_heading = "Keys and answers")]
    pub(crate) tenant: Settled<Tenant>,

    #[command(flatten, next_help_heading = "Keys and answers")]
    pub(crate) secret: Settled<Secret>,

    #[command(flatten, next_help_heading = "Executions")]
    pub(crate) executions: Executions,

    #[command(flatten, next_help_heading = "Limits")]
    pub(crate) limits: Limits,

    #[command(flatten, next_help_heading = "Stopping and logs")]
    pub(crate) operations: Operations,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Keys {
    /// Field that carries the key; may be given several times, the first that is there counts
    #[arg(long, value_name = "NAME", env = "SEMEL_KEY_HEADER", value_delimiter = ',')]
    #[arg(default_value = "Idempotency-Key")]
    pub(crate) key_header: Vec<String>,

    /// JSON Pointer to the key in the body, used when no field carries one
    #[arg(long, value_name = "POINTER", env = "SEMEL_KEY_POINTER")]
    pub(crate) key_pointer: Option<String>,

    /// Refuse guarded requests without a key instead of letting them pass
    #[arg(long, env = "SEMEL_REQUIRE_KEY", value_parser = BoolishValueParser::new())]
    pub(crate) require_key: bool,

    /// Methods that are guarded
    #[arg(long, value_name = "NAMES", env = "SEMEL_METHODS", value_delimiter = ',')]
    #[arg(default_value = "POST,PATCH")]
    pub(crate) methods: Vec<String>,

    /// Name of what is guarded; proxies with one name share their records
    #[arg(long, value_name = "NAME", env = "SEMEL_OPERATION", default_value = "proxy")]
    pub(crate) operation: String,

    /// Rules about which statuses end an operation: 409=release,500-599=store
    #[arg(long, value_name = "RULES", env = "SEMEL_STATUS", default_value = "")]
    pub(crate) status: StatusRules,

    /// Field by which the upstream says how it ended: applied, not-applied or unknown
    #[arg(
        long,
        value_name = "NAME",
        env = "SEMEL_OUTCOME_HEADER",
        default_value = "Semel-Outcome"
    )]
    pub(crate) outcome_header: String,

    /// Fingerprint JSON bodies by value instead of byte by byte
    #[arg(long, env = "SEMEL_CANONICAL_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) canonical_json: bool,

    /// What the `type` of a problem starts with
    #[arg(long, value_name = "BASE", env = "SEMEL_PROBLEM_BASE")]
    #[arg(default_value = semel_http::PROBLEMS_PATH)]
    pub(crate) problem_base: String,
}

/// Whose keys they are.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Tenant {
    /// Field that names the tenant; something trusted must set it. Default: a hash of
    /// Authorization
    #[arg(long, value_name = "NAME", env = "SEMEL_TENANT_HEADER")]
    pub(crate) tenant_header: Option<String>,

    /// All callers are one principal and share their keys
    #[arg(long, env = "SEMEL_SINGLE_TENANT", value_parser = BoolishValueParser::new())]
    pub(crate) single_tenant: bool,
}

impl Rivals for Tenant {
    const FIELDS: [&'static str; 2] = ["tenant_header", "single_tenant"];

    fn forget(&mut self, field: &str) {
        match field {
            "tenant_header" => self.tenant_header = None,
            _ => self.single_tenant = false,
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Secret {
    /// File whose first line is the secret for fingerprints and tenants; SEMEL_SECRET may hold the
    /// secret itself. Default: the store's own
    #[arg(long, value_name = "FILE", env = "SEMEL_SECRET_FILE")]
    pub(crate) secret_file: Option<PathBuf>,

    /// Whether the variable that holds the secret itself counts; it has no flag.
    #[arg(skip = std::env::var_os(Self::VARIABLE).is_some())]
    pub(crate) is_in_variable: bool,
}

impl Secret {
    pub(crate) const VARIABLE: &'static str = "SEMEL_SECRET";
}

impl Rivals for Secret {
    const FIELDS: [&'static str; 2] = ["secret_file", "secret"];

    fn forget(&mut self, field: &str) {
        match field {
            "secret_file" => self.secret_file = None,
            _ => self.is_in_variable = false,
        }
    }

    fn source(matches: &ArgMatches, field: &str) -> Option<Source> {
        match field {
            "secret" => std::env::var_os(Self::VARIABLE).map(|_| Source::Environment),
            _ => Source::of(matches, field),
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Executions {
    /// After an answer that does not tell what happened: hold the key, retry, or store the failure
    #[arg(long, value_name = "hold|retry|store", env = "SEMEL_ON_UNKNOWN", default_value = "hold")]
    pub(crate) on_unknown: UnknownPolicy,

    /// How long duplicates of a running request wait for its answer; 0s refuses them at once
    #[arg(long, value_name = "DUR", env = "SEMEL_WAIT", default_value = "0s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) wait: Duration,

    /// How long a claim stays valid without a heartbeat
    #[arg(long, value_name = "DUR", env = "SEMEL_LEASE", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) lease: Duration,

    /// The longest execution that heartbeats keep alive
    #[arg(long, value_name = "DUR", env = "SEMEL_EXECUTION_MAX", default_value = "10m")]
    #[arg(value_parser = parse_duration)]
    pub(crate) execution_max: Duration,

    /// How long answers are kept and replayed
    #[arg(long, value_name = "DUR", env = "SEMEL_RETENTION", default_value = "24h")]
    #[arg(value_parser = parse_duration)]
    pub(crate) retention: Duration,

    /// The longest time after which clients retry; a shorter retention is refused
    #[arg(long, value_name = "DUR", env = "SEMEL_RETRY_WINDOW")]
    #[arg(value_parser = parse_duration)]
    pub(crate) retry_window: Option<Duration>,

    /// Execute unknown keys that say they are older than the retention (UUID version 7)
    #[arg(long, env = "SEMEL_ACCEPT_OLD_KEYS", value_parser = BoolishValueParser::new())]
    pub(crate) accept_old_keys: bool,

    /// Claims of one key that may fall silent in a row before it is held
    #[arg(long, value_name = "N", env = "SEMEL_LOST_LEASES_MAX", default_value = "3")]
    pub(crate) lost_leases_max: u32,

    /// How long to keep trying while the store cannot be reached
    #[arg(long, value_name = "DUR", env = "SEMEL_STORE_PATIENCE", default_value = "5s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) store_patience: Duration,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Limits {
    /// The longest body of a keyed request, in bytes
    #[arg(long, value_name = "BYTES", env = "SEMEL_REQUEST_BYTES_MAX", default_value = "1048576")]
    pub(crate) request_bytes_max: usize,

    /// The longest answer that is kept, in bytes; a longer one passes and leaves a tombstone
    #[arg(long, value_name = "BYTES", env = "SEMEL_RESPONSE_BYTES_MAX", default_value = "1048576")]
    pub(crate) response_bytes_max: usize,

    /// How long the body of a keyed request may take to arrive
    #[arg(long, value_name = "DUR", env = "SEMEL_REQUEST_READ_MAX", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) request_read_max: Duration,

    /// Keyed requests in flight, waiting ones included
    #[arg(long, value_name = "N", env = "SEMEL_IN_FLIGHT_MAX", default_value = "4096")]
    pub(crate) in_flight_max: usize,

    /// Requests at the upstream
    #[arg(long, value_name = "N", env = "SEMEL_UPSTREAM_IN_FLIGHT_MAX", default_value = "1024")]
    pub(crate) upstream_in_flight_max: usize,

    /// Memory for answers that were replayed a moment ago, in bytes; they are replayed again
    /// without asking the store. 0 asks it every time
    #[arg(long, value_name = "BYTES", env = "SEMEL_REPLAY_CACHE", default_value = "0")]
    pub(crate) replay_cache: u64,

    /// How long such an answer is remembered, also when an operator purges its record
    #[arg(long, value_name = "DUR", env = "SEMEL_REPLAY_CACHE_AGE", default_value = "5s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) replay_cache_age: Duration,

    /// Unused connections to the upstream that are kept
    #[arg(long, value_name = "N", env = "SEMEL_UPSTREAM_IDLE_MAX", default_value = "256")]
    pub(crate) upstream_idle_max: usize,

    /// How long an unused connection to the upstream is kept
    #[arg(long, value_name = "DUR", env = "SEMEL_UPSTREAM_IDLE", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) upstream_idle: Duration,

    /// Keyed requests reuse a connection only if it was used this recently
    #[arg(long, value_name = "DUR", env = "SEMEL_UPSTREAM_REUSE_KEYED", default_value = "1s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) upstream_reuse_keyed: Duration,

    /// How long opening a connection to the upstream may take
    #[arg(long, value_name = "DUR", env = "SEMEL_CONNECT", default_value = "5s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) connect: Duration,

    /// How long the upstream may take for the head of its answer
    #[arg(long, value_name = "DUR", env = "SEMEL_RESPONSE_HEAD", default_value = "60s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) response_head: Duration,

    /// The longest pause between two pieces of an answer
    #[arg(long, value_name = "DUR", env = "SEMEL_RESPONSE_IDLE", default_value = "5m")]
    #[arg(value_parser = parse_duration)]
    pub(crate) response_idle: Duration,

    /// The longest pause between two pieces of a request's body
    #[arg(long, value_name = "DUR", env = "SEMEL_BODY_IDLE", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) body_idle: Duration,

    /// Clients that may be connected; more wait to be accepted
    #[arg(long, value_name = "N", env = "SEMEL_CONNECTIONS_MAX", default_value = "10000")]
    pub(crate) connections_max: usize,

    /// How long a client may take for the head of a request
    #[arg(long, value_name = "DUR", env = "SEMEL_HEADER_READ", default_value = "10s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) header_read: Duration,

    /// The longest head of a request, in bytes
    #[arg(long, value_name = "BYTES", env = "SEMEL_HEADER_BYTES_MAX", default_value = "65536")]
    pub(crate) header_bytes_max: usize,

    /// How long a client's connection may stay without a request
    #[arg(long, value_name = "DUR", env = "SEMEL_CLIENT_IDLE", default_value = "60s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) client_idle: Duration,

    /// How long a client may take no byte of an answer
    #[arg(long, value_name = "DUR", env = "SEMEL_CLIENT_WRITE", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) client_write: Duration,

    /// Requests that one HTTP/2 connection may have open
    #[arg(long, value_name = "N", env = "SEMEL_STREAMS_MAX", default_value = "256")]
    pub(crate) streams_max: u32,

    /// How long a tunnel (WebSocket) may be silent
    #[arg(long, value_name = "DUR", env = "SEMEL_TUNNEL_IDLE", default_value = "1h")]
    #[arg(value_parser = parse_duration)]
    pub(crate) tunnel_idle: Duration,

    /// Which fields tell the upstream about the client: x-forwarded, forwarded, both or off
    #[arg(long, value_name = "KIND", env = "SEMEL_FORWARDING", default_value = "x-forwarded")]
    #[arg(value_parser = forwarding)]
    pub(crate) forwarding: Forwarding,

    /// Keep such fields of the client and append to them; only behind a proxy of yours
    #[arg(long, env = "SEMEL_TRUST_FORWARDED", value_parser = BoolishValueParser::new())]
    pub(crate) trust_forwarded: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Operations {
    /// After SIGTERM, how long /ready says no before new connections are refused
    #[arg(long, value_name = "DUR", env = "SEMEL_DRAIN_MIN", default_value = "0s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) drain_min: Duration,

    /// How long requests in flight may take to end after that
    #[arg(long, value_name = "DUR", env = "SEMEL_DRAIN_MAX", default_value = "30s")]
    #[arg(value_parser = parse_duration)]
    pub(crate) drain_max: Duration,

    /// How often expired records are deleted
    #[arg(long, value_name = "DUR", env = "SEMEL_SWEEP", default_value = "1m")]
    #[arg(value_parser = parse_duration)]
    pub(crate) sweep: Duration,

    /// What is logged, as `tracing` filters: warn, info, semel::http=debug
    #[arg(long, value_name = "FILTER", env = "SEMEL_LOG", default_value = "info")]
    pub(crate) log: String,

    /// Log lines as JSON
    #[arg(long, env = "SEMEL_LOG_JSON", value_parser = BoolishValueParser::new())]
    pub(crate) log_json: bool,
}

fn forwarding(text: &str) -> Result<Forwarding, String> {
    match text {
        "both" => Ok(Forwarding::Both),
        "forwarded" => Ok(Forwarding::Forwarded),
        "off" => Ok(Forwarding::Off),
        "x-forwarded" => Ok(Forwarding::XForwarded),
        _ => Err("use x-forwarded, forwarded, both or off".to_owned()),
    }
}
