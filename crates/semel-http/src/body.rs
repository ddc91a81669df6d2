//! The one body type of the door: what the layer hands to the service and back to the client.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use semel::BoxError;

/// A request's or response's body.
///
/// Bodies that are in memory, and those of the proxy's own connections, are held as they are;
/// any other is boxed once.
///
/// ```
/// use semel_http::Body;
///
/// let body = Body::from("{\"id\": 17}");
/// let streamed = Body::new(http_body_util::Empty::<bytes::Bytes>::new());
/// # drop((body, streamed));
/// ```
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Whole(Whole),
    /// The part that was read ahead, then the rest.
    Resumed(Box<Resumed>),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
    #[cfg(feature = "proxy")]
    Incoming(hyper::body::Incoming),
    #[cfg(feature = "proxy")]
    Received(Box<crate::proxy::Received>),
    #[cfg(feature = "proxy")]
    Relayed(crate::proxy::Relayed),
}

/// A body in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) data: Bytes,
    /// Boxed, because hardly any body has them and every request moves a body around.
    pub(crate) trailers: Option<Box<HeaderMap>>,
}

struct Resumed {
    front: std::vec::IntoIter<Frame<Bytes>>,
    rest: Body,
}

impl Body {
    /// A body without content.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Takes any body of bytes.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let body = match downcast::<B, Self>(body) {
            Ok(body) => return body,
            Err(body) => body,
        };
        #[cfg(feature = "proxy")]
        let body = match downcast::<B, hyper::body::Incoming>(body) {
            Ok(body) => return Self(Kind::Incoming(body)),
            Err(body) => body,
        };
        if body.is_end_stream() {
            return Self::empty();
        }
        Self(Kind::Boxed(body.map_err(Into::into).boxed_unsync()))
    }

    pub(crate) fn whole(whole: Whole) -> Self {
        Self(Kind::Whole(whole))
    }

    fn resumed(front: Vec<Frame<Bytes>>, rest: Self) -> Self {
        Self(Kind::Resumed(Box::new(Resumed { front: front.into_iter(), rest })))
    }

    /// The body as the server received it, if nothing has touched it.
    #[cfg(feature = "proxy")]
    pub(crate) fn into_incoming(self) -> Result<hyper::body::Incoming, Self> {
        match self.0 {
            Kind::Incoming(incoming) => Ok(incoming),
            other => Err(Self(other)),
        }
    }

    /// Keeps the client's request open until this body is over.
    #[cfg(feature = "proxy")]
    pub(crate) fn hold(&mut self, serving: crate::proxy::Serving) {
        match &mut self.0 {
            Kind::Relayed(body) => body.hold(serving),
            Kind::Resumed(resumed) => resumed.rest.hold(serving),
            // The others are in memory, and the request is over once they are handed out.
            Kind::Empty
            | Kind::Whole(_)
            | Kind::Boxed(_)
            | Kind::Incoming(_)
            | Kind::Received(_) => {}
        }
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn received(body: crate::proxy::Received) -> Self {
        Self(Kind::Received(Box::new(body)))
    }

    #[cfg(feature = "proxy")]
    pub(crate) fn relayed(body: crate::proxy::Relayed) -> Self {
        Self(Kind::Relayed(body))
    }
}

impl From<Bytes> for Body {
    fn from(data: Bytes) -> Self {
        Self::whole(Whole { data, trailers: None })
    }
}

impl From<Vec<u8>> for Body {
    fn from(data: Vec<u8>) -> Self {
        Bytes::from(data).into()
    }
}

impl From<String> for Body {
    fn from(data: String) -> Self {
        Bytes::from(data).into()
    }
}

impl From<&'static str> for Body {
    fn from(data: &'static str) -> Self {
        Bytes::from_static(data.as_bytes()).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bodies hold personal data; a log line must not.
        f.debug_struct("Body").field("size", &self.size_hint()).finish_non_exhaustive()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Whole(whole) => Poll::Ready(whole.next().map(Ok)),
            Kind::Resumed(resumed) => match resumed.front.next() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(&mut resumed.rest).poll_frame(context),
            },
            Kind::Boxed(body) => Pin::new(body).poll_frame(context),
            #[cfg(feature = "proxy")]
            Kind::Incoming(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            #[cfg(feature = "proxy")]
            Kind::Received(body) => body.poll_frame(context),
            #[cfg(feature = "proxy")]
            Kind::Relayed(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Whole(whole) => whole.data.is_empty() && whole.trailers.is_none(),
            Kind::Resumed(resumed) => {
                resumed.front.as_slice().is_empty() && resumed.rest.is_end_stream()
            }
            Kind::Boxed(body) => body.is_end_stream(),
            #[cfg(feature = "proxy")]
            Kind::Incoming(body) => body.is_end_stream(),
            #[cfg(feature = "proxy")]
            Kind::Received(body) => body.is_end_stream(),
            #[cfg(feature = "proxy")]
            Kind::Relayed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            // With trailers the length stays open, so that HTTP/1.1 chunks the body: trailers
            // have no place behind a Content-Length.
            Kind::Whole(Whole { trailers: Some(_), .. }) => SizeHint::default(),
            Kind::Whole(whole) => SizeHint::with_exact(whole.data.len() as u64),
            Kind::Resumed(resumed) => resumed.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
            #[cfg(feature = "proxy")]
            Kind::Incoming(body) => body.size_hint(),
            #[cfg(feature = "proxy")]
            Kind::Received(body) => body.size_hint(),
            #[cfg(feature = "proxy")]
            Kind::Relayed(body) => body.size_hint(),
        }
    }
}

impl Whole {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        if !self.data.is_empty() {
            return Some(Frame::data(std::mem::take(&mut self.data)));
        }
        self.trailers.take().map(|trailers| Frame::trailers(*trailers))
    }
}

impl Resumed {
    fn size_hint(&self) -> SizeHint {
        let ahead = self.front.as_slice().iter().filter_map(Frame::data_ref).map(Bytes::len);
        let ahead = ahead.sum::<usize>() as u64;
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::default();
        if let Some(upper) = rest.upper() {
            hint.set_upper(ahead + upper);
        }
        hint.set_lower(ahead + rest.lower());
        hint
    }
}

/// What reading a body up to a limit gave.
#[derive(Debug)]
pub(crate) enum Collected {
    Whole(Whole),
    /// Longer than the limit. The body starts at its beginning again.
    TooLong(Body),
    /// It broke off.
    Broken(BoxError),
}

/// Reads a body into memory, at most `bytes_max` bytes of it.
pub(crate) async fn collect(mut body: Body, bytes_max: usize) -> Collected {
    if body.size_hint().lower() > bytes_max as u64 {
        return Collected::TooLong(body);
    }
    let (mut frames, mut bytes, mut trailers) = (Vec::new(), 0, None);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                bytes += data.len();
                frames.push(Frame::data(data));
                if bytes > bytes_max {
                    return Collected::TooLong(Body::resumed(frames, body));
                }
            }
            Ok(Err(other)) => trailers = other.into_trailers().ok().map(Box::new),
            Err(error) => return Collected::Broken(error),
        }
    }
    Collected::Whole(Whole { data: joined(frames, bytes), trailers })
}

fn joined(mut frames: Vec<Frame<Bytes>>, bytes: usize) -> Bytes {
    let mut parts = frames.drain(..).filter_map(|frame| frame.into_data().ok());
    match (parts.next(), parts.next()) {
        (None, _) => Bytes::new(),
        // The usual case, a body in one frame, is not copied.
        (Some(only), None) => only,
        (Some(first), Some(second)) => {
            let mut all = Vec::with_capacity(bytes);
            [first, second].into_iter().chain(parts).for_each(|part| all.extend_from_slice(&part));
            all.into()
        }
    }
}

/// `value` as a `K`, if that is what it is.
fn downcast<T: 'static, K: 'static>(value: T) -> Result<K, T> {
    let mut slot = Some(value);
    let found = (&mut slot as &mut dyn Any).downcast_mut::<Option<K>>().and_then(Option::take);
    match (found, slot) {
        (Some(found), _) => Ok(found),
        (None, Some(value)) => Err(value),
        #[expect(clippy::unreachable, reason = "the slot is emptied by `found` alone")]
        (None, None) => unreachable!("the slot is emptied by `found` alone"),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn frames(parts: &[&'static str]) -> Body {
        let frames: Vec<_> = parts
            .iter()
            .map(|part| Ok::<_, BoxError>(Frame::data(Bytes::from_static(part.as_bytes()))))
            .collect();
        Body::new(StreamBody::new(Chunks(frames.into_iter())))
    }

    struct Chunks(std::vec::IntoIter<Result<Frame<Bytes>, BoxError>>);

    impl futures_core::Stream for Chunks {
        type Item = Result<Frame<Bytes>, BoxError>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.next())
        }
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_whole_and_one_byte_more_is_not() {
        let Collected::Whole(whole) = collect(frames(&["ab", "cd"]), 4).await else {
            panic!("four bytes fit in four");
        };
        assert_eq!(whole.data, "abcd");
        let Collected::TooLong(rest) = collect(frames(&["ab", "cd", "ef"]), 3).await else {
            panic!("six bytes do not fit in three");
        };
        let all = rest.collect().await.unwrap().to_bytes();
        assert_eq!(all, "abcdef", "nothing of a body that is too long may be lost");
    }

    #[tokio::test]
    async fn a_body_that_announces_too_much_is_not_read_at_all() {
        let body = Body::new(Full::new(Bytes::from_static(b"abcdef")));
        let Collected::TooLong(rest) = collect(body, 3).await else { panic!("too long") };
        assert_eq!(rest.size_hint().exact(), Some(6));
    }

    #[tokio::test]
    async fn trailers_are_kept_and_open_the_length() {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", "17".parse().unwrap());
        let whole = Whole { data: Bytes::from_static(b"x"), trailers: Some(Box::new(trailers)) };
        let body = Body::whole(whole.clone());
        assert_eq!(body.size_hint().exact(), None);
        let Collected::Whole(again) = collect(body, 10).await else { panic!("whole") };
        assert_eq!(again, whole);
    }

    #[test]
    fn a_body_is_small_because_every_request_moves_it_several_times() {
        assert!(size_of::<Body>() <= 72, "{}", size_of::<Body>());
    }

    #[test]
    fn a_body_of_our_own_is_not_wrapped_again() {
        let body = Body::new(Body::from("x"));
        assert!(matches!(body.0, Kind::Whole(_)));
    }
}
