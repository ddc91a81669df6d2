//! PostgreSQL's programs, and who may run them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{User, geteuid};

use super::super::nest::Nest;
use super::super::{Error, programs};
use super::NAME;

/// PostgreSQL's programs and the user to run them as.
#[derive(Clone, Debug)]
pub(super) struct Tools {
    folder: PathBuf,
    /// None: as ourselves.
    user: Option<User>,
}

impl Tools {
    pub(super) fn find() -> Result<Self, Error> {
        let folder = programs::postgres_folder();
        let folder = folder.ok_or_else(|| Error::new("the programs of PostgreSQL are missing"))?;
        if !geteuid().is_root() {
            return Ok(Self { folder, user: None });
        }
        let known = |name| User::from_name(name).ok().flatten();
        match known("postgres").or_else(|| known("nobody")) {
            Some(user) => Ok(Self { folder, user: Some(user) }),
            None => Err(Error::new("postgres does not run as root, and no other user is there")),
        }
    }

    /// One of PostgreSQL's programs, or another one by its full path, as the server's user.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(self.folder.join(program));
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        // Where we stand, and what is ours at home, may be closed to that user.
        command.current_dir("/").env("HOME", "/");
        command
    }

    /// Gives a file or folder to the user of the server and to nobody else.
    pub(super) fn own(&self, path: PathBuf) -> Result<PathBuf, Error> {
        use std::os::unix::fs::PermissionsExt;
        let at = || Error::of::<std::io::Error>(format!("{}", path.display()));
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).map_err(at())?;
        if let Some(user) = &self.user {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(at())?;
        }
        Ok(path)
    }

    /// A new data folder with the user and the database.
    pub(super) fn init(&self, nest: &Nest, data: &Path) -> Result<(), Error> {
        let password = self.own(nest.file("password", NAME)?)?;
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(data).arg("--pwfile").arg(password);
        initdb.args(["--username", NAME, "--auth", "scram-sha-256"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-sync"]);
        output(&mut initdb)?;
        // The server alone, without a network: the database is there before anybody can ask.
        let statement = nest.file("database.sql", &format!("CREATE DATABASE {NAME}\n"))?;
        let statement = std::fs::File::open(statement).map_err(Error::of("database.sql"))?;
        let mut single = self.command("postgres");
        single.args(["--single", "-c", "fsync=off", "-D"]).arg(data).arg("postgres");
        output(single.stdin(statement))?;
        Ok(())
    }

    /// Runs statements through `psql`.
    pub(super) fn sql(&self, url: &str, statements: &str) -> Result<String, Error> {
        let mut psql = Command::new(self.folder.join("psql"));
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet"]);
        psql.args(["--set", "ON_ERROR_STOP=1", "--command", statements, url]);
        output(psql.env_remove("PGOPTIONS"))
    }
}

/// Runs a command to its end and returns what it printed; an error carries its last words.
pub(super) fn output(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::piped()).output();
    let output = output.map_err(Error::of(format!("`{name}` cannot be started")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("`{name}` failed ({}): {}", output.status, said.trim())))
}

/// Introduces itself as a client would. A server that is up asks for the password, or refuses
/// this client for good.
pub(super) fn knock(port: u16) -> Result<(), Error> {
    let bound = Duration::from_secs(5);
    let answer = || -> std::io::Result<Vec<u8>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, bound)?;
        stream.set_read_timeout(Some(bound))?;
        let words = format!("user\0{NAME}\0database\0{NAME}\0\0");
        let length = u32::try_from(words.len() + 8).unwrap_or_default();
        // Its length, version 3.0 of the protocol, and who we are.
        let packet =
            [&length.to_be_bytes()[..], &0x0003_0000_u32.to_be_bytes(), words.as_bytes()].concat();
        stream.write_all(&packet)?;
        let mut answer = [0; 512];
        let count = stream.read(&mut answer)?;
        Ok(answer[..count].to_vec())
    };
    let answer = answer().map_err(Error::of("no answer"))?;
    let says = |words: &[u8]| answer.windows(words.len()).any(|place| place == words);
    match answer.first() {
        Some(b'R') => Ok(()),
        // Any refusal but `cannot_connect_now`, for instance that there is no TLS.
        Some(b'E') if !says(b"C57P03\0") => Ok(()),
        _ => Err(Error::new("it takes no connections yet")),
    }
}
