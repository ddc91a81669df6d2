//! The meaning of a request in 32 bytes, to tell a retry from a reused key.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// The secret under which fingerprints are made. With a secret, nobody who reads the store can
/// guess short payloads from their fingerprints. All processes that share a store share it.
#[derive(Clone, PartialEq, Eq)]
pub struct FingerprintKey([u8; 32]);

impl FingerprintKey {
    /// The fewest bytes a secret may have.
    pub const SECRET_BYTES_MIN: usize = 16;

    /// Makes the key from a secret of at least 16 bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the secret is shorter.
    pub fn from_secret(secret: &[u8]) -> Result<Self, Error> {
        if secret.len() < Self::SECRET_BYTES_MIN {
            let (len, min) = (secret.len(), Self::SECRET_BYTES_MIN);
            let message =
                format!("the secret has {len} bytes; it needs at least {min} random ones");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Self(blake3::derive_key("semel 2026-11 fingerprint key 1", secret)))
    }

    /// Starts a fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprinter {
        Fingerprinter(blake3::Hasher::new_keyed(&self.0))
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintKey(…)")
    }
}

/// Collects the parts of a request's meaning.
#[derive(Clone, Debug)]
pub struct Fingerprinter(blake3::Hasher);

impl Fingerprinter {
    /// Adds one part. Parts are length-prefixed: `("a", "bc")` and `("ab", "c")` differ.
    #[must_use]
    pub fn part(mut self, part: &[u8]) -> Self {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// The fingerprint of all parts.
    #[must_use]
    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize())
    }
}

/// Keyed BLAKE3 of a request's meaning. Two payloads under one key are a mismatch.
///
/// ```
/// use semel::FingerprintKey;
///
/// let key = FingerprintKey::from_secret(b"sixteen bytes or more")?;
/// let first = key.fingerprint().part(b"pay").part(b"100").finish();
/// let retry = key.fingerprint().part(b"pay").part(b"100").finish();
/// let reuse = key.fingerprint().part(b"pay").part(b"999").finish();
/// assert_eq!(first, retry);
/// assert_ne!(first, reuse);
/// # Ok::<(), semel::Error>(())
/// ```
// `blake3::Hash` compares in constant time, which a plain array would not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(blake3::Hash);

impl Fingerprint {
    /// A fingerprint from the bytes a store kept.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(bytes))
    }

    /// The bytes, for a store to keep.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", &self.0.to_hex()[..12])
    }
}
