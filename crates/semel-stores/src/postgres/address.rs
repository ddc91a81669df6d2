//! The store's URL: what tokio-postgres understands, and a few words of our own.

use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use semel::{Error, ErrorKind};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::tls::Trust;

/// Where the server is and how to speak to it.
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) trust: Trust,
    pub(super) schema: Option<String>,
    pub(super) pooler: Option<bool>,
    pub(super) pool: Option<usize>,
    /// `host:port/database`, without secrets.
    pub(super) place: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(invalid("the URL must start with `postgres://`"));
        }
        let (front, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut rest, mut own) = (Vec::new(), Own::default());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if !own.take(pair)? {
                rest.push(pair.to_owned());
            }
        }
        let front =
            if rest.is_empty() { front.to_owned() } else { format!("{front}?{}", rest.join("&")) };
        // The error of the driver may quote the URL, and with it the password.
        let mut config = Config::from_str(&front).map_err(|_| {
            invalid(
                "the URL cannot be read; write postgres://USER:PASSWORD@HOST:PORT/DATABASE and \
                 percent-encode odd characters",
            )
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
        let trust = match (own.root, own.verifies) {
            (None, false) => Trust::Anybody,
            (root, _) => Trust::Roots(root),
        };
        let place = place(&config);
        let Own { schema, pooler, pool, .. } = own;
        Ok(Self { config, trust, schema, pooler, pool, place })
    }
}

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

#[derive(Default)]
struct Own {
    mode: Option<SslMode>,
    verifies: bool,
    root: Option<PathBuf>,
    schema: Option<String>,
    pooler: Option<bool>,
    pool: Option<usize>,
}

impl Own {
    /// Whether this parameter is ours and not the driver's.
    fn take(&mut self, pair: &str) -> Result<bool, Error> {
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
            ("pool", size) => {
                let size = size.parse().ok().filter(|size| (2..=1000).contains(size));
                let rule = || invalid("`pool` must be a number from 2 to 1000");
                self.pool = Some(size.ok_or_else(rule)?);
            }
            (name, _) if DRIVER.contains(&name) => return Ok(false),
            (name, _) => {
                let name = name.escape_debug();
                return Err(invalid(&format!(
                    "parameter `{name}` is unknown; there are schema, pool, pooler, sslrootcert, \
                     {}",
                    DRIVER.join(", ")
                )));
            }
        }
        Ok(true)
    }
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
                   &sslmode=verify-full&schema=s&pooler=transaction&pool=12";
        let address = Address::parse(url).unwrap();
        assert_eq!(address.place, "db1:5433,db2:5432/shop");
        assert_eq!(address.config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(address.trust, Trust::Roots(None));
        assert_eq!(
            (address.schema.as_deref(), address.pooler, address.pool),
            (Some("s"), Some(true), Some(12))
        );
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_the_password() {
        for url in [
            "postgres://u:secret@h:99999999/d",
            "postgres://u:secret@h/d?nonsense=1",
            "postgres://u:secret@h/d?pool=1",
            "postgres://u:secret@h/d?pooler=maybe",
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
