//! What all processes on one prefix share: the form of the records, and a secret.

use std::sync::OnceLock;

use redis::{RedisError, Value};
use semel::{Error, ErrorKind, Random, SystemRandom};

use super::fault::Fault;
use super::link::Wire;
use super::names::Names;

/// The form of the keys and records on a server; a server with another one is refused.
const FORMAT: &[u8] = b"1";

#[derive(Debug)]
pub(super) struct Meta {
    name: String,
    create: bool,
    /// Ours if the server has none.
    fresh: [u8; 32],
    /// The server's, once it was seen.
    secret: OnceLock<[u8; 32]>,
}

impl Meta {
    pub(super) fn new(names: &Names, create: bool) -> Result<Self, Error> {
        let mut fresh = [0; 32];
        SystemRandom.fill(&mut fresh)?;
        Ok(Self { name: names.meta(), create, fresh, secret: OnceLock::new() })
    }

    /// The shared secret; all zeros before the first connection.
    pub(super) fn secret(&self) -> &[u8; 32] {
        self.secret.get().unwrap_or(&[0; 32])
    }

    /// Looks at the records behind a fresh connection, and makes the server ready for the first
    /// ones. A server that lost everything gets the secret back that its other processes know.
    pub(super) async fn check(&self, wire: &mut Wire) -> Result<(), Fault> {
        if self.create || self.secret.get().is_some() {
            let secret = self.secret.get().unwrap_or(&self.fresh);
            for (field, value) in [("format", FORMAT), ("secret", &secret[..])] {
                let mut command = redis::cmd("HSETNX");
                command.arg(&self.name).arg(field).arg(value);
                ask(wire, &command).await?;
            }
        }
        let (format, secret) = (self.read(wire, "format").await?, self.read(wire, "secret").await?);
        self.judge(&format, &secret)
    }

    fn judge(&self, format: &[u8], secret: &[u8]) -> Result<(), Fault> {
        let prefix = self.name.trim_end_matches("meta");
        if format.is_empty() {
            let what = format!(
                "it has no records with prefix `{prefix}`: no program has used it yet; start one \
                 first (`semel proxy`), or correct the store URL (host, database, `prefix=`)"
            );
            return Err(Fault::lasting(ErrorKind::Unavailable, what));
        }
        if format != FORMAT {
            let (format, known) =
                (String::from_utf8_lossy(format), String::from_utf8_lossy(FORMAT));
            let what = format!(
                "its records with prefix `{prefix}` have form `{}`, this program knows {known}; \
                 upgrade it",
                format.escape_debug()
            );
            return Err(Fault::lasting(ErrorKind::TooNew, what));
        }
        let Ok(secret) = <[u8; 32]>::try_from(secret) else {
            let what = format!("the secret in `{}` is damaged; restore it from a copy", self.name);
            return Err(Fault::lasting(ErrorKind::Corrupt, what));
        };
        if *self.secret.get_or_init(|| secret) == secret {
            return Ok(());
        }
        let what = format!(
            "the secret in `{}` has changed, so its records are those of another store; start this \
             process anew if that is meant",
            self.name
        );
        Err(Fault::lasting(ErrorKind::Settings, what))
    }

    async fn read(&self, wire: &mut Wire, field: &str) -> Result<Vec<u8>, Fault> {
        let mut command = redis::cmd("HGET");
        command.arg(&self.name).arg(field);
        Ok(match ask(wire, &command).await? {
            Value::BulkString(value) => value,
            _ => Vec::new(),
        })
    }
}

async fn ask(wire: &mut Wire, command: &redis::Cmd) -> Result<Value, Fault> {
    let failed = |error: RedisError| Fault::of(&error).of_a_question();
    wire.ask(command).await.map_err(failed)
}
