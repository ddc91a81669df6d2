//! The caller's name for one logical operation.

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::scope::RecordId;

/// The caller's name for one logical operation within a scope: 1 to 255 visible ASCII characters
/// (`!` to `~`). A parsed key needs no further check anywhere.
///
/// `Debug` shows a short hash, because keys end up in logs and some callers put names or card
/// numbers into them. [`Key::as_str`] shows the text.
///
/// ```
/// use semel::Key;
///
/// assert!(Key::parse("order-17").is_ok());
/// assert!(Key::parse("").is_err());
/// assert!(Key::parse("two words").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in characters. Stripe's limit, and so the one that SDKs keep to.
    pub const CHARS_MAX: usize = 255;

    /// Checks the rule and keeps the text.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, Error> {
        visible("key", text, Self::CHARS_MAX).map(Self)
    }

    /// The text of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the key was made, if it tells: a UUID version 7 carries its time (RFC 9562 §5.7).
    #[must_use]
    pub fn minted_at(&self) -> Option<Timestamp> {
        let bytes = self.0.as_bytes();
        let dashes_fit = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|&at| bytes[at] == b'-');
        if !dashes_fit || bytes[14] != b'7' || !b"89abAB".contains(&bytes[19]) {
            return None;
        }
        let digits: String = self.0.chars().filter(|&char| char != '-').collect();
        let all_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let millis = u64::from_str_radix(digits.get(..12)?, 16).ok()?;
        all_hex.then_some(Timestamp::from_millis(millis))
    }

    /// The key of a step inside this record's operation: equal across attempts, different for
    /// every step, scope and key. It has the form of a UUID version 8, because downstream
    /// services often insist on a UUID.
    #[must_use]
    pub fn derived(parent: &RecordId, step: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("semel 2026-11 step key 1");
        hasher.update(&parent.digest());
        hasher.update(step.as_bytes());
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        bytes[6] = 0x80 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        let mut text = String::with_capacity(36);
        for (index, byte) in bytes.iter().enumerate() {
            if [4, 6, 8, 10].contains(&index) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 0x0f] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        Self(text.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(#{})", &blake3::hash(self.0.as_bytes()).to_hex()[..12])
    }
}

/// One rule for every name that a caller gives: printable, without spaces, bounded.
pub(crate) fn visible(what: &str, text: &str, chars_max: usize) -> Result<Arc<str>, Error> {
    let problem = if text.is_empty() {
        format!("the {what} is empty; give it 1 to {chars_max} visible characters")
    } else if text.len() > chars_max {
        let len = text.len();
        format!("the {what} is {len} bytes long; it may have at most {chars_max}")
    } else if let Some(bad) = text.chars().find(|char| !char.is_ascii_graphic()) {
        let bad = bad.escape_default();
        format!("the {what} contains `{bad}`; only visible ASCII characters (! to ~) are allowed")
    } else {
        return Ok(text.into());
    };
    Err(Error::new(ErrorKind::Invalid, problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::{Operation, Tenant};

    #[test]
    fn the_time_of_a_uuid_v7_is_read_and_of_nothing_else() {
        // The example of RFC 9562, appendix A.6.
        let v7 = Key::parse("017F22E2-79B0-7CC3-98C4-DC0C0C07398F").unwrap();
        assert_eq!(v7.minted_at(), Some(Timestamp::from_millis(0x017F_22E2_79B0)));
        for other in [
            "017F22E2-79B0-4CC3-98C4-DC0C0C07398F",
            "017F22E2-79B0-7CC3-18C4-DC0C0C07398F",
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398",
            "017F22E2-79B0-7CC3-98C4-DC0C0C0739-F",
            "017G22E2-79B0-7CC3-98C4-DC0C0C07398F",
            "order-17",
        ] {
            assert_eq!(Key::parse(other).unwrap().minted_at(), None, "{other}");
        }
    }

    #[test]
    fn the_bounds_of_a_key_are_inclusive() {
        assert!(Key::parse(&"k".repeat(255)).is_ok());
        let error = Key::parse(&"k".repeat(256)).unwrap_err();
        assert!(error.to_string().contains("at most 255"), "{error}");
        assert!(Key::parse("é").unwrap_err().to_string().contains("visible ASCII"));
    }

    #[test]
    fn a_step_key_depends_on_tenant_operation_key_and_step_and_on_nothing_else() {
        let id = |tenant: &str, operation: &str, key: &str| RecordId {
            tenant: Tenant::new(tenant).unwrap(),
            operation: Operation::new(operation).unwrap(),
            key: Key::parse(key).unwrap(),
        };
        let base = Key::derived(&id("t", "o", "k"), "charge");
        assert_eq!(base, Key::derived(&id("t", "o", "k"), "charge"));
        let others = [
            Key::derived(&id("t2", "o", "k"), "charge"),
            Key::derived(&id("t", "o2", "k"), "charge"),
            Key::derived(&id("t", "o", "k2"), "charge"),
            Key::derived(&id("t", "o", "k"), "charge2"),
            Key::derived(&id("to", "o", "k"), "charge"),
        ];
        assert!(others.iter().all(|other| *other != base));
        assert_eq!(base.as_str().as_bytes()[14], b'8', "{}", base.as_str());
    }

    #[test]
    fn debug_output_does_not_contain_the_key() {
        let key = Key::parse("4111111111111111").unwrap();
        assert!(!format!("{key:?}").contains("4111"));
    }
}
