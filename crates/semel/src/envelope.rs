//! The bytes that stores keep: versioned, checksummed, bounded.
//!
//! ```text
//! 0      4        5         13
//! ┌──────┬────────┬──────────┬───────────────────────────────┐
//! │ SEML │ version│ checksum │ CBOR, integer keys, raw bodies │
//! └──────┴────────┴──────────┴───────────────────────────────┘
//! ```
//!
//! The checksum is the first 8 bytes of BLAKE3 over everything else; it finds damage, not
//! forgery. A version that this program does not know is refused ([`ErrorKind::TooNew`]), never
//! guessed. Golden records of every version are in `tests/golden.rs`.

use bytes::Bytes;
use minicbor::{Decoder, Encoder};

use crate::error::{Error, ErrorKind};
use crate::outcome::{Outcome, Verdict};
use crate::record::Step;

const MAGIC: &[u8; 4] = b"SEML";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 13;

/// No envelope is larger, whatever a limit is set to; a longer one is damaged.
pub const ENVELOPE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Encodes an outcome for a store.
#[must_use]
pub fn seal_outcome(outcome: &Outcome) -> Vec<u8> {
    let refused = outcome.verdict == Verdict::Refused;
    seal(outcome.len(), |cbor| {
        cbor.map(4)?;
        cbor.u8(0)?.u8(u8::from(refused))?;
        cbor.u8(1)?.str(&outcome.format)?;
        cbor.u8(2)?.bytes(&outcome.head)?;
        cbor.u8(3)?.bytes(&outcome.body)?;
        Ok(())
    })
}

/// Decodes an outcome. The body is not copied.
///
/// # Errors
/// [`ErrorKind::Corrupt`] and [`ErrorKind::TooNew`].
pub fn open_outcome(sealed: &Bytes) -> Result<Outcome, Error> {
    let payload = open(sealed)?;
    let mut cbor = Decoder::new(&payload);
    let (mut verdict, mut format, mut head, mut body) = (None, None, None, None);
    let entries = cbor.map().map_err(malformed)?.ok_or_else(|| corrupt("an endless map"))?;
    for _ in 0..entries {
        match cbor.u8().map_err(malformed)? {
            0 => verdict = Some(verdict_of(cbor.u8().map_err(malformed)?)?),
            1 => format = Some(cbor.str().map_err(malformed)?.to_owned()),
            2 => head = Some(payload.slice_ref(cbor.bytes().map_err(malformed)?)),
            3 => body = Some(payload.slice_ref(cbor.bytes().map_err(malformed)?)),
            other => return Err(corrupt(&format!("unknown field {other}"))),
        }
    }
    end(&cbor, &payload)?;
    match (verdict, format, head, body) {
        (Some(verdict), Some(format), Some(head), Some(body)) => {
            Ok(Outcome { verdict, format, head, body })
        }
        _ => Err(corrupt("a field is missing")),
    }
}

/// Encodes steps for a store.
#[must_use]
pub fn seal_steps(steps: &[Step]) -> Vec<u8> {
    let bytes = steps.iter().map(|step| step.name.len() + step.result.len() + 16).sum();
    seal(bytes, |cbor| {
        cbor.array(steps.len() as u64)?;
        for step in steps {
            cbor.array(2)?.str(&step.name)?.bytes(&step.result)?;
        }
        Ok(())
    })
}

/// Decodes steps.
///
/// # Errors
/// [`ErrorKind::Corrupt`] and [`ErrorKind::TooNew`].
pub fn open_steps(sealed: &Bytes) -> Result<Vec<Step>, Error> {
    let payload = open(sealed)?;
    let mut cbor = Decoder::new(&payload);
    let count = cbor.array().map_err(malformed)?.ok_or_else(|| corrupt("an endless array"))?;
    let mut steps = Vec::new();
    for _ in 0..count {
        if cbor.array().map_err(malformed)? != Some(2) {
            return Err(corrupt("a step is no pair"));
        }
        let name = cbor.str().map_err(malformed)?.to_owned();
        let result = payload.slice_ref(cbor.bytes().map_err(malformed)?);
        steps.push(Step { name, result });
    }
    end(&cbor, &payload)?;
    Ok(steps)
}

type EncodeResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn seal(bytes: usize, write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> EncodeResult) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(HEADER_BYTES + bytes + 32);
    sealed.extend_from_slice(MAGIC);
    sealed.push(VERSION);
    sealed.extend_from_slice(&[0; 8]);
    #[expect(clippy::expect_used, reason = "writing to a Vec cannot fail")]
    write(&mut Encoder::new(&mut sealed)).expect("a Vec takes all bytes");
    let checksum = checksum(&sealed);
    sealed[5..HEADER_BYTES].copy_from_slice(&checksum);
    sealed
}

/// Checks the frame and gives the CBOR inside.
fn open(sealed: &Bytes) -> Result<Bytes, Error> {
    if sealed.len() < HEADER_BYTES || sealed.len() > ENVELOPE_BYTES_MAX || &sealed[..4] != MAGIC {
        return Err(corrupt("it does not start like a record"));
    }
    if sealed[4] != VERSION {
        let (found, known) = (sealed[4], VERSION);
        let message = format!(
            "a record has format version {found}, this program knows {known}; upgrade every \
             program that shares the store before one of them writes the new format"
        );
        return Err(Error::new(ErrorKind::TooNew, message));
    }
    if checksum(sealed) != sealed[5..HEADER_BYTES] {
        return Err(corrupt("its checksum does not match"));
    }
    Ok(sealed.slice(HEADER_BYTES..))
}

fn checksum(sealed: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&sealed[..5]).update(&sealed[HEADER_BYTES..]);
    let mut checksum = [0; 8];
    hasher.finalize_xof().fill(&mut checksum);
    checksum
}

fn verdict_of(code: u8) -> Result<Verdict, Error> {
    match code {
        0 => Ok(Verdict::Succeeded),
        1 => Ok(Verdict::Refused),
        other => Err(corrupt(&format!("unknown verdict {other}"))),
    }
}

fn end(cbor: &Decoder<'_>, payload: &[u8]) -> Result<(), Error> {
    match cbor.datatype() {
        Err(error) if error.is_end_of_input() && cbor.position() == payload.len() => Ok(()),
        Ok(_) | Err(_) => Err(corrupt("there are bytes behind its end")),
    }
}

fn malformed(error: minicbor::decode::Error) -> Error {
    corrupt("its inside is malformed").with_source(error)
}

fn corrupt(what: &str) -> Error {
    let message = format!("a stored record is damaged: {what}; it is refused, not guessed");
    Error::new(ErrorKind::Corrupt, message)
}
