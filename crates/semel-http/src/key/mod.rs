//! Where a request says which operation it is, and how that is read.
//!
//! # Rules
//!
//! 1. A value that starts with a quote is a structured-field String (RFC 9651): `"order-17"`.
//!    Parameters behind it are checked and ignored.
//! 2. Any other value is a bare key, as most client libraries send it: `order-17` is the same key
//!    as `"order-17"`. A bare key must not contain `"`, `,` or `;`, nor start like another kind of
//!    structured field (`(` `:` `?` `@` `%`), so that no field has two readings.
//! 3. Two fields, or a list, are refused: a request has one key.
//! 4. What comes out is a [`Key`]: 1 to 255 visible ASCII characters.

mod pointer;
mod structured;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use semel::Key;

pub(crate) use self::pointer::Pointer;

/// Which spellings of a key are accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spelling {
    /// Quoted, as the draft says, or bare, as real client libraries do.
    #[default]
    Any,
    /// Quoted only.
    Quoted,
}

/// Reads the key from the first of these fields that is there.
pub(crate) fn from_headers(
    headers: &HeaderMap,
    names: &[HeaderName],
    spelling: Spelling,
) -> Option<Result<Key, String>> {
    let present = names.iter().find_map(|name| headers.get(name).map(|first| (name, first)));
    let (name, first) = present?;
    let parsed = if headers.get_all(name).iter().nth(1).is_some() {
        Err("was sent twice; send one key".to_owned())
    } else {
        parse(first, spelling)
    };
    Some(parsed.map_err(|problem| format!("the key in `{name}` {problem}")))
}

fn parse(value: &HeaderValue, spelling: Spelling) -> Result<Key, String> {
    let field = value.as_bytes().trim_ascii();
    let quoted = field.first() == Some(&b'"');
    let text = match (quoted, spelling) {
        (true, _) => structured::parse_string_item(field)?,
        (false, Spelling::Any) => bare(field)?,
        (false, Spelling::Quoted) => return Err("is not quoted; send it as \"…\"".to_owned()),
    };
    Key::parse(&text).map_err(|error| format!("is malformed: {error}"))
}

fn bare(field: &[u8]) -> Result<String, &'static str> {
    match field.first() {
        None => return Err("is empty"),
        Some(b'(' | b':' | b'?' | b'@' | b'%') => {
            return Err("starts like a structured field that is not a string; quote it");
        }
        Some(_) => {}
    }
    if field.contains(&b',') {
        return Err("is a list; send one key");
    }
    if field.iter().any(|byte| b"\";".contains(byte)) {
        return Err("contains a quote or a semicolon; quote it");
    }
    std::str::from_utf8(field).map(str::to_owned).map_err(|_| "is not ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&[u8]], spelling: Spelling) -> Option<Result<Key, String>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("idempotency-key", HeaderValue::from_bytes(value).unwrap());
        }
        from_headers(&headers, &[HeaderName::from_static("idempotency-key")], spelling)
    }

    #[test]
    fn a_quoted_and_a_bare_key_are_the_same_key() {
        let quoted = read(&[b"\"order-17\""], Spelling::Any).unwrap().unwrap();
        let bare = read(&[b"order-17"], Spelling::Any).unwrap().unwrap();
        let with_parameter = read(&[b"\"order-17\";try=2"], Spelling::Any).unwrap().unwrap();
        assert_eq!(quoted, bare);
        assert_eq!(quoted, with_parameter);
        assert!(read(&[], Spelling::Any).is_none());
    }

    #[test]
    fn a_field_that_is_not_one_key_is_refused_with_its_reason() {
        let rows: &[(&[&[u8]], &str)] = &[
            (&[b"a", b"a"], "sent twice"),
            (&[b"\"a\"", b"\"b\""], "sent twice"),
            (&[b"a,b"], "is a list"),
            (&[b"\"a\", \"b\""], "is a list"),
            (&[b""], "is empty"),
            (&[b"\"\""], "is empty"),
            (&[b"a b"], "visible ASCII"),
            (&[b"\"a b\""], "visible ASCII"),
            (&[b"\"a"], "no closing quote"),
            (&[b"\"a\"b"], "behind its closing quote"),
            (&[b"\"a\\b\""], "escapes something else"),
            (&[b"a\"b"], "quote it"),
            (&[b"a;b=1"], "quote it"),
            (&[b"?1"], "structured field"),
            (&[b":YWJj:"], "structured field"),
            (&[b"(a)"], "structured field"),
            (&[b"@17"], "structured field"),
            (&[b"%\"a\""], "structured field"),
            (&[b"\xc3\xa9"], "visible ASCII"),
            (&[b"\xff"], "not ASCII"),
            (&[b"\"\xc3\xa9\""], "not printable ASCII"),
            (&[&[b'k'; 256]], "at most 255"),
        ];
        for (values, reason) in rows {
            let problem = read(values, Spelling::Any).unwrap().unwrap_err();
            assert!(problem.contains(reason), "{problem} ({reason})");
            assert!(problem.starts_with("the key in `idempotency-key` "), "{problem}");
        }
    }

    #[test]
    fn the_strict_spelling_refuses_bare_keys() {
        assert!(read(&[b"order-17"], Spelling::Quoted).unwrap().is_err());
        assert!(read(&[b"\"order-17\""], Spelling::Quoted).unwrap().is_ok());
    }

    #[test]
    fn an_alias_is_read_when_the_first_name_is_missing() {
        let names = ["idempotency-key", "x-idempotency-key"].map(HeaderName::from_static);
        let mut headers = HeaderMap::new();
        headers.insert("x-idempotency-key", HeaderValue::from_static("alias"));
        let key = from_headers(&headers, &names, Spelling::Any).unwrap().unwrap();
        assert_eq!(key.as_str(), "alias");
        headers.insert("idempotency-key", HeaderValue::from_static("first"));
        let key = from_headers(&headers, &names, Spelling::Any).unwrap().unwrap();
        assert_eq!(key.as_str(), "first");
    }
}
