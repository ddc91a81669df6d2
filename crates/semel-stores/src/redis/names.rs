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

use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
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
        // Every operation comes through here, and `format!` takes three times as long.
        let key = key_digest(id.key.as_str());
        let mut shard = self.shard(shard_of(&key));
        let mut record = String::with_capacity(shard.len() + 3 + 8 + 43);
        record.push_str(&shard);
        record.push_str(":r:");
        push_base64(&mut record, &key[..6]);
        push_base64(&mut record, &id.digest());
        shard.push_str(":open");
        Places { record, shard }
    }

    /// Where the takeovers of a key's text are.
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
        let mut text = String::with_capacity(self.prefix.len() + 6 + ":open".len());
        text.push_str(&self.prefix);
        text.push_str("{s");
        for shift in [8, 4, 0] {
            text.push(char::from(b"0123456789abcdef"[usize::from(shard >> shift & 15)]));
        }
        text.push('}');
        text
    }
}

fn key_digest(key: &str) -> [u8; 32] {
    static CONTEXT: LazyLock<ContextKey> =
        LazyLock::new(|| hash_derive_key_context("semel 2026-11 redis key text 1"));
    *blake3::Hasher::new_from_context_key(&CONTEXT).update(key.as_bytes()).finalize().as_bytes()
}

fn shard_of(key: &[u8; 32]) -> u16 {
    u16::from_be_bytes([key[30], key[31]]) % SHARDS
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    push_base64(&mut text, bytes);
    text
}

/// URL-safe base64 without padding.
fn push_base64(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |group: [u8; 3]| {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift & 63) as usize]))
    };
    let (groups, rest) = bytes.as_chunks();
    for group in groups {
        text.extend(digits(*group));
    }
    match *rest {
        [one] => text.extend(&digits([one, 0, 0])[..2]),
        [one, two] => text.extend(&digits([one, two, 0])[..3]),
        _ => {}
    }
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
    fn a_record_is_named_after_its_shard_its_key_and_its_id() {
        let id = id("ada", "order-17");
        let key = blake3::derive_key("semel 2026-11 redis key text 1", b"order-17");
        let shard = u16::from_be_bytes([key[30], key[31]]) % 1024;
        let places = Names::new("semel:").unwrap().of(&id);
        let (key, id) = (base64(&key), base64(&id.digest()));
        assert_eq!(places.record, format!("semel:{{s{shard:03x}}}:r:{}{id}", &key[..8]));
        assert_eq!(places.shard, format!("semel:{{s{shard:03x}}}:open"));
    }

    #[test]
    fn all_scopes_of_a_key_lie_in_one_slot_and_share_what_finds_them() {
        let names = Names::new("semel:").unwrap();
        let (one, other) = (names.of(&id("one", "k")), names.of(&id("other", "k")));
        assert_ne!(one.record, other.record);
        assert_eq!(one.shard, other.shard);
        let pattern = names.pattern(Some("k"));
        for places in [&one, &other] {
            assert!(places.record.starts_with(pattern.trim_end_matches('*')), "{places:?}");
        }
        assert_eq!(names.shards(Some("k")), [&*one.shard]);
        assert!(names.audit("k").starts_with(one.shard.trim_end_matches("open")));
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
