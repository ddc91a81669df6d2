use semel::{Error, ErrorKind, Key};
use serde_json::Value;

/// A JSON Pointer (RFC 6901) to the key in the body, for APIs that carry it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer(String);

impl Pointer {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let escapes_fit = text
            .split('~')
            .skip(1)
            .all(|behind| behind.starts_with('0') || behind.starts_with('1'));
        if text.starts_with('/') && escapes_fit {
            return Ok(Self(text.to_owned()));
        }
        let message = format!(
            "key_pointer `{text}` is not a JSON Pointer; it starts with `/` and writes `~` as `~0` \
             and `/` as `~1`, for example `/idempotency_key`"
        );
        Err(Error::new(ErrorKind::Settings, message))
    }

    /// Reads the key from a body. A body that is not JSON, or has nothing there, has no key.
    pub(crate) fn key_in(&self, body: &[u8]) -> Option<Result<Key, String>> {
        let value: Value = serde_json::from_slice(body).ok()?;
        match value.pointer(&self.0)? {
            Value::Null => None,
            Value::String(text) => Some(Key::parse(text).map_err(|error| {
                format!("the key at `{}` of the body is malformed: {error}", self.0)
            })),
            _ => Some(Err(format!("the key at `{}` of the body is not a string", self.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_where_the_pointer_says() {
        let pointer = Pointer::parse("/meta/a~1b~0c").unwrap();
        let body = br#"{"meta": {"a/b~c": "order-17"}}"#;
        assert_eq!(pointer.key_in(body).unwrap().unwrap().as_str(), "order-17");
        assert!(pointer.key_in(br#"{"meta": {}}"#).is_none());
        assert!(pointer.key_in(br#"{"meta": {"a/b~c": null}}"#).is_none());
        assert!(pointer.key_in(b"not json").is_none());
        assert!(pointer.key_in(br#"{"meta": {"a/b~c": 17}}"#).unwrap().is_err());
        assert!(pointer.key_in(br#"{"meta": {"a/b~c": ""}}"#).unwrap().is_err());
    }

    #[test]
    fn a_broken_pointer_is_refused_with_an_example() {
        for broken in ["", "key", "/a~2b", "/a~"] {
            let error = Pointer::parse(broken).unwrap_err();
            assert!(error.to_string().contains("/idempotency_key"), "{error}");
        }
    }
}
