//! What a claim shows with every later write, so that a late owner cannot overwrite a newer one.

use std::fmt;

/// The claimer's own random mark. Two claims never share one, even if the store lost its counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// A nonce from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a store to keep.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({self})")
    }
}

/// (counter, nonce): the counter rises with every claim of a key, the nonce is the claimer's.
///
/// A fence gives an order, so a sink that remembers the highest counter it saw can refuse older
/// ones ("fencing token", Kleppmann, "How to do distributed locking", 2016). It does **not** give
/// "exactly once": a crash between effect and completion is invisible to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fence {
    /// Higher than the counter of every earlier claim of the same key. Gaps are normal.
    pub counter: u64,
    /// The mark of the claim that holds this fence.
    pub nonce: Nonce,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.counter, self.nonce)
    }
}
