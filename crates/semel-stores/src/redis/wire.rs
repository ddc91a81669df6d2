//! A record as one string, and back. The scripts know the head; nobody but this file knows the
//! rest.
//!
//! ```text
//! head, 72 bytes, big-endian                      written by
//!   0  SEMR, format version 1                     everybody
//!   5  state: C H I P                             everybody
//!   6  1 if somebody waits for the end            scripts
//!   7  effect: F H K R T                          everybody
//!   8  fence: counter (8), nonce (16)             everybody
//!  32  revision, rises with every write           everybody
//!  40  deadline: end of the lease or retention    everybody
//!  48  since: when completed, held or interrupted everybody
//!  56  updated at, 64 created at                  everybody
//!  72  checksum, see `head_checksum`               scripts
//! names, length (2) and
//!      checksum: 8 bytes of BLAKE3, fingerprint (32), attempts (4), lost leases (4), then tenant,
//!      operation and key, each with its length (1)
//! hold, only in state H
//!      cause: L P R, length (2), detail, checksum: 8 bytes of BLAKE3
//! payload
//!      an envelope of `semel::envelope`: the outcome in state C, else the steps or nothing
//! ```
//!
//! Damage is found and refused, never guessed away: a damaged end of retention would be long ago,
//! and the operation would run again.

use bytes::Bytes;
use semel::store::Summary;
use semel::{
    Effect, Error, ErrorKind, Fence, Fingerprint, Hold, HoldCause, Key, Nonce, OnUnknown,
    Operation, Record, RecordId, State, Step, Tenant, Timestamp, envelope,
};

const MAGIC: &[u8; 4] = b"SEMR";
const VERSION: u8 = 1;
const HEAD: usize = 72;
const SEALED: usize = 80;

/// No head, names and hold together are longer, so a summary needs no more of a record.
pub(super) const SUMMARY_BYTES: usize = 2048;

/// Numbers pass through Lua, whose numbers are exact up to here.
pub(super) const NUMBER_MAX: u64 = (1 << 53) - 1;

/// The longest lease and retention, in milliseconds: over a hundred thousand years, and no sum
/// with a time of today leaves [`NUMBER_MAX`].
pub(super) const DURATION_MS_MAX: u64 = 1 << 52;

/// What a record is read as: the record and what only this store keeps with it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) record: Record,
    /// Fence and revision, as the compare-and-set of a later write wants them.
    pub(super) version: [u8; 32],
}

/// A record ready to be written, still without its counter and checksum.
pub(super) struct Sealed {
    pub(super) head: Vec<u8>,
    pub(super) rest: Vec<u8>,
    /// Its score in the shard; `None` when the record is not open.
    pub(super) score: Option<i64>,
}

/// The fence as the scripts compare it.
pub(super) fn fence_bytes(fence: &Fence) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&fence.counter.to_be_bytes());
    bytes[8..].copy_from_slice(fence.nonce.as_bytes());
    bytes
}

pub(super) const fn effect_code(effect: Effect) -> u8 {
    match effect {
        Effect::FencedQuery => b'F',
        Effect::Foreign(OnUnknown::Hold) => b'H',
        Effect::Keyed => b'K',
        Effect::Foreign(OnUnknown::Retry) => b'R',
        Effect::Transactional => b'T',
    }
}

fn effect_of(code: u8) -> Option<Effect> {
    Some(match code {
        b'F' => Effect::FencedQuery,
        b'H' => Effect::Foreign(OnUnknown::Hold),
        b'K' => Effect::Keyed,
        b'R' => Effect::Foreign(OnUnknown::Retry),
        b'T' => Effect::Transactional,
        _ => return None,
    })
}

/// The part of a record that names it, with its length.
pub(super) fn names(id: &RecordId, record: &Names) -> Vec<u8> {
    let mut bytes = vec![0; 10];
    bytes.extend_from_slice(record.fingerprint.as_bytes());
    bytes.extend_from_slice(&record.attempts.to_be_bytes());
    bytes.extend_from_slice(&record.lost_leases.to_be_bytes());
    for name in [id.tenant.as_str(), id.operation.as_str(), id.key.as_str()] {
        // Names have at most 255 bytes; see `Key`, `Tenant` and `Operation`.
        bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(name.as_bytes());
    }
    let length = u16::try_from(bytes.len() - 2).unwrap_or(u16::MAX);
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    let checksum = checksum(&bytes[10..]);
    bytes[2..10].copy_from_slice(&checksum);
    bytes
}

/// What stands with the names in a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) fingerprint: Fingerprint,
    pub(super) attempts: u32,
    pub(super) lost_leases: u32,
}

/// Encodes a record that follows one of this version.
///
/// # Errors
/// [`ErrorKind::TooLarge`] for steps or an outcome that could not be read back.
pub(super) fn seal(id: &RecordId, record: &Record, seen: &[u8; 32]) -> Result<Sealed, Error> {
    let (state, deadline, since, score) = match &record.state {
        State::Completed { completed_at, expires_at, .. } => {
            (b'C', Some(*expires_at), Some(*completed_at), None)
        }
        State::Held(hold) => (b'H', None, Some(hold.since), Some(-2)),
        State::Interrupted { since } => (b'I', None, Some(*since), Some(-1)),
        State::InProgress { lease_until } => {
            (b'P', Some(*lease_until), None, Some(signed(*lease_until)))
        }
    };
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&[VERSION, state, 0, effect_code(record.effect)]);
    head.extend_from_slice(&fence_bytes(&record.fence));
    let [.., a, b, c, d, e, f, g, h] = *seen;
    let revision = u64::from_be_bytes([a, b, c, d, e, f, g, h]) + 1;
    head.extend_from_slice(&revision.to_be_bytes());
    let times = [deadline, since, Some(record.updated_at), Some(record.created_at)];
    for time in times {
        let millis = time.map_or(0, |time| time.as_millis().min(NUMBER_MAX));
        head.extend_from_slice(&millis.to_be_bytes());
    }
    let Record { fingerprint, attempts, lost_leases, .. } = *record;
    let mut rest = names(id, &Names { fingerprint, attempts, lost_leases });
    if let State::Held(hold) = &record.state {
        let start = rest.len();
        rest.push(cause_code(hold.cause));
        let length = u16::try_from(hold.detail.len()).unwrap_or(u16::MAX);
        rest.extend_from_slice(&length.to_be_bytes());
        rest.extend_from_slice(hold.detail.as_bytes());
        let checksum = checksum(&rest[start..]);
        rest.extend_from_slice(&checksum);
    }
    match (&record.state, &record.steps[..]) {
        (State::Completed { outcome, .. }, _) => {
            rest.extend(bounded(envelope::seal_outcome(outcome))?);
        }
        (_, []) => {}
        (_, steps) => rest.extend(bounded(envelope::seal_steps(steps))?),
    }
    Ok(Sealed { head, rest, score })
}

/// The checksum of a fresh claim's head without what only the server knows: counter, deadline and
/// times. The script adds their shares.
pub(super) fn claim_checksum(nonce: &Nonce, effect: Effect) -> u64 {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(MAGIC);
    head[4..8].copy_from_slice(&[VERSION, b'P', 0, effect_code(effect)]);
    head[16..32].copy_from_slice(nonce.as_bytes());
    head[39] = 1;
    head_checksum(&head)
}

/// What could not be read back must not be written.
pub(super) fn bounded(sealed: Vec<u8>) -> Result<Vec<u8>, Error> {
    let (len, max) = (sealed.len(), envelope::ENVELOPE_BYTES_MAX);
    if len <= max {
        return Ok(sealed);
    }
    let message = format!("a record's answer or steps have {len} bytes; no store keeps over {max}");
    Err(Error::new(ErrorKind::TooLarge, message))
}

/// Decodes the record of an id.
///
/// # Errors
/// [`ErrorKind::Corrupt`] and [`ErrorKind::TooNew`].
pub(super) fn open(id: &RecordId, name: &str, value: &Bytes) -> Result<Stored, Error> {
    let fail = |error: Error| damaged(name, &error);
    let parts = parts(value).map_err(fail)?;
    if parts.id != *id {
        return Err(fail(corrupt("it is the record of another key")));
    }
    let state = state(&parts).map_err(fail)?;
    let steps = match (&state, parts.payload.is_empty()) {
        (State::Completed { .. }, _) | (_, true) => Vec::<Step>::new(),
        _ => envelope::open_steps(&parts.payload).map_err(fail)?,
    };
    let record = Record {
        fingerprint: parts.names.fingerprint,
        effect: parts.effect,
        fence: parts.fence,
        state,
        steps,
        attempts: parts.names.attempts,
        lost_leases: parts.names.lost_leases,
        created_at: parts.created_at,
        updated_at: parts.updated_at,
    };
    let mut version = [0; 32];
    version.copy_from_slice(&value[8..40]);
    Ok(Stored { record, version })
}

/// What a list shows; needs the first [`SUMMARY_BYTES`] of a record.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when not even its names can be read. Other damage is shown as a record
/// that is `damaged`, so that it does not hide the others.
pub(super) fn summary(name: &str, value: &Bytes) -> Result<Summary, Error> {
    let fail = |error: Error| damaged(name, &error);
    let parts = match parts(value) {
        Ok(parts) => parts,
        Err(error) => {
            let mut rest = value.slice(SEALED.min(value.len())..);
            let (id, _) = open_names(&mut rest).map_err(|_| fail(error))?;
            return Ok(damaged_summary(id));
        }
    };
    let hold = match parts.state {
        b'H' => match &parts.hold {
            Some(hold) => Some(hold.clone()),
            None => return Ok(damaged_summary(parts.id)),
        },
        _ => None,
    };
    Ok(Summary {
        state: match parts.state {
            b'C' => "completed",
            b'H' => "held",
            b'I' => "interrupted",
            b'P' => "in-progress",
            _ => return Ok(damaged_summary(parts.id)),
        },
        effect: parts.effect,
        fence: parts.fence,
        attempts: parts.names.attempts,
        created_at: parts.created_at,
        updated_at: parts.updated_at,
        deadline: matches!(parts.state, b'C' | b'P').then_some(parts.deadline),
        hold,
        id: parts.id,
    })
}

fn damaged_summary(id: RecordId) -> Summary {
    Summary {
        id,
        state: "damaged",
        effect: Effect::Foreign(OnUnknown::Hold),
        fence: Fence { counter: 0, nonce: Nonce::from_bytes([0; 16]) },
        attempts: 0,
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
        deadline: None,
        hold: None,
    }
}

struct Parts {
    state: u8,
    effect: Effect,
    fence: Fence,
    deadline: Timestamp,
    since: Timestamp,
    updated_at: Timestamp,
    created_at: Timestamp,
    names: Names,
    id: RecordId,
    hold: Option<Hold>,
    payload: Bytes,
}

fn parts(value: &Bytes) -> Result<Parts, Error> {
    if value.len() <= SEALED || &value[..4] != MAGIC {
        return Err(corrupt("it does not start like a record"));
    }
    if value[4] != VERSION {
        let found = value[4];
        let message = format!(
            "it has format version {found}, this program knows {VERSION}; upgrade every program \
             that shares the store before one of them writes the new format"
        );
        return Err(Error::new(ErrorKind::TooNew, message));
    }
    let head = value.slice(..HEAD);
    if value[HEAD..SEALED] != head_checksum(&head).to_be_bytes() {
        return Err(corrupt("the checksum of its head does not match"));
    }
    let mut rest = head.slice(8..);
    let counter = number(&mut rest)?;
    let fence = Fence { counter, nonce: Nonce::from_bytes(array(&mut rest)?) };
    let _revision = number(&mut rest)?;
    let (deadline, since) = (time(&mut rest)?, time(&mut rest)?);
    let (updated_at, created_at) = (time(&mut rest)?, time(&mut rest)?);
    let mut rest = value.slice(SEALED..);
    let (id, names) = open_names(&mut rest)?;
    let state = value[5];
    let hold = if state == b'H' { Some(open_hold(&mut rest, since)?) } else { None };
    let effect = effect_of(value[7]).ok_or_else(|| corrupt("its effect mode is unknown"))?;
    Ok(Parts {
        state,
        effect,
        fence,
        deadline,
        since,
        updated_at,
        created_at,
        names,
        id,
        hold,
        payload: rest,
    })
}

fn state(parts: &Parts) -> Result<State, Error> {
    Ok(match (parts.state, &parts.hold) {
        (b'C', _) => State::Completed {
            outcome: envelope::open_outcome(&parts.payload)?,
            completed_at: parts.since,
            expires_at: parts.deadline,
        },
        (b'H', Some(hold)) => State::Held(hold.clone()),
        (b'I', _) => State::Interrupted { since: parts.since },
        (b'P', _) => State::InProgress { lease_until: parts.deadline },
        _ => return Err(corrupt("its state is unknown")),
    })
}

fn open_names(rest: &mut Bytes) -> Result<(RecordId, Names), Error> {
    let length = u16::from_be_bytes(array(rest)?);
    let mut bytes = take(rest, usize::from(length))?;
    if array(&mut bytes)? != checksum(&bytes) {
        return Err(corrupt("the checksum of its names does not match"));
    }
    let fingerprint = Fingerprint::from_bytes(array(&mut bytes)?);
    let attempts = u32::from_be_bytes(array(&mut bytes)?);
    let lost_leases = u32::from_be_bytes(array(&mut bytes)?);
    let tenant = Tenant::new(&text(&mut bytes)?).map_err(unfit)?;
    let operation = Operation::new(&text(&mut bytes)?).map_err(unfit)?;
    let key = Key::parse(&text(&mut bytes)?).map_err(unfit)?;
    Ok((RecordId { tenant, operation, key }, Names { fingerprint, attempts, lost_leases }))
}

fn open_hold(rest: &mut Bytes, since: Timestamp) -> Result<Hold, Error> {
    let whole = rest.clone();
    let [code] = array(rest)?;
    let cause = match code {
        b'L' => HoldCause::LeaseLost,
        b'P' => HoldCause::Poisoned,
        b'R' => HoldCause::Reported,
        _ => return Err(corrupt("the cause of its hold is unknown")),
    };
    let length = u16::from_be_bytes(array(rest)?);
    let detail = take(rest, usize::from(length))?;
    let covered = whole.slice(..whole.len() - rest.len());
    if array(rest)? != checksum(&covered) {
        return Err(corrupt("the checksum of its hold does not match"));
    }
    let detail = std::str::from_utf8(&detail).map_err(|_| corrupt("its hold is no text"))?;
    Ok(Hold::new(cause, detail, since))
}

const fn cause_code(cause: HoldCause) -> u8 {
    match cause {
        HoldCause::LeaseLost => b'L',
        HoldCause::Poisoned => b'P',
        HoldCause::Reported => b'R',
    }
}

/// Eighteen words, each with a prime of its own, so that no damage to one of them and no swap of
/// two goes unnoticed; below 2^53, so that Lua can compute it.
fn head_checksum(head: &[u8]) -> u64 {
    const PRIMES: [u64; 18] = [
        65521, 65519, 65497, 65479, 65449, 65447, 65437, 65423, 65419, 65413, 65407, 65393, 65381,
        65371, 65357, 65353, 65327, 65323,
    ];
    let words = head
        .chunks_exact(4)
        .map(|word| word.iter().fold(0_u64, |word, byte| (word << 8) | u64::from(*byte)));
    words.zip(PRIMES).map(|(word, prime)| word * prime).sum()
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut checksum = [0; 8];
    blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut checksum);
    checksum
}

fn signed(time: Timestamp) -> i64 {
    i64::try_from(time.as_millis().min(NUMBER_MAX)).unwrap_or(i64::MAX)
}

pub(super) fn take(rest: &mut Bytes, length: usize) -> Result<Bytes, Error> {
    if rest.len() < length {
        return Err(corrupt("it ends too early"));
    }
    Ok(rest.split_to(length))
}

pub(super) fn array<const N: usize>(rest: &mut Bytes) -> Result<[u8; N], Error> {
    let bytes = take(rest, N)?;
    <[u8; N]>::try_from(&bytes[..]).map_err(|_| corrupt("it ends too early"))
}

pub(super) fn number(rest: &mut Bytes) -> Result<u64, Error> {
    array(rest).map(u64::from_be_bytes)
}

pub(super) fn time(rest: &mut Bytes) -> Result<Timestamp, Error> {
    number(rest).map(Timestamp::from_millis)
}

/// Text behind its length.
fn text(rest: &mut Bytes) -> Result<String, Error> {
    let [length] = array(rest)?;
    let bytes = take(rest, usize::from(length))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| corrupt("one of its names is no text"))
}

fn unfit(error: Error) -> Error {
    corrupt("one of its names breaks its rule").with_source(error)
}

pub(super) fn corrupt(what: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// Names the record by its key in Redis, which is a digest and shows nothing.
pub(super) fn damaged(name: &str, error: &Error) -> Error {
    let message = format!(
        "record {name} cannot be read: {error}; restore it from a copy, or delete it if its \
         operation may run again"
    );
    Error::new(error.kind(), message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use semel::{Outcome, Verdict};

    use super::*;

    /// Records that version 1 wrote: every later version must read them, and keep their form or
    /// take a new version.
    const GOLDEN: &str = include_str!("../../tests/redis/golden-1.txt");

    fn golden(key: &str) -> Bytes {
        let line = GOLDEN.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        let digits = line.unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    fn id(key: &str) -> RecordId {
        RecordId {
            tenant: Tenant::new("acme").unwrap(),
            operation: Operation::new("create_order").unwrap(),
            key: Key::parse(key).unwrap(),
        }
    }

    fn records() -> [(&'static str, Record); 4] {
        let at = |millis: u64| Timestamp::from_millis(1_767_225_600_000 + millis);
        let record = |number: u8, effect, state| Record {
            fingerprint: Fingerprint::from_bytes([number; 32]),
            effect,
            fence: Fence {
                counter: 1_767_225_600_000_000 + u64::from(number),
                nonce: Nonce::from_bytes([number; 16]),
            },
            state,
            steps: Vec::new(),
            attempts: 2,
            lost_leases: 1,
            created_at: at(0),
            updated_at: at(1000),
        };
        let outcome = Outcome {
            verdict: Verdict::Succeeded,
            format: "http/1".to_owned(),
            head: Bytes::from_static(b"201"),
            body: Bytes::from_static(b"{\"order\":17}\xff"),
        };
        let completed =
            State::Completed { outcome, completed_at: at(1000), expires_at: at(86_401_000) };
        let hold = Hold::new(HoldCause::LeaseLost, "claim 2 ended in silence", at(1000));
        let mut flying =
            record(3, Effect::Transactional, State::InProgress { lease_until: at(31_000) });
        flying.steps = vec![
            Step { name: "charge".to_owned(), result: Bytes::from_static(b"ch_1") },
            Step { name: "ship".to_owned(), result: Bytes::new() },
        ];
        let interrupted = State::Interrupted { since: at(1000) };
        [
            ("completed", record(1, Effect::Keyed, completed)),
            ("held", record(2, Effect::Foreign(OnUnknown::Hold), State::Held(hold))),
            ("in-progress", flying),
            ("interrupted", record(4, Effect::Foreign(OnUnknown::Retry), interrupted)),
        ]
    }

    /// What the server has after a write: the script adds the checksum of the head.
    fn written(key: &str, record: &Record) -> Bytes {
        let Sealed { mut head, rest, .. } = seal(&id(key), record, &[0; 32]).unwrap();
        head.extend_from_slice(&head_checksum(&head).to_be_bytes());
        head.extend(rest);
        head.into()
    }

    #[test]
    fn records_of_version_1_are_read_in_full() {
        for (key, record) in records() {
            let stored = open(&id(key), "name", &golden(key)).unwrap();
            assert_eq!(stored.record, record, "{key}");
            let listed = summary("name", &golden(key)).unwrap();
            assert_eq!(listed, Summary::of(&id(key), &record), "{key}");
        }
    }

    #[test]
    fn a_new_record_has_the_form_of_the_golden_one() {
        for (key, record) in records() {
            let advice = "a change of the form needs a new version and a golden record";
            assert_eq!(written(key, &record), golden(key), "{key}: {advice}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_and_says_so() {
        let mut newer = golden("held").to_vec();
        newer[4] = 2;
        let error = open(&id("held"), "name", &newer.into()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooNew);
        assert!(error.to_string().contains("upgrade"), "{error}");
    }

    #[test]
    fn no_damaged_byte_goes_unnoticed() {
        for (key, _) in records() {
            let golden = golden(key);
            for at in 0..golden.len() {
                let mut damaged = golden.to_vec();
                damaged[at] ^= 0x55;
                let opened = open(&id(key), "name", &damaged.into());
                assert!(opened.is_err(), "{key}: byte {at}");
            }
            for end in 0..golden.len() {
                let cut = open(&id(key), "name", &golden.slice(..end));
                // Without its last steps, a record that never had any looks the same.
                let is_whole = key == "in-progress" && cut.is_ok();
                assert!(cut.is_err() || is_whole, "{key}: cut at {end}");
            }
        }
    }

    #[test]
    fn a_record_is_not_taken_for_that_of_another_key() {
        let error = open(&id("other"), "name", &golden("held")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn damage_behind_the_names_is_shown_in_a_list_and_hides_nothing() {
        let mut damaged = golden("held").to_vec();
        damaged[5] = b'X';
        let listed = summary("name", &damaged.into()).unwrap();
        assert_eq!((listed.state, listed.id), ("damaged", id("held")));
    }
}
