//! A stored answer as people and tools see it.

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use semel::{Error, Outcome};

use crate::body::Whole;
use crate::replay;

/// A stored answer, read or about to be stored by someone who decides about a record.
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use semel_http::StoredResponse;
///
/// let decided = StoredResponse {
///     status: StatusCode::CREATED,
///     headers: HeaderMap::new(),
///     body: "order 17".into(),
///     is_tombstone: false,
/// };
/// let outcome = decided.outcome();
/// assert_eq!(StoredResponse::read(&outcome)?.body, "order 17");
/// # Ok::<(), semel::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// The status.
    pub status: StatusCode,
    /// The fields, without those that are never stored.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The operation finished, but its answer was over the limit: there is only the status.
    pub is_tombstone: bool,
}

impl StoredResponse {
    /// Reads what the door stored.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](semel::ErrorKind::Corrupt) when it is no answer of this door or does
    /// not decode, [`ErrorKind::TooNew`](semel::ErrorKind::TooNew) when a newer version wrote it.
    pub fn read(outcome: &Outcome) -> Result<Self, Error> {
        replay::read_stored(outcome)
    }

    /// The outcome to complete a record with. Fields that are never stored are left out.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let parts = self.parts();
        if self.is_tombstone {
            return replay::tombstone(&parts);
        }
        replay::keep(&parts, &Whole { data: self.body.clone(), trailers: None })
    }

    fn parts(&self) -> Parts {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response.into_parts().0
    }
}
