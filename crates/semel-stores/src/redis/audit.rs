//! Takeovers in the history of a key's text.
//!
//! ```text
//! counter (8, written by the script), nonce (16), at (8), action: C P R, then tenant and
//! operation, key, actor and reason, each with its length (2)
//! ```

use bytes::Bytes;
use semel::store::{Action, AuditEntry, ClaimRequest, Takeover};
use semel::{Error, Fence, Key, Nonce, Operation, RecordId, Tenant, Timestamp};

use super::wire::{array, corrupt, number, take, time};

/// An entry, still without its counter.
pub(super) fn entry(request: &ClaimRequest, takeover: &Takeover, now: Timestamp) -> Vec<u8> {
    let mut bytes = request.nonce.as_bytes().to_vec();
    bytes.extend_from_slice(&now.as_millis().to_be_bytes());
    bytes.push(match takeover.action {
        Action::Complete => b'C',
        Action::Purge => b'P',
        Action::Release => b'R',
    });
    let id = &request.id;
    let texts = [
        id.tenant.as_str(),
        id.operation.as_str(),
        id.key.as_str(),
        &takeover.actor,
        &takeover.reason,
    ];
    for text in texts {
        let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
        bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// # Errors
/// [`semel::ErrorKind::Corrupt`].
pub(super) fn open(entry: Vec<u8>) -> Result<(RecordId, AuditEntry), Error> {
    let mut rest = Bytes::from(entry);
    let counter = number(&mut rest)?;
    let fence = Fence { counter, nonce: Nonce::from_bytes(array(&mut rest)?) };
    let at = time(&mut rest)?;
    let action = match array(&mut rest)? {
        [b'C'] => Action::Complete,
        [b'P'] => Action::Purge,
        [b'R'] => Action::Release,
        _ => return Err(corrupt("an audit entry has an unknown action")),
    };
    let id = RecordId {
        tenant: Tenant::new(&text(&mut rest)?)?,
        operation: Operation::new(&text(&mut rest)?)?,
        key: Key::parse(&text(&mut rest)?)?,
    };
    let (actor, reason) = (text(&mut rest)?, text(&mut rest)?);
    Ok((id, AuditEntry { at, fence, takeover: Takeover { action, actor, reason } }))
}

fn text(rest: &mut Bytes) -> Result<String, Error> {
    let length = u16::from_be_bytes(array(rest)?);
    let bytes = take(rest, usize::from(length))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| corrupt("an audit entry is no text"))
}
