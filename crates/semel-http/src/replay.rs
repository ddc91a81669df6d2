//! How an answer is kept: format `http/1`, the head as CBOR and the body raw.
//!
//! ```text
//! head = { 0: status, 1: [name, value, name, value, …], ?2: [trailer name, value, …], ?3: true }
//! ```
//!
//! Field 3 marks a tombstone: the operation finished, its answer was over the limit. What does
//! not decode is refused as corrupt, never guessed.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use minicbor::{Decoder, Encoder};
use semel::{Error, ErrorKind, Outcome, Verdict};

use crate::body::{Body, Whole};
use crate::hop;
use crate::stored::StoredResponse;

/// The name of the format in [`Outcome::format`].
pub(crate) const FORMAT: &str = "http/1";
/// A head over this size makes a tombstone: a record is no place for a header flood.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// No stored answer has more fields; a longer list is damage.
const FIELDS_MAX: u64 = 2 * 1024;

/// Fields that belong to one exchange, not to the operation, and so are never stored. Hop-by-hop
/// fields and `Content-Length` come on top.
const NEVER_STORED: [HeaderName; 9] = [
    header::AGE,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::PROXY_AUTHENTICATE,
    header::SET_COOKIE,
    HeaderName::from_static("set-cookie2"),
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("authentication-info"),
];

/// A stored answer.
#[derive(Debug)]
pub(crate) enum Stored {
    Answer(Response<Body>),
    /// It was over the limit; this was its status.
    Tombstone(StatusCode),
}

/// The outcome that keeps this answer.
pub(crate) fn keep(parts: &Parts, body: &Whole) -> Outcome {
    let head = encode(parts, body.trailers.as_deref(), false);
    if head.len() > HEAD_BYTES_MAX {
        return tombstone(parts);
    }
    outcome(parts.status, head, body.data.clone())
}

/// The outcome that keeps only that the operation finished.
pub(crate) fn tombstone(parts: &Parts) -> Outcome {
    let mut bare = Response::new(()).into_parts().0;
    bare.status = parts.status;
    outcome(parts.status, encode(&bare, None, true), Bytes::new())
}

/// Reads a stored answer.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it does not decode, [`ErrorKind::TooNew`] when another version of
/// this door wrote it.
pub(crate) fn read(stored: &Outcome) -> Result<Stored, Error> {
    check_format(stored)?;
    let head = decode(&stored.head)?;
    if head.is_tombstone {
        return Ok(Stored::Tombstone(head.status));
    }
    let no_content = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let has_body = !no_content && !head.status.is_informational();
    let data = if has_body { stored.body.clone() } else { Bytes::new() };
    let mut headers = head.headers;
    if has_body && head.trailers.is_none() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(data.len()));
    }
    let mut response =
        Response::new(Body::whole(Whole { data, trailers: head.trailers.map(Box::new) }));
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    Ok(Stored::Answer(response))
}

fn check_format(stored: &Outcome) -> Result<(), Error> {
    if stored.format == FORMAT {
        return Ok(());
    }
    let (format, known) = (&stored.format, FORMAT);
    let newer = format.starts_with("http/");
    let kind = if newer { ErrorKind::TooNew } else { ErrorKind::Corrupt };
    let message = format!("the stored answer has format `{format}`, not `{known}`");
    Err(Error::new(kind, message))
}

/// Reads a stored answer with everything that is stored of it.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_stored(stored: &Outcome) -> Result<StoredResponse, Error> {
    check_format(stored)?;
    let Head { status, headers, is_tombstone, .. } = decode(&stored.head)?;
    Ok(StoredResponse { status, headers, body: stored.body.clone(), is_tombstone })
}

fn outcome(status: StatusCode, head: Vec<u8>, body: Bytes) -> Outcome {
    let refused = status.is_client_error() || status.is_server_error();
    let verdict = if refused { Verdict::Refused } else { Verdict::Succeeded };
    Outcome { verdict, format: FORMAT.to_owned(), head: head.into(), body }
}

struct Head {
    status: StatusCode,
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
    is_tombstone: bool,
}

fn is_stored(name: &HeaderName, headers: &HeaderMap) -> bool {
    !NEVER_STORED.contains(name) && !hop::is_hop_by_hop(name, headers)
}

fn encode(parts: &Parts, trailers: Option<&HeaderMap>, is_tombstone: bool) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    #[expect(clippy::expect_used, reason = "writing to a Vec cannot fail")]
    write(&mut Encoder::new(&mut bytes), parts, trailers, is_tombstone)
        .expect("a Vec takes all bytes");
    bytes
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn write(
    cbor: &mut Encoder<&mut Vec<u8>>,
    parts: &Parts,
    trailers: Option<&HeaderMap>,
    is_tombstone: bool,
) -> Written {
    cbor.map(2 + u64::from(trailers.is_some()) + u64::from(is_tombstone))?;
    cbor.u8(0)?.u16(parts.status.as_u16())?;
    cbor.u8(1)?;
    write_fields(cbor, &parts.headers)?;
    if let Some(trailers) = trailers {
        cbor.u8(2)?;
        write_fields(cbor, trailers)?;
    }
    if is_tombstone {
        cbor.u8(3)?.bool(true)?;
    }
    Ok(())
}

fn write_fields(cbor: &mut Encoder<&mut Vec<u8>>, headers: &HeaderMap) -> Written {
    let stored = || headers.iter().filter(|(name, _)| is_stored(name, headers));
    cbor.array(2 * stored().count() as u64)?;
    for (name, value) in stored() {
        cbor.str(name.as_str())?.bytes(value.as_bytes())?;
    }
    Ok(())
}

fn decode(head: &[u8]) -> Result<Head, Error> {
    if head.len() > HEAD_BYTES_MAX {
        return Err(corrupt("its head is too long"));
    }
    let mut cbor = Decoder::new(head);
    let entries = cbor.map().map_err(malformed)?.ok_or_else(|| corrupt("an endless map"))?;
    let (mut status, mut headers, mut trailers, mut is_tombstone) = (None, None, None, false);
    for _ in 0..entries {
        match cbor.u8().map_err(malformed)? {
            0 => status = Some(cbor.u16().map_err(malformed)?),
            1 => headers = Some(read_fields(&mut cbor)?),
            2 => trailers = Some(read_fields(&mut cbor)?),
            3 => is_tombstone = cbor.bool().map_err(malformed)?,
            other => return Err(corrupt(&format!("unknown field {other}"))),
        }
    }
    if cbor.position() != head.len() {
        return Err(corrupt("there are bytes behind its end"));
    }
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    match (status, headers) {
        (Some(status), Some(headers)) => Ok(Head { status, headers, trailers, is_tombstone }),
        _ => Err(corrupt("it has no valid status or no headers")),
    }
}

fn read_fields(cbor: &mut Decoder<'_>) -> Result<HeaderMap, Error> {
    let count = cbor.array().map_err(malformed)?.ok_or_else(|| corrupt("an endless array"))?;
    if count > FIELDS_MAX || count % 2 != 0 {
        return Err(corrupt("its list of fields has an impossible length"));
    }
    let mut headers = HeaderMap::new();
    for _ in 0..count / 2 {
        let name = cbor.str().map_err(malformed)?;
        let value = cbor.bytes().map_err(malformed)?;
        let name = HeaderName::from_bytes(name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) else {
            return Err(corrupt("a field breaks the rules of HTTP"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

fn malformed(error: minicbor::decode::Error) -> Error {
    corrupt("its inside is malformed").with_source(error)
}

fn corrupt(what: &str) -> Error {
    let message = format!("the head of a stored answer is damaged: {what}");
    Error::new(ErrorKind::Corrupt, message)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    fn parts(status: u16, fields: &[(&str, &[u8])]) -> Parts {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            response.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        response.into_parts().0
    }

    fn whole(data: &'static str) -> Whole {
        Whole { data: Bytes::from_static(data.as_bytes()), trailers: None }
    }

    fn replayed(outcome: &Outcome) -> Response<Body> {
        match read(outcome).unwrap() {
            Stored::Answer(response) => response,
            Stored::Tombstone(status) => panic!("a tombstone of {status}"),
        }
    }

    /// These bytes are in stores out there. If this test fails, the change needs a new format.
    #[test]
    fn the_bytes_of_format_1_are_golden() {
        let kept = keep(&parts(201, &[("location", b"/orders/17")]), &whole("{\"id\":17}"));
        assert_eq!(kept.format, "http/1");
        let golden = b"\xa2\x00\x18\xc9\x01\x82\x68location\x4a/orders/17";
        assert_eq!(kept.head.escape_ascii().to_string(), golden.escape_ascii().to_string());
        assert_eq!(kept.body, "{\"id\":17}");
        let gone = tombstone(&parts(200, &[("etag", b"x")]));
        let golden = b"\xa3\x00\x18\xc8\x01\x80\x03\xf5";
        assert_eq!(gone.head.escape_ascii().to_string(), golden.escape_ascii().to_string());
        let Stored::Tombstone(status) = read(&gone).unwrap() else { panic!("a tombstone") };
        assert_eq!(status, 200);
    }

    #[tokio::test]
    async fn status_values_order_bytes_and_trailers_come_back_as_they_were() {
        let fields: &[(&str, &[u8])] = &[
            ("content-type", b"application/json"),
            ("link", b"<a>"),
            ("x-raw", b"caf\xe9"),
            ("link", b"<b>"),
            ("x-empty", b""),
        ];
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", HeaderValue::from_static("17"));
        let body = Whole {
            data: Bytes::from_static(b"\0\xff"),
            trailers: Some(Box::new(trailers.clone())),
        };
        let response = replayed(&keep(&parts(418, fields), &body));
        assert_eq!(response.status(), 418);
        let links: Vec<_> = response.headers().get_all("link").iter().collect();
        assert_eq!(links, ["<a>", "<b>"]);
        assert_eq!(response.headers()["x-raw"].as_bytes(), b"caf\xe9");
        assert_eq!(response.headers()["x-empty"], "");
        assert!(!response.headers().contains_key("content-length"));
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes().as_ref(), b"\0\xff");
    }

    #[test]
    fn what_belongs_to_one_exchange_is_not_stored() {
        let fields: &[(&str, &[u8])] = &[
            ("set-cookie", b"session=secret"),
            ("set-cookie2", b"session=secret"),
            ("www-authenticate", b"Basic"),
            ("proxy-authenticate", b"Basic"),
            ("authorization", b"secret"),
            ("authentication-info", b"secret"),
            ("date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
            ("age", b"17"),
            ("content-length", b"999"),
            ("connection", b"x-hop, keep-alive"),
            ("x-hop", b"1"),
            ("keep-alive", b"timeout=5"),
            ("transfer-encoding", b"chunked"),
            ("upgrade", b"x"),
            ("te", b"trailers"),
            ("trailer", b"checksum"),
            ("proxy-connection", b"close"),
            ("etag", b"\"kept\""),
        ];
        let response = replayed(&keep(&parts(200, fields), &whole("body")));
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["etag", "content-length"]);
        assert_eq!(response.headers()["content-length"], "4");
    }

    #[tokio::test]
    async fn a_status_without_content_has_neither_body_nor_length() {
        for status in [204, 304] {
            let response = replayed(&keep(&parts(status, &[]), &whole("impossible")));
            assert!(!response.headers().contains_key("content-length"));
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
    }

    #[test]
    fn a_head_over_the_limit_becomes_a_tombstone() {
        let long = vec![b'x'; HEAD_BYTES_MAX];
        let kept = keep(&parts(200, &[("x-long", &long)]), &whole("body"));
        assert!(matches!(read(&kept).unwrap(), Stored::Tombstone(_)));
        assert!(kept.body.is_empty());
    }

    #[test]
    fn damage_and_other_formats_are_refused_not_guessed() {
        let kept = keep(&parts(201, &[("location", b"/orders/17")]), &whole("body"));
        for end in 0..kept.head.len() {
            let cut = Outcome { head: kept.head.slice(..end), ..kept.clone() };
            assert_eq!(read(&cut).unwrap_err().kind(), ErrorKind::Corrupt, "cut at {end}");
        }
        let heads: [&[u8]; 7] = [
            b"\xa2\x00\x18\xc9\x01\x82\x68location\x4a/orders/17\x00",
            b"\xa2\x00\x18\xc9\x01\x81\x68location",
            b"\xa2\x00\x18\xc9\x04\x80",
            b"\xa2\x00\x01\x01\x80",
            b"\xa2\x00\x18\xc9\x01\x82\x61 \x41x",
            b"\xa2\x00\x18\xc9\x01\x82\x61a\x42\r\n",
            b"\xa2\x00\x18\xc9\x01\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for head in heads {
            let outcome = Outcome { head: Bytes::from_static(head), ..kept.clone() };
            let error = read(&outcome).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", head.escape_ascii());
        }
        let json = Outcome { format: "json".to_owned(), ..kept.clone() };
        assert_eq!(read(&json).unwrap_err().kind(), ErrorKind::Corrupt);
        let newer = Outcome { format: "http/2".to_owned(), ..kept };
        assert_eq!(read(&newer).unwrap_err().kind(), ErrorKind::TooNew);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(head in proptest::collection::vec(any::<u8>(), 0..64)) {
            drop(decode(&head));
        }
    }
}
