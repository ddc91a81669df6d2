//! Stored bytes stay readable: golden envelopes of every version ever released, and proof that
//! damage is refused instead of guessed.
//!
//! A change of format adds a line to `GOLDEN`; it never changes one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use semel::envelope::{open_outcome, open_steps, seal_outcome, seal_steps};
use semel::{ErrorKind, Outcome, Step, Verdict};

/// (version, what it is, bytes in hex)
const GOLDEN: &[(u8, &str, &str)] = &[
    (
        1,
        "success",
        "53454d4c01fb2f7e9d5b669717a400000166687474702f3102438218c9034b7b226964223a31377d00ff",
    ),
    (1, "refusal", "53454d4c019045657b65d1315ca4000101646a736f6e0240034a226465636c696e656422"),
    (1, "steps", "53454d4c01de018df1189b84a8828266636861726765462263685f312282646d61696c40"),
];

fn success() -> Outcome {
    Outcome {
        verdict: Verdict::Succeeded,
        format: "http/1".to_owned(),
        head: Bytes::from_static(&[0x82, 0x18, 0xc9]),
        body: Bytes::from_static(b"{\"id\":17}\0\xff"),
    }
}

fn refusal() -> Outcome {
    let (head, body) = (Bytes::new(), Bytes::from_static(b"\"declined\""));
    Outcome { verdict: Verdict::Refused, format: "json".to_owned(), head, body }
}

fn steps() -> Vec<Step> {
    let step = |name: &str, result| Step { name: name.to_owned(), result };
    vec![step("charge", Bytes::from_static(b"\"ch_1\"")), step("mail", Bytes::new())]
}

fn golden(what: &str) -> Bytes {
    let (_, _, hex) = GOLDEN.iter().find(|(_, name, _)| *name == what).unwrap();
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect::<Vec<_>>().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_records_of_every_version_are_read() {
    assert_eq!(open_outcome(&golden("success")).unwrap(), success());
    assert_eq!(open_outcome(&golden("refusal")).unwrap(), refusal());
    assert_eq!(open_steps(&golden("steps")).unwrap(), steps());
}

#[test]
fn the_current_version_is_written_as_its_golden_record_says() {
    assert_eq!(hex(&seal_outcome(&success())), hex(&golden("success")));
    assert_eq!(hex(&seal_outcome(&refusal())), hex(&golden("refusal")));
    assert_eq!(hex(&seal_steps(&steps())), hex(&golden("steps")));
}

#[test]
fn a_newer_version_is_refused_with_advice() {
    let mut newer = golden("success").to_vec();
    newer[4] = 2;
    let error = open_outcome(&newer.into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(error.to_string().contains("upgrade"), "{error}");
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let whole = golden("success");
    for len in 0..whole.len() {
        assert!(open_outcome(&whole.slice(..len)).is_err(), "cut at {len}");
    }
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(open_outcome(&damaged.into()).is_err(), "bit {bit}");
    }
}

#[test]
fn one_kind_of_envelope_is_not_read_as_the_other() {
    assert_eq!(open_outcome(&golden("steps")).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(open_steps(&golden("success")).unwrap_err().kind(), ErrorKind::Corrupt);
}

proptest! {
    #[test]
    fn whatever_is_sealed_opens_to_the_same(
        refused: bool,
        format in "[ -~]{0,40}",
        head in vec(any::<u8>(), 0..300),
        body in vec(any::<u8>(), 0..70_000),
    ) {
        let verdict = if refused { Verdict::Refused } else { Verdict::Succeeded };
        let outcome = Outcome { verdict, format, head: head.into(), body: body.into() };
        prop_assert_eq!(open_outcome(&seal_outcome(&outcome).into()).unwrap(), outcome);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in vec(any::<u8>(), 0..200), framed: bool) {
        let bytes = if framed {
            // Behind a valid frame, so that the CBOR inside is reached.
            let mut sealed = seal_outcome(&success());
            sealed.truncate(5);
            let mut hasher = blake3::Hasher::new();
            hasher.update(&sealed).update(&bytes);
            sealed.extend_from_slice(&hasher.finalize().as_bytes()[..8]);
            sealed.extend_from_slice(&bytes);
            sealed
        } else {
            bytes
        };
        let bytes = Bytes::from(bytes);
        prop_assert!(open_outcome(&bytes).is_err() || framed);
        drop(open_steps(&bytes));
    }
}
