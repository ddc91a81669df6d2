//! What a response says about the operation: the classification table.

use std::fmt;
use std::str::FromStr;

use http::StatusCode;
use semel::{Error, ErrorKind};
use serde::Deserialize;
use serde::de::Deserializer;

/// What a response does to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Nothing happened: the key is free again.
    Release,
    /// The operation is finished: the answer is kept and replayed.
    Store,
    /// Nobody knows: the effect mode decides.
    Unknown,
}

impl Disposition {
    /// The name in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Store => "store",
            Self::Unknown => "unknown",
        }
    }

    /// What a `Semel-Outcome` header says. An unknown word says nothing.
    pub(crate) fn from_outcome(value: &[u8]) -> Option<Self> {
        let is = |word: &str| value.trim_ascii().eq_ignore_ascii_case(word.as_bytes());
        [("not-applied", Self::Release), ("applied", Self::Store), ("unknown", Self::Unknown)]
            .into_iter()
            .find_map(|(word, disposition)| is(word).then_some(disposition))
    }
}

/// Which statuses end an operation.
///
/// The defaults, each of which a rule may change:
///
/// | status | default | why |
/// |---|---|---|
/// | 1xx | unknown | not an answer |
/// | 2xx, 3xx | store | it happened |
/// | 401, 407 | release | not applied for want of credentials (RFC 9110 §15.5.2) |
/// | 408, 425, 429 | release | the server says it did not begin |
/// | other 4xx | store | the same request will be refused again |
/// | 5xx | unknown | a handler that failed may have done half of its work |
///
/// Rules are written `STATUS=WHAT` or `FROM-TO=WHAT`, where WHAT is `store`, `release` or
/// `unknown`; of several that fit, the last one counts.
///
/// ```
/// use http::StatusCode;
/// use semel_http::{Disposition, StatusRules};
///
/// let rules: StatusRules = "409=release, 500-599=store".parse()?;
/// assert_eq!(rules.of(StatusCode::CONFLICT), Disposition::Release);
/// assert_eq!(rules.of(StatusCode::BAD_GATEWAY), Disposition::Store);
/// assert_eq!(rules.of(StatusCode::CREATED), Disposition::Store);
/// assert!("5xx=store".parse::<StatusRules>().is_err());
/// # Ok::<(), semel::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusRules(Vec<Rule>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    from: u16,
    to: u16,
    what: Disposition,
}

impl StatusRules {
    /// What a response with this status does to the record.
    #[must_use]
    pub fn of(&self, status: StatusCode) -> Disposition {
        let code = status.as_u16();
        let rule = self.0.iter().rev().find(|rule| (rule.from..=rule.to).contains(&code));
        rule.map_or_else(|| default_of(code), |rule| rule.what)
    }

    /// Adds a rule that counts more than all before it.
    #[must_use]
    pub fn with(mut self, from: u16, to: u16, what: Disposition) -> Self {
        self.0.push(Rule { from, to, what });
        self
    }
}

fn default_of(code: u16) -> Disposition {
    match code {
        401 | 407 | 408 | 425 | 429 => Disposition::Release,
        200..=499 => Disposition::Store,
        _ => Disposition::Unknown,
    }
}

impl FromStr for StatusRules {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rules = text.split(',').map(str::trim).filter(|rule| !rule.is_empty());
        rules.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = || {
            let (range, what) = text.split_once('=')?;
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
            let what = [Disposition::Release, Disposition::Store, Disposition::Unknown]
                .into_iter()
                .find(|disposition| disposition.name() == what.trim())?;
            let fits = 100 <= from && from <= to && to <= 999;
            fits.then_some(Self { from, to, what })
        };
        parsed().ok_or_else(|| {
            let message = format!(
                "status rule `{text}` is not understood; write `STATUS=WHAT` or `FROM-TO=WHAT` \
                 with a status from 100 to 999 and store, release or unknown, for example \
                 `500-599=store`"
            );
            Error::new(ErrorKind::Settings, message)
        })
    }
}

impl fmt::Display for StatusRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Rule { from, to, what }) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{from}-{to}={}", what.name())?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for StatusRules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rules = Vec::<String>::deserialize(deserializer)?;
        let rules = rules.iter().map(|rule| rule.trim().parse());
        rules.collect::<Result<_, _>>().map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_table() {
        let rules = StatusRules::default();
        for code in 100..=599 {
            let expected = match code {
                401 | 407 | 408 | 425 | 429 => Disposition::Release,
                200..=499 => Disposition::Store,
                _ => Disposition::Unknown,
            };
            assert_eq!(rules.of(StatusCode::from_u16(code).unwrap()), expected, "{code}");
        }
    }

    #[test]
    fn the_last_rule_that_fits_counts() {
        let rules: StatusRules = "500-599=store, 503=release,".parse().unwrap();
        assert_eq!(rules.of(StatusCode::SERVICE_UNAVAILABLE), Disposition::Release);
        assert_eq!(rules.of(StatusCode::INTERNAL_SERVER_ERROR), Disposition::Store);
        assert_eq!(rules.to_string().parse::<StatusRules>().unwrap(), rules);
    }

    #[test]
    fn a_broken_rule_is_refused_with_an_example() {
        for broken in ["500", "x=store", "500=keep", "599-500=store", "99=store", "1000=store"] {
            let error = broken.parse::<StatusRules>().unwrap_err().to_string();
            assert!(error.contains(broken) && error.contains("500-599=store"), "{error}");
        }
    }

    #[test]
    fn an_outcome_header_is_read_in_any_case_and_nonsense_says_nothing() {
        assert_eq!(Disposition::from_outcome(b" Not-Applied "), Some(Disposition::Release));
        assert_eq!(Disposition::from_outcome(b"applied"), Some(Disposition::Store));
        assert_eq!(Disposition::from_outcome(b"UNKNOWN"), Some(Disposition::Unknown));
        assert_eq!(Disposition::from_outcome(b"perhaps"), None);
    }
}
