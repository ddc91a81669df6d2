//! A client that keeps its connection, so that many requests cost little.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A connection to one proxy.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// An answer, as far as these tests look at it.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) is_replayed: bool,
    pub(crate) may_retry: bool,
    pub(crate) body: String,
}

impl Client {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Orders under this key. The upstream names key and execution in its answer.
    pub(crate) async fn order(&mut self, key: &str) -> Heard {
        let request = format!(
            "POST /named HTTP/1.1\r\nHost: shop\r\nIdempotency-Key: {key}\r\n\
             Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{{\"item\":\"book\"}}"
        );
        self.stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        self.read().await
    }

    async fn read(&mut self) -> Heard {
        let (mut status, mut length) = (0, 0);
        let (mut is_replayed, mut may_retry) = (false, false);
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).await.unwrap();
            assert!(line.ends_with("\r\n"), "the proxy hung up within {line:?}");
            let text = line.trim_end();
            if text.is_empty() {
                break;
            }
            match text.split_once(": ") {
                None => status = text.split(' ').nth(1).unwrap().parse().unwrap(),
                Some((name, value)) => match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.parse().unwrap(),
                    "idempotent-replayed" => is_replayed = value == "true",
                    "retry-after" => may_retry = true,
                    _ => {}
                },
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        Heard { status, is_replayed, may_retry, body: String::from_utf8(body).unwrap() }
    }
}

impl Heard {
    /// Another call with this key is executing, and the client is told to come again.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.status == 409 && self.may_retry && self.body.contains("/problems/in-flight\"")
    }
}

/// What the upstream answers to the first execution of a key.
pub(crate) fn first_answer(key: &str) -> String {
    format!("{{\"key\":\"{key}\",\"execution\":1}}")
}
