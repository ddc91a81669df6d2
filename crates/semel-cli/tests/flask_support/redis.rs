//! Just enough Redis to read the handler's counter.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use super::variable;

/// The Redis that `xtask` started for this run.
pub(crate) struct Redis {
    pub(crate) host: String,
    pub(crate) port: String,
}

impl Redis {
    pub(crate) fn from_environment() -> Self {
        let url = variable("SEMEL_TEST_REDIS_URL");
        let address = url.strip_prefix("redis://").and_then(|rest| rest.split_once(':'));
        let (host, port) = address.unwrap_or_else(|| panic!("{url}: must be redis://HOST:PORT"));
        Self { host: host.to_owned(), port: port.to_owned() }
    }

    /// How often the handler ran for this key, by its own count.
    pub(crate) fn orders(&self, key: &str) -> u64 {
        let stream = TcpStream::connect(format!("{}:{}", self.host, self.port)).expect("Redis");
        let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut say = |line: &str| {
            (&stream).write_all(format!("{line}\r\n").as_bytes()).expect("Redis listens");
            let mut answer = String::new();
            reader.read_line(&mut answer).expect("Redis answers");
            answer
        };
        assert_eq!(say("SELECT 1"), "+OK\r\n");
        if say(&format!("EXISTS orders:{key}")) == ":0\r\n" {
            return 0;
        }
        say(&format!("GET orders:{key}"));
        let mut count = String::new();
        reader.read_line(&mut count).expect("Redis answers");
        count.trim().parse().unwrap_or_else(|_| panic!("orders:{key} is {count:?}"))
    }
}
