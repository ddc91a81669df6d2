//! A client as people write them: one connection a request, a time-out, no magic.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came of a request.
#[derive(Debug)]
pub(super) enum Heard {
    Answer(Answer),
    /// Nothing, in the time the client had or because the connection was cut.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn is_replayed(&self) -> bool {
        self.head.to_ascii_lowercase().contains("idempotent-replayed: true")
    }

    /// Whether it is the problem of this slug.
    pub(super) fn is_problem(&self, slug: &str) -> bool {
        self.body.contains(&format!("/problems/{slug}\""))
    }
}

/// An order that a client wants, and the key under which it asks for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) key: &'a str,
    pub(super) work_ms: u64,
    pub(super) crashes: bool,
}

pub(super) fn post(address: SocketAddr, order: Order<'_>, patience: Duration) -> Heard {
    let body = format!("{{\"item\":\"book\",\"work_ms\":{}}}", order.work_ms);
    let crash = if order.crashes { "Demo-Crash: after-order\r\n" } else { "" };
    let request = format!(
        "POST /orders HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{crash}\
         Idempotency-Key: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        order.key,
        body.len()
    );
    exchange(address, &request, patience)
}

pub(super) fn get(address: SocketAddr, path: &str) -> Heard {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    exchange(address, &request, Duration::from_secs(5))
}

/// The number under this name in the service's answer.
pub(super) fn number(address: SocketAddr, path: &str, name: &str) -> Option<u64> {
    let Heard::Answer(answer) = get(address, path) else { return None };
    serde_json::from_str::<serde_json::Value>(&answer.body).ok()?[name].as_u64()
}

fn exchange(address: SocketAddr, request: &str, patience: Duration) -> Heard {
    read(address, request, patience).map_or(Heard::Nothing, Heard::Answer)
}

fn read(address: SocketAddr, request: &str, patience: Duration) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
