//! One key after the other, from the request through its record and task to what they start.

use semel::{Error, ErrorKind, Key};

/// The header that carries a key: of an HTTP request, a Kafka record, a task's message. The doors
/// for HTTP and Kafka read and write the same one.
pub const KEY_HEADER: &str = "Idempotency-Key";

/// The key that the parent handed over in its headers, if it did. Names count without their case,
/// values bare or in quotes, as the HTTP door takes them.
///
/// A child's key is the parent's [`step_key`](crate::Task::step_key) for the step that starts it,
/// so a retry of the parent starts the same child, and `semel records trace` finds one from the
/// other. Start the child inside the step, and hand the key over under [`KEY_HEADER`]:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), semel::Error> {
/// use semel::{Effect, FingerprintKey, Guard, Key, MemoryStore, StepFailure};
/// use semel_tasks::{KEY_HEADER, TaskGuard, key_in};
/// use std::sync::Arc;
///
/// # let store = Arc::new(MemoryStore::new());
/// # let door = |operation: &str| {
/// #     let guard = Guard::builder(store.clone()).operation(operation)?.effect(Effect::Keyed);
/// #     let secret = FingerprintKey::from_secret(b"sixteen bytes or more")?;
/// #     Ok::<_, semel::Error>(TaskGuard::new(guard.build()?, secret))
/// # };
/// // In the parent: a queue of your own takes headers with a task.
/// let (orders, order) = (door("order")?, Key::parse("order-17")?);
/// let message = orders.run(&order, "book", async |task| {
///     let sent = task.step("mail", async |step| {
///         Ok::<_, StepFailure>(vec![(KEY_HEADER.to_owned(), step.step_key().as_str().to_owned())])
///     });
///     Ok(sent.await?)
/// });
/// let headers = message.await?.value;
///
/// // In the child: the parent's key, or else one of its own.
/// let headers = headers.iter().map(|(name, value)| (&**name, value.as_bytes()));
/// let key = key_in(headers)?.unwrap_or(Key::parse("the-task's-own-id")?);
/// let mailed = door("mail")?.run(&key, "a book is on its way", async |_| Ok(true)).await?;
/// assert!(!mailed.replayed);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Invalid`] when the value is no key, or when there are two that differ.
pub fn key_in<'h>(
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> Result<Option<Key>, Error> {
    let mut found = None;
    for (name, value) in headers {
        if !name.eq_ignore_ascii_case(KEY_HEADER) {
            continue;
        }
        let key = key_of(value)?;
        if found.as_ref().is_some_and(|found| *found != key) {
            let message = format!("there are two different values of {KEY_HEADER}; send one");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        found = Some(key);
    }
    Ok(found)
}

/// A bare value, or a String of structured fields (RFC 9651).
fn key_of(value: &[u8]) -> Result<Key, Error> {
    let text = std::str::from_utf8(value).map_err(|_| {
        let message = format!("the value of {KEY_HEADER} is not text");
        Error::new(ErrorKind::Invalid, message)
    })?;
    let text = text.trim_matches([' ', '\t']);
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => Key::parse(&quoted.replace("\\\"", "\"").replace("\\\\", "\\")),
        None => Key::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(headers: &[(&str, &str)]) -> Result<Option<Key>, Error> {
        key_in(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn a_key_is_found_bare_or_quoted_under_any_case_of_its_name() {
        for headers in [
            &[("Idempotency-Key", "order-17")][..],
            &[("idempotency-key", "\"order-17\"")],
            &[("x", "y"), ("IDEMPOTENCY-KEY", " order-17\t"), ("Idempotency-Key", "order-17")],
        ] {
            assert_eq!(found(headers).unwrap().unwrap().as_str(), "order-17", "{headers:?}");
        }
        assert_eq!(found(&[("X-Idempotency-Key", "order-17")]).unwrap(), None);
        assert_eq!(found(&[(KEY_HEADER, r#""a\"b\\c""#)]).unwrap().unwrap().as_str(), r#"a"b\c"#);
    }

    #[test]
    fn two_keys_an_empty_one_and_spaces_are_refused() {
        for headers in [
            &[(KEY_HEADER, "one"), (KEY_HEADER, "other")][..],
            &[(KEY_HEADER, "")],
            &[(KEY_HEADER, "two words")],
        ] {
            assert_eq!(found(headers).unwrap_err().kind(), ErrorKind::Invalid, "{headers:?}");
        }
        let bytes = key_in([(KEY_HEADER, &[0xff_u8][..])]);
        assert_eq!(bytes.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
