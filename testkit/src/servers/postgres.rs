//! One PostgreSQL server.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{User, geteuid};

use super::nest::Nest;
use super::process::Process;
use super::{Error, Missing, PORTS_TRIED_MAX, START_MAX, ports, programs};

/// User, password and database are all called so.
const NAME: &str = "semel";

/// The settings of a server that must not lose a commit, except that they save memory and start
/// fast. A caller's settings come after these and win.
const SETTINGS: [(&str, &str); 9] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("max_connections", "200"),
    // Its files lie in the data folder and go with it, even after a crash.
    ("dynamic_shared_memory_type", "mmap"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("hot_standby", "on"),
];

/// A PostgreSQL server that answers. See [`servers`](super) for what holds for all servers.
///
/// It lets in the user `semel` with a password, who may do everything. It refuses to run as
/// root; root's tests run it as `postgres` or else as `nobody`.
#[derive(Debug)]
pub struct Postgres {
    // First, so that it is dropped first: it kills and removes, the rest only reaps.
    nest: Nest,
    programs: Programs,
    data: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    process: Option<Process>,
}

impl Postgres {
    /// What is not there to start one.
    #[must_use]
    pub fn missing() -> Option<Missing> {
        let missing = Missing { program: "postgres", way: "apt-get install postgresql" };
        programs::postgres_folder().is_none().then_some(missing)
    }

    /// Starts one that keeps every commit: `fsync` and `synchronous_commit` are on.
    ///
    /// # Errors
    ///
    /// When it does not answer within a minute; the message holds the end of its log.
    pub fn start() -> Result<Self, Error> {
        Self::with(&[])
    }

    /// Starts one with these settings of `postgresql.conf` on top.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with(settings: &[(&str, &str)]) -> Result<Self, Error> {
        let programs = Programs::find()?;
        let nest = Nest::new("postgres")?;
        let data = programs.own(nest.subfolder("data")?)?;
        programs.init(&nest, &data)?;
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings = SETTINGS.iter().chain(settings).map(owned).collect();
        Self { nest, programs, data, port: 0, settings, process: None }.on_a_free_port()
    }

    fn on_a_free_port(mut self) -> Result<Self, Error> {
        let mut last = Error::new("no port was tried");
        for _ in 0..PORTS_TRIED_MAX {
            self.port = ports::free()?;
            match self.start_again() {
                Ok(()) => return Ok(self),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// How to reach it as `semel`, who owns the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{NAME}:{NAME}@127.0.0.1:{}/{NAME}", self.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL through `psql` and returns what it prints: a line a row, columns parted by `|`.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses a statement.
    pub fn sql(&self, statements: &str) -> Result<String, Error> {
        let mut psql = Command::new(self.programs.folder.join("psql"));
        psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet"]);
        psql.args(["--set", "ON_ERROR_STOP=1", "--command", statements, &self.url()]);
        output(psql.env_remove("PGOPTIONS"))
    }

    /// Crashes it: `SIGKILL` for the server and all its children. Nothing happens when it does
    /// not run.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again in the same folder on the same port, and waits until it has recovered.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_again(&mut self) -> Result<(), Error> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = self.programs.command("postgres");
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        for (name, value) in &self.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let log = self.nest.folder().join("postgres.log");
        let mut process = Process::spawn(&mut command, &self.nest, &log)?;
        process
            .wait_until_ready(START_MAX, || knock(self.port))
            .map_err(Error::of("postgres does not start"))?;
        self.process = Some(process);
        Ok(())
    }

    /// Stops all its processes where they are; their connections stay open.
    pub fn freeze(&self) {
        self.process.iter().for_each(Process::freeze);
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.process.iter().for_each(Process::thaw);
    }
}

/// PostgreSQL's programs and the user to run them as.
#[derive(Clone, Debug)]
struct Programs {
    folder: PathBuf,
    /// None: as ourselves.
    user: Option<User>,
}

impl Programs {
    fn find() -> Result<Self, Error> {
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

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        // Where we stand may be closed to that user.
        command.current_dir("/");
        command
    }

    /// Gives a file or folder to the user of the server and to nobody else.
    fn own(&self, path: PathBuf) -> Result<PathBuf, Error> {
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
    fn init(&self, nest: &Nest, data: &Path) -> Result<(), Error> {
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
}

/// Runs a command to its end and returns what it printed; an error carries its last words.
fn output(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::piped()).output();
    let output = output.map_err(Error::of(format!("`{name}` cannot be started")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("`{name}` failed ({}): {}", output.status, said.trim())))
}

/// Introduces itself as a client would; a server that is ready asks for the password.
fn knock(port: u16) -> Result<(), Error> {
    let bound = Duration::from_secs(5);
    let answer = || -> std::io::Result<[u8; 1]> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, bound)?;
        stream.set_read_timeout(Some(bound))?;
        let words = format!("user\0{NAME}\0database\0{NAME}\0\0");
        let length = u32::try_from(words.len() + 8).unwrap_or_default();
        // Its length, version 3.0 of the protocol, and who we are.
        let packet =
            [&length.to_be_bytes()[..], &0x0003_0000_u32.to_be_bytes(), words.as_bytes()].concat();
        stream.write_all(&packet)?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        Ok(kind)
    };
    match answer() {
        // `R`: it wants to know who is there. Anything else says that it is not up yet.
        Ok([b'R']) => Ok(()),
        Ok(_) => Err(Error::new("it takes no connections yet")),
        Err(error) => Err(Error::new(format!("no answer: {error}"))),
    }
}
