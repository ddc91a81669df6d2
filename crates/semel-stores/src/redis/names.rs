//! The keys that the store uses in Redis.
//!
//! Every key but the meta key has a hash tag, one of 1024, that comes from the idempotency key's
//! text. So whatever one operation touches lies in one slot of a cluster, and so do all scopes
//! of one key text:
//!
//! - `semel:meta`, a hash: the form of the records and the shared secret
//! - `semel:{s3ff}:open`, a sorted set, the shard: the names of records that are not completed;
//!   in progress by the end of their lease, interrupted at -1, held at -2. Its member `fence` is
//!   the highest fence counter so far. Never expires
//! - `semel:{s3ff}:r:KKKKKKKK…`, a string: a record; 8 characters stand for the key's text, 43
//!   for the id
//! - `semel:{s3ff}:audit:KKKKKKKK…`, a list: the latest 1000 takeovers of a key's text

use semel::{Error, ErrorKind, RecordId};

pub(super) const SHARDS: u16 = 1024;

/// Makes the keys of one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

/// The keys of one record.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) record: String,
    pub(super) shard: String,
    pub(super) audit: String,
}

impl Names {
    /// # Errors
    /// [`ErrorKind::Settings`] for a prefix that would break the hash tags or the patterns.
    pub(super) fn new(prefix: &str) -> Result<Self, Error> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b":._/-".contains(&byte);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(is_fine) {
            let message = format!(
                "prefix `{}` cannot be used; take 1 to 64 of letters, digits and : . _ / -",
                prefix.escape_debug()
            );
            return Err(Error::new(ErrorKind::Settings, message));
        }
        Ok(Self { prefix: prefix.to_owned() })
    }

    pub(super) fn of(&self, id: &RecordId) -> Places {
        let key = key_digest(id.key.as_str());
        let shard = self.shard(shard_of(&key));
        let (key, id) = (base64(&key), base64(&id.digest()));
        Places {
            record: format!("{shard}:r:{}{id}", &key[..8]),
            shard: format!("{shard}:open"),
            audit: format!("{shard}:audit:{key}"),
        }
    }

    pub(super) fn audit(&self, key: &str) -> String {
        let key = key_digest(key);
        format!("{}:audit:{}", self.shard(shard_of(&key)), base64(&key))
    }

    pub(super) fn meta(&self) -> String {
        format!("{}meta", self.prefix)
    }

    /// Where the end of awaited records is published.
    pub(super) fn changed(&self) -> String {
        format!("{}changed", self.prefix)
    }

    /// Every shard, or only that of one key's text.
    pub(super) fn shards(&self, key: Option<&str>) -> Vec<String> {
        let shards = key.map_or(0..SHARDS, |key| {
            let shard = shard_of(&key_digest(key));
            shard..shard + 1
        });
        shards.map(|shard| format!("{}:open", self.shard(shard))).collect()
    }

    /// A pattern of all records, or those of one key's text. No character of a name is special in
    /// a pattern.
    pub(super) fn pattern(&self, key: Option<&str>) -> String {
        match key {
            None => format!("{}{{s???}}:r:*", self.prefix),
            Some(key) => {
                let key = key_digest(key);
                format!("{}:r:{}*", self.shard(shard_of(&key)), &base64(&key)[..8])
            }
        }
    }

    fn shard(&self, shard: u16) -> String {
        format!("{}{{s{shard:03x}}}", self.prefix)
    }
}

fn key_digest(key: &str) -> [u8; 32] {
    blake3::derive_key("semel 2026-11 redis key text 1", key.as_bytes())
}

fn shard_of(key: &[u8; 32]) -> u16 {
    u16::from_be_bytes([key[30], key[31]]) % SHARDS
}

/// URL-safe base64 without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            let place = (bits >> (18 - 6 * digit)) & 63;
            text.push(char::from(DIGITS[place as usize]));
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use semel::{Key, Operation, Tenant};

    use super::*;

    fn id(tenant: &str, key: &str) -> RecordId {
        let operation = Operation::new("o").unwrap();
        RecordId { tenant: Tenant::new(tenant).unwrap(), operation, key: Key::parse(key).unwrap() }
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        assert_eq!(base64(b"f"), "Zg");
        assert_eq!(base64(b"fo"), "Zm8");
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn all_scopes_of_a_key_lie_in_one_slot_and_share_what_finds_them() {
        let names = Names::new("semel:").unwrap();
        let (one, other) = (names.of(&id("one", "k")), names.of(&id("other", "k")));
        assert_ne!(one.record, other.record);
        assert_eq!((&one.shard, &one.audit), (&other.shard, &other.audit));
        let pattern = names.pattern(Some("k"));
        for places in [&one, &other] {
            assert!(places.record.starts_with(pattern.trim_end_matches('*')), "{places:?}");
        }
        assert_eq!(names.shards(Some("k")), [one.shard]);
        assert_eq!(names.audit("k"), one.audit);
        assert!(!names.of(&id("one", "k2")).record.starts_with(pattern.trim_end_matches('*')));
    }

    #[test]
    fn a_prefix_that_would_break_the_hash_tag_is_refused() {
        for prefix in ["", "a{b", "a}b", "a b", "a*", &"p".repeat(65)] {
            assert_eq!(Names::new(prefix).unwrap_err().kind(), ErrorKind::Settings, "{prefix}");
        }
        assert!(Names::new("my-app:semel/").is_ok());
    }
}
