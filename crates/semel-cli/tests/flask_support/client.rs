//! Raw HTTP/1.1, so that nothing between the test and the socket retries or reorders.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

/// Nothing here takes this long unless it hangs.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// A thousand threads with default stacks would reserve gigabytes.
const STACK_BYTES: usize = 128 * 1024;

/// One HTTP answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Sends `count` equal requests at one moment, alternating between the addresses, and returns
/// every answer. A request that gets none fails the test.
pub(crate) fn storm(addresses: &[SocketAddr], key: &str, count: usize) -> Vec<Answer> {
    let barrier = Arc::new(Barrier::new(count));
    let senders = (0..count).map(|index| {
        let address = addresses[index % addresses.len()];
        let request = request(address, key);
        let barrier = Arc::clone(&barrier);
        let send = move || {
            // All are connected before anybody sends. A failure to connect must not keep the
            // others waiting for this one, so it is looked at only after the barrier.
            let stream = TcpStream::connect(address);
            barrier.wait();
            stream.and_then(|stream| exchange(stream, &request)).expect("an answer")
        };
        thread::Builder::new().stack_size(STACK_BYTES).spawn(send).expect("a thread")
    });
    let senders: Vec<_> = senders.collect();
    senders.into_iter().map(|sender| sender.join().expect("a sender must not panic")).collect()
}

fn request(address: SocketAddr, key: &str) -> String {
    let body = r#"{"item": "book"}"#;
    format!(
        "POST /orders HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nIdempotency-Key: {key}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn exchange(mut stream: TcpStream, request: &str) -> std::io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(Answer::parse(&bytes))
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let answer = Self {
            status: status.unwrap_or_else(|| panic!("no status line: {text:?}")),
            headers: lines.filter_map(header).collect(),
            body: bytes[end + 4..].to_vec(),
        };
        // A body cut short must not pass for a whole one.
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        assert_eq!(length, Some(answer.body.len()), "the body has another length: {text:?}");
        answer
    }

    /// The first header of this name, which is given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
