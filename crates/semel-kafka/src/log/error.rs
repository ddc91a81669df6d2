//! What goes wrong with a log, by what has to be done about it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use semel::BoxError;

/// What the caller of a [log](crate::log) must do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogErrorKind {
    /// The transaction cannot be committed. **Abort it and read again** from the last committed
    /// position: a stale generation, an unknown member, a rebalance, an abortable broker error.
    Abortable,
    /// Another producer or consumer has taken this one's place, or the client says it cannot go
    /// on. **Stop**: nothing of the polled records may be processed any more.
    Fenced,
    /// Whether the call had its effect is not known. **Never use this producer again**; make it
    /// anew, which fences what may still be on its way, and read again from the last committed
    /// position.
    Indefinite,
    /// A topic, a setting or a record breaks a rule: it will be refused again. **Fix it.**
    Invalid,
    /// The log cannot be reached or is not ready. **Try again**; nothing happened.
    Unavailable,
}

/// An error of a log.
///
/// `Display` is one lower-case sentence that names the thing, the rule and the way out.
pub struct LogError(Box<Inner>);

struct Inner {
    kind: LogErrorKind,
    message: Cow<'static, str>,
    source: Option<BoxError>,
}

impl LogError {
    /// An error with a kind and a message.
    #[must_use]
    pub fn new(kind: LogErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> LogErrorKind {
        self.0.kind
    }
}

impl fmt::Debug for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogError")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl Error for LogError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
