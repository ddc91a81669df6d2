//! Lengths of time as people write them in settings: `500ms`, `30s`, `10m`, `24h`, `7d`.

use std::time::Duration;

use semel::{Error, ErrorKind};
use serde::de::{Deserialize, Deserializer};

/// Reads a length of time.
///
/// ```
/// use semel_http::parse_duration;
/// use std::time::Duration;
///
/// assert_eq!(parse_duration("1500ms")?, Duration::from_millis(1500));
/// assert_eq!(parse_duration("24h")?, Duration::from_secs(86_400));
/// assert!(parse_duration("24").is_err());
/// # Ok::<(), semel::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Settings`] shows how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, Error> {
    let parsed = || {
        let split = text.find(|char: char| !char.is_ascii_digit())?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().ok()?;
        let millis = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(millis).map(Duration::from_millis)
    };
    parsed().ok_or_else(|| {
        let message = format!(
            "`{text}` is not a length of time; write a whole number and ms, s, m, h or d, for \
             example `30s`"
        );
        Error::new(ErrorKind::Settings, message)
    })
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_length_of_time_is_refused_with_an_example() {
        for broken in ["", "s", "30", "-1s", "1.5s", "1w", "99999999999999999999d", "1s2"] {
            let error = parse_duration(broken).unwrap_err().to_string();
            assert!(error.contains("`30s`"), "{error}");
        }
        assert_eq!(parse_duration("7d").unwrap(), Duration::from_secs(604_800));
    }
}
