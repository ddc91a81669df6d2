//! What a broker says of its cluster: as much of Kafka's protocol as one question needs.
//!
//! It asks for all topics (`Metadata`, version 1, which every broker since 0.10 knows). A broker
//! takes no request before it is a full member of its cluster, so an answer says more than an open
//! port does, and it takes a millisecond where one of Kafka's tools takes a second.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::Error;

/// How long one step of the conversation may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long an answer may be.
const LENGTH_MAX: usize = 16 * 1024 * 1024;

const CLIENT: &str = "semel-testkit";

/// What a broker knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) brokers: Vec<usize>,
    pub(super) partitions: Vec<Partition>,
}

/// A partition of a topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) number: u32,
    pub(super) leader: Option<usize>,
    /// Every replica has what the leader has.
    pub(super) is_in_sync: bool,
}

/// Asks the broker at `HOST:PORT`.
pub(super) fn ask(address: &str) -> Result<Metadata, Error> {
    let answer = converse(address).map_err(Error::of(format!("{address} does not answer")))?;
    let told = Answer(&answer).metadata();
    told.ok_or_else(|| Error::new(format!("{address} answers something else than Kafka does")))
}

fn converse(address: &str) -> std::io::Result<Vec<u8>> {
    let host = address.to_socket_addrs()?.next();
    let host = host.ok_or_else(|| std::io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&host, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.write_all(&question())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > LENGTH_MAX {
        return Err(std::io::Error::other(format!("{length} bytes are too long an answer")));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Its length, the question's number and version, a number of ours, our name, and no list of
/// topics, which means all.
fn question() -> Vec<u8> {
    let name_length = u16::try_from(CLIENT.len()).unwrap_or_default();
    let parts = [
        &3_u16.to_be_bytes()[..],
        &1_u16.to_be_bytes(),
        &0_u32.to_be_bytes(),
        &name_length.to_be_bytes(),
        CLIENT.as_bytes(),
        &(-1_i32).to_be_bytes(),
    ];
    let words = parts.concat();
    let length = u32::try_from(words.len()).unwrap_or_default();
    [&length.to_be_bytes()[..], &words].concat()
}

/// What is left of an answer. Everything is none when it is cut short.
struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn metadata(mut self) -> Option<Metadata> {
        let _our_number = self.number()?;
        let mut brokers = Vec::new();
        for _ in 0..self.number()? {
            brokers.push(usize::try_from(self.number()?).ok()?);
            let (_host, _port, _rack) = (self.text()?, self.number()?, self.text()?);
        }
        let _controller = self.number()?;
        let mut partitions = Vec::new();
        for _ in 0..self.number()? {
            let (_error, topic, _is_internal) = (self.short()?, self.text()?, self.take(1)?);
            for _ in 0..self.number()? {
                partitions.push(self.partition(topic)?);
            }
        }
        Some(Metadata { brokers, partitions })
    }

    fn partition(&mut self, topic: &str) -> Option<Partition> {
        let _error = self.short()?;
        let number = u32::try_from(self.number()?).ok()?;
        // -1 when nobody leads it.
        let leader = usize::try_from(self.number()?).ok();
        let (replicas, in_sync) = (self.numbers()?, self.numbers()?);
        let is_in_sync = replicas.len() == in_sync.len();
        Some(Partition { topic: topic.to_owned(), number, leader, is_in_sync })
    }

    fn numbers(&mut self) -> Option<Vec<i32>> {
        (0..self.number()?).map(|_| self.number()).collect()
    }

    /// Empty when there is none.
    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.short()?).unwrap_or(0);
        str::from_utf8(self.take(length)?).ok()
    }

    fn short(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One broker, number 7, and the topic `t` with one partition that nobody leads.
    fn answer() -> Vec<u8> {
        let numbers =
            |them: &[i32]| -> Vec<u8> { them.iter().flat_map(|it| it.to_be_bytes()).collect() };
        [
            numbers(&[0, 1, 7]),
            [&[0, 9][..], b"127.0.0.1"].concat(),
            numbers(&[9_092]),
            vec![0xff, 0xff],
            numbers(&[7, 1]),
            [&[0, 0, 0, 1][..], b"t", &[0]].concat(),
            numbers(&[1]),
            vec![0, 5],
            numbers(&[0, -1, 2, 7, 8, 1, 7]),
        ]
        .concat()
    }

    #[test]
    fn an_answer_tells_the_brokers_and_who_leads_what() {
        let partition =
            Partition { topic: "t".to_owned(), number: 0, leader: None, is_in_sync: false };
        let wanted = Metadata { brokers: vec![7], partitions: vec![partition] };
        assert_eq!(Answer(&answer()).metadata(), Some(wanted));
    }

    #[test]
    fn an_answer_that_is_cut_short_is_none() {
        let answer = answer();
        assert!((0..answer.len()).all(|length| Answer(&answer[..length]).metadata().is_none()));
    }
}
