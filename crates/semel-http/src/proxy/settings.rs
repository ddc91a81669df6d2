use std::time::Duration;

use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};
use semel::{Error, ErrorKind};
use serde::Deserialize;

/// Which fields tell the upstream about the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// Both kinds.
    Both,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Neither.
    Off,
    /// `X-Forwarded-For`, `X-Forwarded-Host` and `X-Forwarded-Proto`, which frameworks know.
    #[default]
    XForwarded,
}

/// The settings of the proxy's own part: connections, time-outs, limits. Plain data; every field
/// but the upstream may be left out of a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// Where requests go: `http://HOST:PORT`.
    pub upstream: String,
    /// How long opening a connection to the upstream may take; also how long a request waits for
    /// a place among [`upstream_in_flight_max`](Self::upstream_in_flight_max). Default 5 s.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub connect: Duration,
    /// How long the upstream may take from the whole request to the head of its answer. Default
    /// 60 s, like other proxies.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub response_head: Duration,
    /// The longest pause between two pieces of an answer. An event stream has to send something
    /// more often. Default 5 min.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub response_idle: Duration,
    /// The longest pause between two pieces of a request's body. Default 30 s.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub body_idle: Duration,
    /// How long an unused connection to the upstream is kept. Default 30 s.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub upstream_idle: Duration,
    /// A keyed request takes a kept connection only if it was used this recently, and opens a new
    /// one otherwise: a connection that the upstream closes at the same moment would make the
    /// outcome unknown. Default 1 s, below the keep-alive of common servers (gunicorn: 2 s).
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub upstream_reuse_keyed: Duration,
    /// How many requests may be at the upstream. Default 1024.
    pub upstream_in_flight_max: usize,
    /// How many unused connections to the upstream are kept. Default 256.
    pub upstream_idle_max: usize,
    /// How many clients may be connected; more wait to be accepted. Default 10,000.
    pub connections_max: usize,
    /// How long a client may take for the head of a request, from its first byte. Default 10 s.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub header_read: Duration,
    /// How long a client's connection may stay without a request. Default 60 s.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub client_idle: Duration,
    /// How long a client may take no byte of an answer. Default 30 s.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub client_write: Duration,
    /// The longest head of a request. Default 64 KiB.
    pub header_bytes_max: usize,
    /// How many requests one HTTP/2 connection may have open. Default 256.
    pub streams_max: u32,
    /// How long a tunnel (WebSocket) may be silent. Default 1 h.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub tunnel_idle: Duration,
    /// How long stopping may take: connections, executions and tunnels that still run then are cut.
    /// Default 30 s.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub drain_max: Duration,
    /// Which fields tell the upstream about the client. Default `x-forwarded`.
    pub forwarding: Forwarding,
    /// Whether such fields from the client are kept and appended to. Default: no, they are
    /// replaced, because any client can write them. Set it behind another proxy of yours.
    pub trust_forwarded: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            upstream: String::new(),
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(60),
            response_idle: Duration::from_secs(300),
            body_idle: Duration::from_secs(30),
            upstream_idle: Duration::from_secs(30),
            upstream_reuse_keyed: Duration::from_secs(1),
            upstream_in_flight_max: 1024,
            upstream_idle_max: 256,
            connections_max: 10_000,
            header_read: Duration::from_secs(10),
            client_idle: Duration::from_secs(60),
            client_write: Duration::from_secs(30),
            header_bytes_max: 64 * 1024,
            streams_max: 256,
            tunnel_idle: Duration::from_secs(3600),
            drain_max: Duration::from_secs(30),
            forwarding: Forwarding::XForwarded,
            trust_forwarded: false,
        }
    }
}

impl Settings {
    /// The defaults for this upstream.
    #[must_use]
    pub fn new(upstream: &str) -> Self {
        Self { upstream: upstream.to_owned(), ..Self::default() }
    }

    /// Checks every setting and gives the upstream's address.
    pub(super) fn validate(&self) -> Result<Target, Error> {
        let positive = [
            ("connect", self.connect),
            ("response_head", self.response_head),
            ("response_idle", self.response_idle),
            ("body_idle", self.body_idle),
            ("header_read", self.header_read),
            ("client_idle", self.client_idle),
            ("client_write", self.client_write),
            ("tunnel_idle", self.tunnel_idle),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| value.is_zero()) {
            return Err(problem(format!("{name} is 0, so nothing would ever be in time")));
        }
        let counts = [
            ("upstream_in_flight_max", self.upstream_in_flight_max),
            ("connections_max", self.connections_max),
            ("streams_max", self.streams_max as usize),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return Err(problem(format!("{name} is 0, so no request would be served")));
        }
        if self.header_bytes_max < 8 * 1024 {
            let bytes = self.header_bytes_max;
            return Err(problem(format!("header_bytes_max is {bytes}; use 8192 or more")));
        }
        Target::parse(&self.upstream)
    }
}

/// Where the upstream is.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Name or address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// What a request without a `Host` gets.
    pub(super) authority: HeaderValue,
}

impl Target {
    fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |rule: &str| {
            Err(problem(format!(
                "upstream `{text}` {rule}; write `http://HOST:PORT`, for example \
                 `http://127.0.0.1:8000`"
            )))
        };
        let Ok(uri) = text.parse::<Uri>() else { return refuse("is not a URL") };
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => {}
            Some(scheme) if *scheme == Scheme::HTTPS => {
                return refuse("is https, and this build speaks only http to the upstream");
            }
            _ => return refuse("has no scheme http://"),
        }
        let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty())
        else {
            return refuse("has no host");
        };
        if authority.as_str().contains('@') {
            // Not shown: it would end up in a log.
            let message = "upstream contains credentials, which the proxy does not send; write \
                           `http://HOST:PORT`";
            return Err(problem(message.to_owned()));
        }
        if uri.path_and_query().is_some_and(|path| path != "/") {
            return refuse("has a path, and paths are forwarded as they are");
        }
        let port = authority.as_str().rsplit_once(':').map_or("", |(_, port)| port);
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && authority.port_u16().is_none() {
            return refuse("has a port above 65535");
        }
        Self::at(authority).ok_or_else(|| problem(format!("upstream `{text}` has no usable host")))
    }

    fn at(authority: &Authority) -> Option<Self> {
        Some(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: HeaderValue::from_str(authority.as_str()).ok()?,
        })
    }
}

fn problem(message: String) -> Error {
    Error::new(ErrorKind::Settings, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_a_plain_http_url_of_a_host() {
        let target = Settings::new("http://[::1]:8000/").validate().unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 8000));
        assert_eq!(Settings::new("http://app").validate().unwrap().port, 80);
        for (broken, rule) in [
            ("", "URL"),
            ("app:8000", "http://"),
            ("https://app", "only http"),
            ("ftp://app", "http://"),
            ("http://app:99999", "65535"),
            ("http://app/api", "has a path"),
            ("http://user:pw@app", "credentials"),
        ] {
            let error = Settings::new(broken).validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Settings);
            assert!(error.to_string().contains(rule), "{error}");
            assert!(!error.to_string().contains("pw"), "{error}");
        }
    }

    #[test]
    fn a_limit_of_zero_is_refused_by_name() {
        let mut settings = Settings::new("http://app");
        settings.connect = Duration::ZERO;
        assert!(settings.validate().unwrap_err().to_string().contains("connect"));
        let mut settings = Settings::new("http://app");
        settings.upstream_in_flight_max = 0;
        assert!(settings.validate().unwrap_err().to_string().contains("upstream_in_flight_max"));
    }
}
