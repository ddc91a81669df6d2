//! As much of Redis' protocol as it takes to start a server and to look into it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::Error;

/// Longer than a server that is alive needs, even on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What a Redis answers when it does not refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// There is no such value.
    Nothing,
    /// A number.
    Number(i64),
    /// A status or a value.
    Text(String),
    /// Several of them.
    List(Vec<Reply>),
}

impl Reply {
    /// The text; empty when it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Nothing | Self::Number(_) | Self::List(_) => "",
        }
    }

    /// The elements; none when it is not a list.
    #[must_use]
    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            Self::Nothing | Self::Number(_) | Self::Text(_) => &[],
        }
    }
}

/// One connection.
pub(super) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects, and logs in when there are words for `AUTH`.
    pub(super) fn open(port: u16, auth: &[&str]) -> Result<Self, Error> {
        let at = Error::of::<std::io::Error>;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)
            .map_err(at(format!("{address} cannot be reached")))?;
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(at("no bound for reading".to_owned()))?;
        let mut connection = Self(BufReader::new(stream));
        if !auth.is_empty() {
            connection.ask(&[&["AUTH"], auth].concat())?;
        }
        Ok(connection)
    }

    /// Sends one command and returns the answer; a refusal is an error.
    pub(super) fn ask(&mut self, words: &[&str]) -> Result<Reply, Error> {
        let name = words.first().copied().unwrap_or_default();
        let at = || Error::of::<std::io::Error>(format!("no answer to {name}"));
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(request.as_bytes()).map_err(at())?;
        let reply = self.read().map_err(at())?;
        reply.map_err(|refusal| Error::new(format!("{name} is refused: {refusal}")))
    }

    fn read(&mut self) -> std::io::Result<Result<Reply, String>> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
        let number = || rest.parse::<i64>().map_err(|_| strange(&line));
        Ok(match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => Err(rest.to_owned()),
            ":" => Ok(Reply::Number(number()?)),
            "$" => match usize::try_from(number()?) {
                Ok(length) => Ok(Reply::Text(self.bulk(length)?)),
                Err(_) => Ok(Reply::Nothing),
            },
            "*" => {
                let elements = (0..number()?).map(|_| self.read());
                elements.collect::<std::io::Result<Result<Vec<_>, _>>>()?.map(Reply::List)
            }
            _ => return Err(strange(&line)),
        })
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        }
    }

    fn bulk(&mut self, length: usize) -> std::io::Result<String> {
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn strange(line: &str) -> std::io::Error {
    std::io::Error::other(format!("not Redis' protocol: {line:?}"))
}
