//! The store's URL: what tokio-postgres understands, and a few words of our own.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use semel::{Error, ErrorKind};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::tls::Trust;
use crate::parameter::{self, ENCODE, TIME};

/// Where the server is and how to speak to it.
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) trust: Trust,
    pub(super) own: Own,
    /// `host:port/database`, without secrets.
    pub(super) place: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(invalid("the URL must start with `postgres://`"));
        }
        let (front, query) = url.split_once('?').unwrap_or((url, ""));
        // Whoever reads such a URL takes a part of the password for a host or a parameter, and
        // would show it.
        if front.matches('@').count() > 1 || query.contains('@') {
            return Err(invalid(&format!("`@` stands only once, behind the login; {ENCODE}")));
        }
        let (mut rest, mut own) = (Vec::new(), Own::default());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if !own.take(pair, query)? {
                rest.push(pair.to_owned());
            }
        }
        let front =
            if rest.is_empty() { front.to_owned() } else { format!("{front}?{}", rest.join("&")) };
        // The error of the driver may quote the URL, and with it the password.
        let mut config = Config::from_str(&front).map_err(|_| {
            invalid(&format!(
                "it cannot be read; write postgres://USER:PASSWORD@HOST:PORT/DATABASE; {ENCODE}"
            ))
        })?;
        if config.get_hosts().is_empty() {
            return Err(invalid("the URL names no host"));
        }
        if config.get_dbname().is_none() {
            return Err(invalid("the URL names no database; write it behind the host"));
        }
        if let Some(mode) = own.mode {
            config.ssl_mode(mode);
        }
        if config.get_application_name().is_none() {
            config.application_name("semel");
        }
        let trust = match (own.root.take(), own.verifies) {
            (None, false) => Trust::Anybody,
            (root, _) => Trust::Roots(root),
        };
        let place = place(&config);
        Ok(Self { config, trust, own, place })
    }
}

/// What only we understand.
const OWN: [&str; 9] = [
    "batch_max",
    "patience",
    "pool",
    "pooler",
    "queue_max",
    "response_timeout",
    "schema",
    "sslrootcert",
    "transactions_max",
];

/// What the driver understands.
const DRIVER: [&str; 16] = [
    "application_name",
    "channel_binding",
    "connect_timeout",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "sslmode",
    "sslnegotiation",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// What is said in words of our own.
#[derive(Default)]
pub(super) struct Own {
    mode: Option<SslMode>,
    verifies: bool,
    root: Option<PathBuf>,
    pub(super) schema: Option<String>,
    pub(super) pooler: Option<bool>,
    pub(super) pool: Option<usize>,
    pub(super) batch_max: Option<usize>,
    pub(super) queue_max: Option<usize>,
    pub(super) transactions_max: Option<usize>,
    pub(super) patience: Option<Duration>,
    pub(super) response_timeout: Option<Duration>,
}

impl Own {
    /// Whether this parameter is ours and not the driver's.
    fn take(&mut self, pair: &str, query: &str) -> Result<bool, Error> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        match (name, value.as_str()) {
            ("sslmode", "verify-full" | "verify-ca") => {
                self.mode = Some(SslMode::Require);
                self.verifies = true;
            }
            ("sslrootcert", path) => self.root = Some(PathBuf::from(path)),
            ("schema", schema) => self.schema = Some(schema.to_owned()),
            ("pooler", "none") => self.pooler = Some(false),
            ("pooler", "transaction") => self.pooler = Some(true),
            ("pooler", other) => {
                return Err(invalid(&format!("`pooler={other}` must be none or transaction")));
            }
            ("pool", text) => self.pool = Some(count(name, text, 2..=1000)?),
            ("batch_max", text) => self.batch_max = Some(count(name, text, 1..=10_000)?),
            ("queue_max", text) => self.queue_max = Some(count(name, text, 1..=1_000_000)?),
            ("transactions_max", text) => {
                self.transactions_max = Some(count(name, text, 1..=1000)?);
            }
            ("patience", text) => self.patience = Some(time(name, text)?),
            ("response_timeout", text) => self.response_timeout = Some(time(name, text)?),
            (name, _) if DRIVER.contains(&name) => return Ok(false),
            (name, _) => return Err(unknown(name, query)),
        }
        Ok(true)
    }
}

/// A parameter that nobody knows may be the rest of a password behind an unescaped `&`.
fn unknown(name: &str, query: &str) -> Error {
    let known = [&OWN[..], &DRIVER[..]].concat().join(", ");
    if query.split('&').any(|pair| pair.starts_with("password=")) {
        return invalid(&format!("a parameter is unknown; there are {known}; {ENCODE}"));
    }
    invalid(&format!("parameter `{}` is unknown; there are {known}", name.escape_debug()))
}

fn count(name: &str, text: &str, range: RangeInclusive<usize>) -> Result<usize, Error> {
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (min, max) = (range.start(), range.end());
        invalid(&format!("`{name}` must be a number from {min} to {max}"))
    })
}

fn time(name: &str, text: &str) -> Result<Duration, Error> {
    parameter::time(text).ok_or_else(|| invalid(&format!("`{name}` must be {TIME}")))
}

fn place(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(at, host)| {
        let port = ports.get(at).or_else(|| ports.first()).copied().unwrap_or(5432);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            #[cfg(unix)]
            Host::Unix(path) => format!("{}:{port}", path.display()),
        }
    });
    let hosts: Vec<_> = hosts.collect();
    format!("{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the PostgreSQL store's URL is wrong: {message}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_parameter_is_named() {
        let Err(error) = Address::parse("postgres://u:secret@h/d?pol=1") else { panic!() };
        assert!(error.to_string().contains("`pol`"), "{error}");
    }

    #[test]
    fn the_drivers_words_and_ours_are_told_apart() {
        let url = "postgres://u:p%40ss@db1:5433,db2/shop?target_session_attrs=read-write\
                   &sslmode=verify-full&schema=s&pooler=transaction&pool=12&patience=700ms";
        let address = Address::parse(url).unwrap();
        assert_eq!(address.place, "db1:5433,db2:5432/shop");
        assert_eq!(address.config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(address.trust, Trust::Roots(None));
        let Own { schema, pooler, pool, patience, .. } = address.own;
        assert_eq!((schema.as_deref(), pooler, pool), (Some("s"), Some(true), Some(12)));
        assert_eq!(patience, Some(Duration::from_millis(700)));
    }

    #[test]
    fn a_password_that_is_not_escaped_is_refused_with_the_way_out_and_not_shown() {
        for url in [
            "postgres://u:SEC@RETX@h:1/d",
            "postgres://u:SEC?RETX@h:1/d",
            "postgres://u:123?RETX@h:1/d",
            "postgres://u:123?RETX&x=1@h:1/d",
            "postgres://u:SEC?pooler=RETX@h:1/d",
            "postgres://u:SEC@RETX/x@h/d",
            "postgres://u:SEC@RETX?y@h/d",
            "postgres://u:SEC/RETX?y@h/d",
            "postgres://u:SEC/RETX",
            "postgres://h/d?user=u&password=SEC&RETX",
            "postgres://h/d?user=u&password=SEC@RETX",
            "postgres://h/d?user=u&password=SEC&pooler&RETX=1",
        ] {
            let Err(error) = Address::parse(url) else { panic!("{url} must be refused") };
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("SEC") && !shown.contains("RETX"), "{url}: {shown}");
            if !url.contains("pooler&") {
                assert!(shown.contains("%40") && shown.contains("%3F"), "{url}: {shown}");
            }
        }
    }

    #[test]
    fn what_needs_no_escape_in_a_password_is_part_of_it() {
        for password in ["a:b", "a/b", "a#b", "a&b=c", "100%"] {
            let address = Address::parse(&format!("postgres://u:{password}@h/d")).unwrap();
            assert_eq!(address.config.get_password(), Some(password.as_bytes()), "{password}");
            assert_eq!(address.place, "h:5432/d");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_the_password() {
        for url in [
            "postgres://u:secret@h:99999999/d",
            "postgres://u:secret@h/d?nonsense=1",
            "postgres://u:secret@h/d?pool=1",
            "postgres://u:secret@h/d?pooler=maybe",
            "postgres://u:secret@h/d?patience=soon",
            "postgres://u:secret@h/d?patience=0s",
            "postgres://u:secret@h",
            "postgres://",
            "mysql://u:secret@h/d",
        ] {
            let Err(error) = Address::parse(url) else { panic!("{url} must be refused") };
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        }
    }
}
