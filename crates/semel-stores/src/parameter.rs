//! What the URLs of all servers have in common.

use std::time::Duration;

/// The way out where the login may be the cause.
pub(crate) const ENCODE: &str = "special characters in the login are percent-encoded: %40 for \
                                 `@`, %3F for `?`, %26 for `&`, %23 for `#`, %2F for `/`, %3A for \
                                 `:`, %25 for `%`";

/// What [`time`] takes.
pub(crate) const TIME: &str = "a time such as 500ms or 5s, at most an hour";

/// A time that is not zero.
pub(crate) fn time(text: &str) -> Option<Duration> {
    let time = match text.strip_suffix("ms") {
        Some(millis) => millis.parse().map(Duration::from_millis),
        None => text.strip_suffix('s').unwrap_or(text).parse().map(Duration::from_secs),
    };
    time.ok().filter(|time| !time.is_zero() && *time <= Duration::from_secs(3600))
}
