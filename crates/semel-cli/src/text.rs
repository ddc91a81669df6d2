//! How times, keys and bytes are shown to people.

use std::time::Duration;

use semel::{Clock, SystemClock, Timestamp};

/// A point in time, readable and exact: `2026-11-24T08:25:16.123Z`.
pub(crate) fn time(time: Timestamp) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(millis) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("{millis} ms"),
    }
}

/// How long ago, in one unit: `12s`, `5m`, `3h`, `2d`.
pub(crate) fn ago(time: Timestamp) -> String {
    duration(SystemClock.now().since(time))
}

/// A length of time in one unit, rounded down.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{}ms", duration.as_millis()),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A word as a shell takes it back: in quotes if it needs them.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The word of a list that is nearest to a wrong one, if it is near.
pub(crate) fn nearest<'a>(wrong: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let best = words.map(|word| (distance(wrong, word), word)).min_by_key(|(far, _)| *far)?;
    (best.0 <= wrong.len().div_ceil(3)).then_some(best.1)
}

/// Levenshtein's distance, in two rows.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, char) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (index, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(char != *wanted);
            diagonal = row[index + 1];
            row[index + 1] = replaced.min(row[index] + 1).min(row[index + 1] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near_or_none() {
        let words = ["listen", "lease", "upstream"];
        assert_eq!(nearest("upstraem", words.into_iter()), Some("upstream"));
        assert_eq!(nearest("leese", words.into_iter()), Some("lease"));
        assert_eq!(nearest("banana", words.into_iter()), None);
    }

    #[test]
    fn lengths_of_time_are_shown_in_one_unit() {
        let shown = |secs| duration(Duration::from_secs(secs));
        assert_eq!((shown(5).as_str(), shown(125).as_str()), ("5s", "2m"));
        assert_eq!((shown(7_200).as_str(), shown(200_000).as_str()), ("2h", "2d"));
        assert_eq!(duration(Duration::from_millis(70)), "70ms");
    }

    #[test]
    fn a_shell_reads_back_the_word_that_was_written() {
        for word in ["plain/path-1.db", "two words", "it's", "$HOME;`id`", "", "*", "ü"] {
            let echo = format!("printf %s {}", shell_word(word));
            let heard = std::process::Command::new("sh").args(["-c", &echo]).output().unwrap();
            assert_eq!(String::from_utf8(heard.stdout).unwrap(), word);
        }
        assert_eq!(shell_word("sqlite:/tmp/semel.db"), "sqlite:/tmp/semel.db");
    }

    #[test]
    fn times_are_exact_to_the_millisecond() {
        assert_eq!(time(Timestamp::from_millis(1_767_225_600_123)), "2026-01-01T00:00:00.123Z");
    }
}
