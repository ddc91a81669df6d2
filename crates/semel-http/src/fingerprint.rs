//! The meaning of a request: method, path, query, content type and body, under a secret.

use std::fmt;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use semel::{Fingerprint, FingerprintKey};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Two requests with one key and different fingerprints are a mismatch. The path is part of it, so
/// a key that is reused for another resource is found.
pub(crate) fn of(
    secret: &FingerprintKey,
    parts: &Parts,
    body: &[u8],
    canonical_json: bool,
) -> Fingerprint {
    let content_type = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let fingerprint = secret
        .fingerprint()
        .part(parts.method.as_str().as_bytes())
        .part(parts.uri.path().as_bytes())
        .part(parts.uri.query().unwrap_or_default().as_bytes())
        .part(content_type);
    let canonical = (canonical_json && is_json(content_type)).then(|| canonical(body)).flatten();
    match canonical {
        Some(canonical) => fingerprint.part(b"canonical json").part(&canonical).finish(),
        None => fingerprint.part(b"bytes").part(body).finish(),
    }
}

/// Whether the body says that it is JSON.
pub(crate) fn has_json(parts: &Parts) -> bool {
    parts.headers.get(CONTENT_TYPE).is_some_and(|value| is_json(value.as_bytes()))
}

fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    essence == b"application/json" || essence.ends_with(b"+json")
}

/// The same value always gives the same bytes: members sorted by name, no spaces. Numbers count as
/// they are written, so no two payloads become one by rounding, and a member that is there twice
/// counts twice. `None` if the body is not JSON.
fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    write(serde_json::from_slice(body).ok()?, DEPTH_MAX, &mut out)?;
    Some(out)
}

/// Deeper bodies count byte by byte; a stack must not grow with what a client sends.
const DEPTH_MAX: usize = 128;

fn write(value: &RawValue, depth_left: usize, out: &mut Vec<u8>) -> Option<()> {
    let depth_left = depth_left.checked_sub(1)?;
    let text = value.get();
    match text.as_bytes().first()? {
        b'[' => {
            out.push(b'[');
            for item in serde_json::from_str::<Vec<&RawValue>>(text).ok()? {
                write(item, depth_left, out)?;
                out.push(b',');
            }
            out.push(b']');
        }
        b'{' => {
            let Members(mut members) = serde_json::from_str(text).ok()?;
            // Stable, so members of one name keep their order.
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            out.push(b'{');
            for (name, member) in members {
                serde_json::to_writer(&mut *out, &name).ok()?;
                out.push(b':');
                write(member, depth_left, out)?;
                out.push(b',');
            }
            out.push(b'}');
        }
        // Escapes are another way to write the same text.
        b'"' => {
            let text: String = serde_json::from_str(text).ok()?;
            serde_json::to_writer(&mut *out, &text).ok()?;
        }
        _ => out.extend_from_slice(text.as_bytes()),
    }
    Some(())
}

/// All members of an object, those of one name included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
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
    use http::{HeaderValue, Request};

    use super::*;

    fn fingerprint(
        method: &str,
        uri: &str,
        content_type: &'static str,
        body: &str,
        canonical_json: bool,
    ) -> Fingerprint {
        let secret = FingerprintKey::from_secret(b"0123456789abcdef").unwrap();
        let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        of(&secret, &request.into_parts().0, body.as_bytes(), canonical_json)
    }

    #[test]
    fn every_part_counts() {
        let base = fingerprint("POST", "/a?b=c", "application/json", "{}", false);
        assert_eq!(base, fingerprint("POST", "/a?b=c", "application/json", "{}", false));
        for other in [
            fingerprint("PATCH", "/a?b=c", "application/json", "{}", false),
            fingerprint("POST", "/b?b=c", "application/json", "{}", false),
            fingerprint("POST", "/a?b=d", "application/json", "{}", false),
            fingerprint("POST", "/a", "application/json", "{}", false),
            fingerprint("POST", "/a?b=c", "text/plain", "{}", false),
            fingerprint("POST", "/a?b=c", "application/json", "{ }", false),
            fingerprint("POST", "/a?b=c", "application/json", "{}", true),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn canonical_json_ignores_order_and_spaces_and_nothing_else() {
        let of = |body| fingerprint("POST", "/", "application/json; charset=utf-8", body, true);
        let base = of(r#"{"a": 1, "b": [{"x": 1, "y": 2}]}"#);
        assert_eq!(base, of(r#"{"b":[{"y":2,"x":1}],"a":1}"#));
        assert_ne!(base, of(r#"{"a": 1.0, "b": [{"x": 1, "y": 2}]}"#));
        assert_ne!(base, of(r#"{"a": "1", "b": [{"x": 1, "y": 2}]}"#));
        assert_ne!(of("[1,2]"), of("[2,1]"));
        for (one, other) in [
            (r#"{"a":1234567890123456.78}"#, r#"{"a":1234567890123456.80}"#),
            (r#"{"a":18446744073709551616}"#, r#"{"a":18446744073709551617}"#),
            (r#"{"a":999,"a":1}"#, r#"{"a":1}"#),
            (r#"["a","b"]"#, r#"["a,b"]"#),
        ] {
            assert_ne!(of(one), of(other), "{one} is not {other}");
        }
        assert_eq!(of(r#"{"\u0061":"\u0062"}"#), of(r#"{"a":"b"}"#));
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(of(&deep), of(&deep));
        assert_ne!(of("{broken"), of("{ broken"), "what is not JSON counts byte by byte");
        let text = |body| fingerprint("POST", "/", "text/plain", body, true);
        assert_ne!(text("{}"), text("{ }"));
    }
}
