//! The numbers and names of the layer, with their defaults and reasons.

use std::str::FromStr;
use std::time::Duration;

use http::Method;
use http::header::HeaderName;
use semel::{Effect, Error, ErrorKind, OnUnknown};
use serde::Deserialize;

use crate::answer::PROBLEMS_PATH;
use crate::key::{Pointer, Spelling};
use crate::status::StatusRules;

/// What happens to a request that needs a key and has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnMissing {
    /// It is executed without any protection.
    Pass,
    /// It is refused (`key-missing`).
    Refuse,
}

/// What the proxy does after an answer that does not tell what happened: a 5xx, a time-out, a
/// connection lost after sending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownPolicy {
    /// Park the key until someone resolves it: at most once.
    #[default]
    Hold,
    /// Run it again when the client retries: at least once.
    Retry,
    /// Keep the failure as the answer and replay it: at most once, and the client hears at once
    /// how it ended. A crash of the proxy itself parks the key, as `hold` does.
    Store,
}

impl UnknownPolicy {
    /// The effect mode for the guard.
    #[must_use]
    pub const fn effect(self) -> Effect {
        match self {
            Self::Hold | Self::Store => Effect::Foreign(OnUnknown::Hold),
            Self::Retry => Effect::Foreign(OnUnknown::Retry),
        }
    }
}

impl FromStr for UnknownPolicy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "hold" => Ok(Self::Hold),
            "retry" => Ok(Self::Retry),
            "store" => Ok(Self::Store),
            other => {
                let message = format!("on_unknown `{other}` is unknown; use hold, retry or store");
                Err(Error::new(ErrorKind::Settings, message))
            }
        }
    }
}

/// The settings of the layer. Plain data; every field may be left out of a file.
///
/// ```
/// use semel_http::Settings;
///
/// let settings: Settings = serde_json::from_str(
///     r#"{"key_headers": ["Idempotency-Key", "X-Request-Id"], "request_bytes_max": 65536}"#,
/// )?;
/// assert_eq!(settings.methods, ["POST", "PATCH"]);
/// assert!(serde_json::from_str::<Settings>(r#"{"key_haeders": []}"#).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// Methods whose requests are guarded. Default `POST` and `PATCH`: the others are idempotent
    /// by themselves (RFC 9110 §9.2.2).
    pub methods: Vec<String>,
    /// Fields that may carry the key; the first that is there counts. Default `Idempotency-Key`.
    pub key_headers: Vec<String>,
    /// JSON Pointer to the key in the body, read when no field carries one. Default: none.
    pub key_pointer: Option<String>,
    /// Which spellings of a key are accepted. Default `any`.
    pub key_spelling: Spelling,
    /// What happens to a guarded method without a key. Default `refuse`; the proxy's is `pass`.
    pub on_missing: OnMissing,
    /// Rules that change which statuses end an operation, such as `"409=release"`. Default: none.
    pub statuses: StatusRules,
    /// Keep an answer of unknown outcome (a 5xx, say) as the final one instead of parking the
    /// key. Default: no. See [`UnknownPolicy::Store`].
    pub store_unknown: bool,
    /// The field by which a service says how it ended: `applied`, `not-applied` or `unknown`.
    /// Overrides the status; removed before the client sees it. Default `Semel-Outcome`.
    pub outcome_header: String,
    /// The longest body of a keyed request; it is held in memory to fingerprint it. Default 1 MiB.
    pub request_bytes_max: usize,
    /// The longest answer that is kept. A longer one passes through and leaves a tombstone.
    /// Default 1 MiB.
    pub response_bytes_max: usize,
    /// How long the body of a keyed request may take to arrive. Default 30 s.
    #[serde(deserialize_with = "crate::duration::deserialize")]
    pub request_read_max: Duration,
    /// How many keyed requests may be in flight, waiting ones included; bounds the memory for
    /// their bodies. More are refused (`overloaded`). Default 4096.
    pub in_flight_max: usize,
    /// What the `type` of a problem starts with. Default: the path under which this layer serves
    /// the pages itself; set it to a URL of yours to serve them elsewhere.
    pub problem_base: String,
    /// Fingerprint JSON bodies by value instead of byte by byte. Default: no, because a client
    /// that retries sends the same bytes.
    pub canonical_json: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            methods: vec!["POST".to_owned(), "PATCH".to_owned()],
            key_headers: vec!["Idempotency-Key".to_owned()],
            key_pointer: None,
            key_spelling: Spelling::Any,
            on_missing: OnMissing::Refuse,
            statuses: StatusRules::default(),
            store_unknown: false,
            outcome_header: "Semel-Outcome".to_owned(),
            request_bytes_max: 1024 * 1024,
            response_bytes_max: 1024 * 1024,
            request_read_max: Duration::from_secs(30),
            in_flight_max: 4096,
            problem_base: PROBLEMS_PATH.to_owned(),
            canonical_json: false,
        }
    }
}

impl Settings {
    /// The defaults of the proxy: a request without a key passes.
    #[must_use]
    pub fn proxy() -> Self {
        Self { on_missing: OnMissing::Pass, ..Self::default() }
    }
}

/// Settings whose names have been parsed.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) methods: Vec<Method>,
    pub(crate) key_headers: Vec<HeaderName>,
    pub(crate) key_pointer: Option<Pointer>,
    pub(crate) outcome_header: HeaderName,
    pub(crate) numbers: Settings,
}

impl Rules {
    pub(crate) fn new(settings: Settings) -> Result<Self, Error> {
        let methods = settings.methods.iter().map(|name| {
            name.parse().map_err(|_| problem(&format!("methods contains `{name}`: no method")))
        });
        let header = |setting: &str, name: &String| {
            name.parse().map_err(|_| problem(&format!("{setting} `{name}` is no field name")))
        };
        let key_headers = settings.key_headers.iter().map(|name| header("key_headers", name));
        let rules = Self {
            methods: methods.collect::<Result<_, _>>()?,
            key_headers: key_headers.collect::<Result<_, _>>()?,
            key_pointer: settings.key_pointer.as_deref().map(Pointer::parse).transpose()?,
            outcome_header: header("outcome_header", &settings.outcome_header)?,
            numbers: settings,
        };
        rules.validate()?;
        Ok(rules)
    }

    fn validate(&self) -> Result<(), Error> {
        let numbers = &self.numbers;
        if self.methods.is_empty() {
            return Err(problem("methods is empty, so nothing would be guarded; name one"));
        }
        if self.key_headers.is_empty() && self.key_pointer.is_none() {
            return Err(problem("key_headers is empty and key_pointer is not set; set one"));
        }
        if numbers.in_flight_max == 0 {
            return Err(problem("in_flight_max is 0, so every keyed request would be refused"));
        }
        if numbers.request_read_max.is_zero() {
            return Err(problem("request_read_max is 0, so no body could arrive"));
        }
        let base = &numbers.problem_base;
        let is_base = base.ends_with('/') && base.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_base || base.contains(['"', '<', '>']) {
            let message = format!("problem_base `{base}` is not a URL or path that ends with `/`");
            return Err(problem(&message));
        }
        Ok(())
    }
}

fn problem(message: &str) -> Error {
    Error::new(ErrorKind::Settings, message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_would_guard_nothing_are_refused_by_name() {
        type Change = fn(&mut Settings);
        let broken: [(&str, Change); 8] = [
            ("methods", |it| it.methods.clear()),
            ("methods", |it| it.methods.push("NO METHOD".to_owned())),
            ("key_headers", |it| it.key_headers.clear()),
            ("key_headers", |it| it.key_headers.push("no name".to_owned())),
            ("key_pointer", |it| it.key_pointer = Some("key".to_owned())),
            ("outcome_header", |it| it.outcome_header = "no name".to_owned()),
            ("in_flight_max", |it| it.in_flight_max = 0),
            ("problem_base", |it| it.problem_base = "https://docs.example".to_owned()),
        ];
        for (name, change) in broken {
            let mut settings = Settings::default();
            assert!(Rules::new(settings.clone()).is_ok());
            change(&mut settings);
            let error = Rules::new(settings).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Settings);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
