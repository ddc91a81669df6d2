//! The meaning of a request: method, path, query, content type and body, under a secret.

use http::header::CONTENT_TYPE;
use http::request::Parts;
use semel::{Fingerprint, FingerprintKey};
use serde_json::Value;

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

fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let essence = essence.to_ascii_lowercase();
    essence == b"application/json" || essence.ends_with(b"+json")
}

/// The same value always gives the same bytes: objects sorted by key, no spaces. Numbers keep the
/// type they were written in, so `1` and `1.0` differ. `None` if the body is not JSON.
fn canonical(body: &[u8]) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    sort(&mut value);
    serde_json::to_vec(&value).ok()
}

/// Depth is bounded by the parser (128).
fn sort(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(sort),
        Value::Object(members) => {
            members.values_mut().for_each(sort);
            // A no-op unless some crate of the build turns on `preserve_order`.
            members.sort_keys();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
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
        assert_ne!(of("{broken"), of("{ broken"), "what is not JSON counts byte by byte");
        let text = |body| fingerprint("POST", "/", "text/plain", body, true);
        assert_ne!(text("{}"), text("{ }"));
    }
}
