//! The stored answer of a finished operation.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind};

/// How an operation ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The handler returned a refusal that will not change (a declined card, an unknown item).
    Refused,
    /// The handler finished its work.
    Succeeded,
}

/// The answer of a finished operation, kept so that it can be replayed byte for byte.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it is a success or a stored refusal.
    pub verdict: Verdict,
    /// Who can read `head` and `body`: a door's name and version such as `http/1`, or `json`.
    pub format: String,
    /// The door's own description of the answer (an HTTP status and headers, say).
    pub head: Bytes,
    /// The answer itself, raw.
    pub body: Bytes,
}

impl Outcome {
    pub(crate) const JSON: &str = "json";
    /// The format that says "finished, but the answer was too large to keep".
    pub(crate) const TOMBSTONE: &str = "tombstone";

    /// An answer stored as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the value does not serialise (a map with non-string keys, say).
    pub fn json<T: Serialize>(verdict: Verdict, value: &T) -> Result<Self, Error> {
        let body = serde_json::to_vec(value).map_err(|error| {
            Error::new(ErrorKind::Invalid, "the answer cannot be written as JSON, so not stored")
                .with_source(error)
        })?;
        let format = Self::JSON.to_owned();
        Ok(Self { verdict, format, head: Bytes::new(), body: body.into() })
    }

    /// Reads an answer stored as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when the stored answer is of another format or type.
    pub fn to_json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if self.format != Self::JSON {
            let message = format!("the stored answer has format `{}`, not `json`", self.format);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let message = "the stored answer does not fit the type it is read as; keep answer \
                           types compatible for as long as records are kept";
            Error::new(ErrorKind::Corrupt, message).with_source(error)
        })
    }

    /// The value that a handler of [`Guard::run`](crate::Guard::run) returned.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when it is a stored refusal, [`ErrorKind::TooLarge`] when the answer
    /// was too large to keep, and those of [`Self::to_json`].
    pub fn into_value<T: DeserializeOwned>(self) -> Result<T, Error> {
        if self.format == Self::TOMBSTONE {
            let message = "the operation finished, but its answer was over `outcome_bytes_max` \
                           and was not kept; it will not run again";
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        match self.verdict {
            Verdict::Refused => Err(Error::refused(self)),
            Verdict::Succeeded => self.to_json(),
        }
    }

    /// Bytes that count against the limit on stored answers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.format.len() + self.head.len() + self.body.len()
    }

    /// Whether nothing at all is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Answers hold personal data; a log line must not.
        f.debug_struct("Outcome")
            .field("verdict", &self.verdict)
            .field("format", &self.format)
            .field("bytes", &self.len())
            .finish_non_exhaustive()
    }
}
