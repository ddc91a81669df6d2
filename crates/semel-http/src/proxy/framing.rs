//! Finds requests whose length is said twice, which hyper repairs silently.
//!
//! hyper follows RFC 9112 §6.3: `Transfer-Encoding` wins over `Content-Length`, and equal lengths
//! are joined, so what is forwarded is always unambiguous. But such a request is a smuggling
//! attempt or a broken sender, and the RFC lets a server refuse it; after hyper has parsed it, it
//! can no longer be told from an honest one. So the lines of each head are looked at as they pass.

use memchr::memchr;

/// What is known about the head of the request that is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Framing {
    /// The head was not seen from its start: it came in one packet with the request before it.
    Unseen = 0,
    /// The length is said at most once.
    Clear = 1,
    /// The length is said more than once.
    Ambiguous = 2,
}

impl Framing {
    pub(super) fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Clear,
            2 => Self::Ambiguous,
            _ => Self::Unseen,
        }
    }
}

const CONTENT_LENGTH: &[u8] = b"content-length:";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding:";
/// Enough of a line to tell the two names from all others.
const LINE_START: usize = TRANSFER_ENCODING.len();

/// Watches the bytes of a connection line by line until the head of a request is over.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The start of a line that has not ended yet.
    line: [u8; LINE_START],
    line_len: usize,
    lines: u32,
    lengths: u32,
    encodings: u32,
    over: bool,
}

impl Watch {
    /// Whether the head is over. What comes after it is body, until [`Self::restart`].
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether a head has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.lines > 0 || self.line_len > 0
    }

    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }

    /// Looks at bytes that arrived. Says how the head is framed once it is over.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> Option<Framing> {
        while !self.over {
            let Some(end) = memchr(b'\n', bytes) else {
                self.remember(bytes);
                return None;
            };
            if self.line_len == 0 {
                self.end_line(&bytes[..end]);
            } else {
                self.remember(&bytes[..end]);
                let (line, len) = (self.line, self.line_len);
                self.end_line(&line[..len]);
            }
            bytes = &bytes[end + 1..];
        }
        let twice = self.lengths + self.encodings > 1;
        Some(if twice { Framing::Ambiguous } else { Framing::Clear })
    }

    fn remember(&mut self, bytes: &[u8]) {
        let room = LINE_START - self.line_len;
        let part = &bytes[..bytes.len().min(room)];
        self.line[self.line_len..][..part.len()].copy_from_slice(part);
        self.line_len += part.len();
    }

    fn end_line(&mut self, line: &[u8]) {
        self.line_len = 0;
        let starts = |name: &[u8]| {
            line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        match line {
            // Empty lines before a request are allowed (RFC 9112 §2.2).
            [] | [b'\r'] => self.over = self.lines > 0,
            [b'c' | b'C', ..] if starts(CONTENT_LENGTH) => self.lengths += 1,
            [b't' | b'T', ..] if starts(TRANSFER_ENCODING) => self.encodings += 1,
            _ => {}
        }
        self.lines += u32::from(!matches!(line, [] | [b'\r']));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: &[(&str, Framing)] = &[
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", Framing::Clear),
        ("\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", Framing::Clear),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", Framing::Clear),
        ("POST / HTTP/1.1\nContent-Length: 3\n\n", Framing::Clear),
        ("POST / HTTP/1.1\r\nContent-Length-X: 3\r\nContent-Length: 3\r\n\r\n", Framing::Clear),
        (
            "POST / HTTP/1.1\r\nX: y\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            Framing::Ambiguous,
        ),
        (
            "POST / HTTP/1.1\r\nCONTENT-LENGTH:3\r\nTransfer-Encoding:chunked\r\n\r\n",
            Framing::Ambiguous,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding:x\r\nA: b\r\ncontent-length:3\r\n\r\n",
            Framing::Ambiguous,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Framing::Ambiguous,
        ),
    ];

    #[test]
    fn heads_are_judged_alike_however_they_are_cut() {
        for (head, expected) in HEADS {
            for cut in 0..=head.len() {
                let (first, second) = head.as_bytes().split_at(cut);
                let mut watch = Watch::default();
                let early = watch.see(first);
                assert_eq!(early.is_some(), cut == head.len(), "{head:?} at {cut}");
                let framing = early.or_else(|| watch.see(second));
                assert_eq!(framing, Some(*expected), "{head:?} at {cut}");
                assert!(watch.is_over());
            }
        }
    }

    #[test]
    fn a_body_is_not_taken_for_a_head() {
        let mut watch = Watch::default();
        let request = b"POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\nx\r\nTransfer-Encoding: y\r\n";
        assert_eq!(watch.see(request), Some(Framing::Clear));
    }
}
