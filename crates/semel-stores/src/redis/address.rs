//! The URL of a server, a cluster, or a server that Sentinel looks after.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use semel::{Error, ErrorKind};

use super::names::Names;
use crate::parameter::{self, ENCODE, TIME};

/// Where the records are, parsed from a URL.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) kind: Kind,
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) database: i64,
    pub(super) login: Login,
    pub(super) tls: Option<Tls>,
    pub(super) wishes: Wishes,
}

/// What the URL says about the store; it goes before the options.
#[derive(Clone, Default)]
pub(super) struct Wishes {
    pub(super) allow_eviction: bool,
    pub(super) patience: Option<Duration>,
    pub(super) prefix: Option<String>,
    pub(super) response_timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Cluster,
    /// The hosts are Sentinels; they know the server of this name.
    Sentinel {
        master: String,
        login: Login,
    },
    Single,
}

/// A user and a password; `Debug` shows neither.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    /// The certificate authority to trust instead of the system's.
    pub(super) ca: Option<PathBuf>,
    /// Whoever answers is trusted.
    pub(super) insecure: bool,
}

impl Address {
    /// # Errors
    /// [`ErrorKind::Invalid`] names the part that breaks the rule, never the password.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| {
            invalid("the store URL has no `://`; write redis://host:6379".to_owned())
        })?;
        let (family, is_tls) = scheme_of(scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        // What stands before and behind the `?` may be two parts of a password.
        if query.contains('@') {
            return Err(invalid(format!(
                "an `@` stands behind the `?` of the store URL; {ENCODE}"
            )));
        }
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Login::parse(login)?, rest),
            None => (Login::default(), rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let default_port = if family == "sentinel" { 26379 } else { 6379 };
        let hosts: Vec<_> = hosts
            .split(',')
            .map(|host| parse_host(host, default_port))
            .collect::<Result<_, _>>()?;
        let parameters = Parameters::parse(query, is_tls)?;
        let (kind, database) = match family {
            "cluster" if !path.is_empty() => {
                let message = "a cluster has only database 0; the URL may not name one";
                return Err(invalid(message.to_owned()));
            }
            "cluster" => (Kind::Cluster, 0),
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    let message = "a Sentinel URL needs the server's name: \
                                   redis-sentinel://host:26379/mymaster";
                    return Err(invalid(message.to_owned()));
                }
                let login = parameters.sentinel.clone();
                (Kind::Sentinel { master: decode(master)?, login }, parse_database(database)?)
            }
            _ if hosts.len() > 1 => {
                let message = "redis:// takes one host; for several write redis-cluster:// or \
                               redis-sentinel://";
                return Err(invalid(message.to_owned()));
            }
            _ => (Kind::Single, parse_database(path)?),
        };
        let Parameters { tls, wishes, .. } = parameters;
        Ok(Self { kind, hosts, database, login, tls, wishes })
    }
}

/// The URL without the login, for messages.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let family = match self.kind {
            Kind::Cluster => "-cluster",
            Kind::Sentinel { .. } => "-sentinel",
            Kind::Single => "",
        };
        write!(f, "{scheme}{family}://")?;
        for (place, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        if let Kind::Sentinel { master, .. } = &self.kind {
            write!(f, "/{master}")?;
        }
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, Error> {
        let (user, password) = text.split_once(':').ok_or_else(|| {
            let message = "the login in the store URL has no password; write `user:password@` or \
                           `:password@`";
            invalid(message.to_owned())
        })?;
        let user = Some(decode(user)?).filter(|user| !user.is_empty());
        Ok(Self { user, password: Some(decode(password)?) })
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// What stands behind the `?`.
struct Parameters {
    tls: Option<Tls>,
    sentinel: Login,
    wishes: Wishes,
}

impl Parameters {
    fn parse(query: &str, is_tls: bool) -> Result<Self, Error> {
        let (mut tls, mut sentinel) = (Tls { ca: None, insecure: false }, Login::default());
        let mut wishes = Wishes::default();
        for parameter in query.split('&').filter(|it| !it.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match (name, value) {
                ("ca" | "insecure", _) if !is_tls => {
                    let message = format!(
                        "`{name}` is about TLS, which the URL does not ask for; write rediss://"
                    );
                    return Err(invalid(message));
                }
                ("ca", path) if !path.is_empty() => {
                    tls.ca = Some(Path::new(&decode(path)?).to_owned());
                }
                ("insecure", "true") => tls.insecure = true,
                ("insecure", "false") => tls.insecure = false,
                ("sentinel_user", user) => sentinel.user = Some(decode(user)?),
                ("sentinel_password", password) => sentinel.password = Some(decode(password)?),
                ("allow_eviction", "true") => wishes.allow_eviction = true,
                ("allow_eviction", "false") => wishes.allow_eviction = false,
                ("patience", text) => wishes.patience = Some(time(name, text)?),
                ("prefix", prefix) => {
                    let prefix = decode(prefix)?;
                    Names::new(&prefix)?;
                    wishes.prefix = Some(prefix);
                }
                ("response_timeout", text) => wishes.response_timeout = Some(time(name, text)?),
                _ => return Err(unknown(name, query)),
            }
        }
        Ok(Self { tls: is_tls.then_some(tls), sentinel, wishes })
    }
}

/// The value is not shown: it may be a misspelt password. Nor is the name where it may be the rest
/// of a password behind an unescaped `&`.
fn unknown(name: &str, query: &str) -> Error {
    let (shown, way_out) = if query.contains("sentinel_password=") {
        ("a parameter".to_owned(), format!("; {ENCODE}"))
    } else {
        (format!("parameter `{}`", name.escape_debug()), String::new())
    };
    invalid(format!(
        "{shown} of the store URL is unknown or lacks its value; known are allow_eviction=true, \
         ca=PATH, insecure=true, patience=5s, prefix=semel:, response_timeout=2s, sentinel_user \
         and sentinel_password{way_out}"
    ))
}

fn time(name: &str, text: &str) -> Result<Duration, Error> {
    parameter::time(text)
        .ok_or_else(|| invalid(format!("`{name}` of the store URL must be {TIME}")))
}

fn scheme_of(scheme: &str) -> Result<(&'static str, bool), Error> {
    let (server, family) = match scheme.split_once('-') {
        Some((server, "cluster")) => (server, "cluster"),
        Some((server, "sentinel")) => (server, "sentinel"),
        _ => (scheme, "single"),
    };
    match server {
        "redis" | "valkey" => Ok((family, false)),
        "rediss" | "valkeys" => Ok((family, true)),
        _ => Err(invalid(format!(
            "store URL scheme `{}` is none of redis, rediss, redis-cluster, \
             rediss-cluster, redis-sentinel, rediss-sentinel or their valkey twins",
            scheme.split(':').next().unwrap_or_default().escape_debug()
        ))),
    }
}

fn parse_host(text: &str, default_port: u16) -> Result<(String, u16), Error> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(invalid("the store URL lacks its host; write redis://host:6379".to_owned()));
    }
    let port = match port {
        None => default_port,
        // It is not shown: whoever forgets the host writes the password there.
        Some(port) => port.parse().map_err(|_| {
            let message = format!(
                "a port in the store URL is no number up to 65535; write \
                 redis://user:password@host:6379; an IPv6 address stands in brackets; {ENCODE}"
            );
            invalid(message)
        })?,
    };
    Ok((host.to_owned(), port))
}

fn parse_database(text: &str) -> Result<i64, Error> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = text.parse::<u16>().map_err(|_| {
        invalid(format!("database `{text}` of the store URL is no number; the first is 0"))
    })?;
    Ok(i64::from(number))
}

/// Percent-decodes; the text itself is not shown in errors, because it may be a password.
fn decode(text: &str) -> Result<String, Error> {
    let broken = || {
        invalid("a % in the store URL is not followed by two hex digits; write %25 for %".into())
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|it| char::from(it).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(broken()) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| broken())?);
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_url_says_what_it_means() {
        let single = Address::parse("redis://ada:p%40ss@h:1/3").unwrap();
        assert_eq!((single.kind, single.database), (Kind::Single, 3));
        assert_eq!(single.hosts, [("h".to_owned(), 1)]);
        assert_eq!(single.login.user.as_deref(), Some("ada"));
        assert_eq!(single.login.password.as_deref(), Some("p@ss"));
        assert_eq!(single.tls, None);

        let tls = Address::parse("valkeys://:secret@h?ca=/etc/ca.pem").unwrap();
        assert_eq!(tls.hosts, [("h".to_owned(), 6379)]);
        assert_eq!(tls.login.user, None);
        assert_eq!(tls.tls.unwrap().ca.unwrap(), Path::new("/etc/ca.pem"));

        let url = "redis://h?allow_eviction=true&patience=700ms&prefix=a:b&response_timeout=1s";
        let Wishes { allow_eviction, patience, prefix, response_timeout } =
            Address::parse(url).unwrap().wishes;
        assert_eq!((allow_eviction, prefix.as_deref()), (true, Some("a:b")));
        assert_eq!(patience, Some(Duration::from_millis(700)));
        assert_eq!(response_timeout, Some(Duration::from_secs(1)));

        let cluster = Address::parse("rediss-cluster://a:1,[::1]:2?insecure=true").unwrap();
        assert_eq!(cluster.kind, Kind::Cluster);
        assert_eq!(cluster.hosts, [("a".to_owned(), 1), ("::1".to_owned(), 2)]);
        assert!(cluster.tls.unwrap().insecure);

        let sentinel =
            Address::parse("redis-sentinel://:x@a,b:5/main/2?sentinel_password=y").unwrap();
        assert_eq!(sentinel.hosts, [("a".to_owned(), 26379), ("b".to_owned(), 5)]);
        assert_eq!(sentinel.database, 2);
        let Kind::Sentinel { master, login } = sentinel.kind else { panic!("a Sentinel") };
        assert_eq!((master.as_str(), login.password.as_deref()), ("main", Some("y")));
    }

    #[test]
    fn a_prefix_that_breaks_its_rule_is_refused() {
        let error = Address::parse("redis://h?prefix=a%7Bb").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Settings);
        assert!(error.to_string().contains("1 to 64"), "{error}");
    }

    #[test]
    fn what_is_shown_of_a_url_never_holds_the_login() {
        for url in [
            "redis://ada:hunter2@h:1/3",
            "rediss-cluster://:hunter2@a:1,[::1]:2",
            "redis-sentinel://:hunter2@a:1/main?sentinel_password=hunter2",
        ] {
            let address = Address::parse(url).unwrap();
            for shown in [format!("{address}"), format!("{address:?}"), format!("{address:#?}")] {
                assert!(!shown.contains("hunter2") && !shown.contains("ada"), "{shown}");
            }
        }
        let address = Address::parse("redis-sentinel://:p@[::1]:1,b/main/2").unwrap();
        assert_eq!(address.to_string(), "redis-sentinel://[::1]:1,b:26379/main/2");
    }

    #[test]
    fn a_password_that_is_not_escaped_is_refused_with_the_way_out_and_not_shown() {
        for url in [
            "redis://ada:SEC?RETX@h:1",
            "redis://:SEC?RETX@h:1",
            "redis://ada:123?RETX@h:1",
            "redis://ada:123/RETX?x@h:1",
            "redis://ada:SEC/RETX",
            "redis://ada:SEC:RETX",
            "redis://ada:SEC#RETX",
            "redis-cluster://ada:SEC,RETX?x@h:1,i:2",
            "redis-sentinel://h/main?sentinel_password=SEC&RETX",
            "redis-sentinel://h/main?sentinel_password=SEC@RETX",
            "rediss://h?sentinel_password=SEC&ca&RETX=1",
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(!error.contains("SEC") && !error.contains("RETX"), "{url}: {error}");
            assert!(error.contains("%40") && error.contains("%3F"), "{url}: {error}");
        }
    }

    #[test]
    fn what_needs_no_escape_in_a_password_is_part_of_it() {
        for password in ["a:b", "a/b", "a#b", "a&b=c", "a@b"] {
            let address = Address::parse(&format!("redis://ada:{password}@h:1")).unwrap();
            assert_eq!(address.login.password.as_deref(), Some(password));
            assert_eq!(address.to_string(), "redis://h:1");
        }
    }

    #[test]
    fn a_broken_url_is_refused_with_the_way_out_and_without_the_password() {
        for (url, hint) in [
            ("redis:h", "://"),
            ("rediz://h", "scheme"),
            ("redis://", "host"),
            ("redis://h:x", "port"),
            ("redis://h/x", "database"),
            ("redis://a,b", "redis-cluster://"),
            ("redis://hunter2@h", "user:password@"),
            ("redis://:hunter2%@h", "%25"),
            ("redis-cluster://h/1", "database 0"),
            ("redis-sentinel://h", "mymaster"),
            ("redis://h?ca=/x", "rediss://"),
            ("rediss://h?insecure=hunter2", "insecure"),
            ("rediss://h?pasword=hunter2", "pasword"),
            ("redis://h?patience=hunter2", "500ms or 5s"),
            ("redis://h?response_timeout=0s", "`response_timeout`"),
            ("redis://h?allow_eviction=hunter2", "allow_eviction=true"),
        ] {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(hint), "{url}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{url}: {error}");
        }
    }
}
