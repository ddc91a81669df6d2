//! From a payload to its fingerprint, the same in every language.

use std::fmt;

use semel::{Error, ErrorKind, Fingerprint, FingerprintKey};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Deeper payloads are refused: a stack must not grow with what a queue delivers.
const DEPTH_MAX: usize = 128;

/// The fingerprint of a payload: [`canonical_json`] of the value under the secret.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the value cannot be written as JSON or is nested too deep.
pub fn fingerprint<P: Serialize + ?Sized>(
    secret: &FingerprintKey,
    payload: &P,
) -> Result<Fingerprint, Error> {
    let text = serde_json::to_string(payload).map_err(|error| {
        let message = "the payload cannot be written as JSON, so retries cannot be told apart";
        Error::new(ErrorKind::Invalid, message).with_source(error)
    })?;
    fingerprint_of_json(secret, &text)
}

/// [`fingerprint`] of a payload that is JSON already, from another language for example.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the text is not JSON or is nested too deep.
pub fn fingerprint_of_json(secret: &FingerprintKey, json: &str) -> Result<Fingerprint, Error> {
    let canonical = canonical_json(json)?;
    Ok(secret.fingerprint().part(b"task json 1").part(canonical.as_bytes()).finish())
}

/// The one spelling of a JSON value, so that the same payload is the same in every language:
///
/// 1. No spaces. Members of an object sorted by the bytes of their names in UTF-8; one that is
///    there twice stays twice, in its order.
/// 2. Texts as they are, escaped only where JSON demands it (`"`, `\`, control characters).
/// 3. Whole numbers without fraction or exponent as they are written, of any size.
/// 4. Other numbers as the shortest decimal that gives the same double, with one digit before the
///    point and an exponent: `2.50` becomes `2.5e0`; `1e3` and `1000.0` are one, `1000` is another.
///    What no double can hold stays as it is written.
///
/// ```
/// use semel_tasks::canonical_json;
///
/// let canonical = canonical_json(r#"{ "b": 1e3, "a": [1, "\u00e9"] }"#)?;
/// assert_eq!(canonical, r#"{"a":[1,"é"],"b":1e3}"#);
/// # Ok::<(), semel::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Invalid`] when the text is not JSON or is nested more than 128 deep.
pub fn canonical_json(json: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(json.len());
    serde_json::from_str::<&RawValue>(json)
        .ok()
        .and_then(|value| write(value, DEPTH_MAX, &mut out))
        .map(|()| out)
        .ok_or_else(|| {
            let message = format!("the payload is not JSON or nested more than {DEPTH_MAX} deep");
            Error::new(ErrorKind::Invalid, message)
        })
}

fn write(value: &RawValue, depth_left: usize, out: &mut String) -> Option<()> {
    let depth_left = depth_left.checked_sub(1)?;
    let text = value.get();
    match text.as_bytes().first()? {
        b'[' => {
            out.push('[');
            for (index, item) in
                serde_json::from_str::<Vec<&RawValue>>(text).ok()?.iter().enumerate()
            {
                if index > 0 {
                    out.push(',');
                }
                write(item, depth_left, out)?;
            }
            out.push(']');
        }
        b'{' => {
            let Members(mut members) = serde_json::from_str(text).ok()?;
            // Stable, so members of one name keep their order.
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            out.push('{');
            for (index, (name, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(name).ok()?);
                out.push(':');
                write(member, depth_left, out)?;
            }
            out.push('}');
        }
        b'"' => {
            let text: String = serde_json::from_str(text).ok()?;
            out.push_str(&serde_json::to_string(&text).ok()?);
        }
        b'-' | b'0'..=b'9' => out.push_str(&number(text)),
        _ => out.push_str(text),
    }
    Some(())
}

fn number(text: &str) -> String {
    if !text.contains(['.', 'e', 'E']) {
        return text.to_owned();
    }
    match text.parse::<f64>() {
        Ok(double) if double.is_finite() => format!("{double:e}"),
        _ => text.to_owned(),
    }
}

/// The members of an object, those of one name as well.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        canonical_json(one).unwrap() == canonical_json(other).unwrap()
    }

    #[test]
    fn order_spaces_escapes_and_spellings_of_a_double_do_not_count() {
        assert!(same(r#"{"a": 1, "b": [true, null]}"#, r#"{"b":[true,null],"a":1}"#));
        assert!(same(r#"{"\u0061":"\u00e9"}"#, r#"{"a":"é"}"#));
        assert!(same("1e16", "1e+16") && same("1E-7", "0.0000001") && same("2.50", "2.5"));
    }

    #[test]
    fn everything_else_counts() {
        for (one, other) in [
            ("1", "1.0"),
            ("1", "\"1\""),
            ("18446744073709551616", "18446744073709551617"),
            ("[1,2]", "[2,1]"),
            (r#"{"a":999,"a":1}"#, r#"{"a":1}"#),
            (r#"["a","b"]"#, r#"["a,b"]"#),
            ("1e400", "1e401"),
        ] {
            assert!(!same(one, other), "{one} is not {other}");
        }
    }

    #[test]
    fn what_is_not_json_or_too_deep_is_refused() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        for bad in ["", "{", "NaN", "{'a': 1}", &deep] {
            assert_eq!(canonical_json(bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn a_value_and_its_text_have_one_fingerprint() {
        let secret = FingerprintKey::from_secret(b"sixteen bytes or more").unwrap();
        let value = fingerprint(&secret, &(17, "book")).unwrap();
        assert_eq!(value, fingerprint_of_json(&secret, r#"[17, "book"]"#).unwrap());
        assert_ne!(value, fingerprint(&secret, &(18, "book")).unwrap());
    }
}
