//! PostgreSQL: a server, its standbys, and a pooler before it.

mod pgbouncer;
mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::nest::Nest;
use super::process::Process;
use super::tls::{Tls, value};
use super::{Error, Missing, PORTS_TRIED_MAX, START_MAX, Waiting, ports, programs, wait_for};
use tools::{Tools, knock, output};

pub use pgbouncer::PgBouncer;

/// User, password and database are all called so.
const NAME: &str = "semel";

/// The settings of a server that must not lose a commit. A caller's settings come after these
/// and win.
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

/// Who may come in to a server with TLS: nobody without.
const TLS_ONLY: &str = "\
hostssl all         all 127.0.0.1/32 scram-sha-256
hostssl replication all 127.0.0.1/32 scram-sha-256
";

/// A PostgreSQL server that answers. See [`servers`](super) for what holds for all servers.
///
/// It lets in the user `semel` with a password, who may do everything. It refuses to run as
/// root; root's tests run it as `postgres` or else as `nobody`.
#[derive(Debug)]
pub struct Postgres {
    // First, so that it is dropped first: it kills and removes, the rest only reaps.
    nest: Nest,
    tools: Tools,
    tls: Option<Tls>,
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
        let mut server = Self::with_data(Tools::init)?;
        server.set(&SETTINGS);
        server.set(settings);
        server.on_a_free_port()
    }

    /// Starts one that lets nobody in without TLS. Clients have to trust its
    /// [`root_certificate`](Self::root_certificate); what a URL calls that differs between them,
    /// so `url` says nothing of it.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with_tls() -> Result<Self, Error> {
        let mut server = Self::with_data(Tools::init)?;
        let tls = Tls::new(&server.nest)?;
        server.tools.own(tls.key.clone())?;
        server.tools.own(tls.certificate.clone())?;
        std::fs::write(server.data.join("pg_hba.conf"), TLS_ONLY)
            .map_err(Error::of("pg_hba.conf"))?;
        server.set(&SETTINGS);
        let (certificate, key) = (value(&tls.certificate), value(&tls.key));
        server.set(&[("ssl", "on"), ("ssl_cert_file", &certificate), ("ssl_key_file", &key)]);
        server.tls = Some(tls);
        server.on_a_free_port()
    }

    /// Starts a hot standby of this server: it can be read, and follows every write.
    ///
    /// # Errors
    ///
    /// When this server cannot be copied, and as [`start`](Self::start).
    pub fn replica(&self) -> Result<Self, Error> {
        let mut replica = Self::with_data(|tools, _, data| {
            let mut copy = tools.command("pg_basebackup");
            copy.arg("-D").arg(data).args(["--dbname", &self.url(), "--write-recovery-conf"]);
            copy.args(["--wal-method=stream", "--checkpoint=fast", "--no-sync"]);
            output(&mut copy).map(drop)
        })?;
        replica.settings.clone_from(&self.settings);
        // The same certificate, so that a client that moves over trusts it as well.
        replica.tls.clone_from(&self.tls);
        replica.on_a_free_port()
    }

    /// One that has data and does not run yet.
    fn with_data(
        fill: impl FnOnce(&Tools, &Nest, &Path) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let tools = Tools::find()?;
        let nest = Nest::new("postgres")?;
        let data = tools.own(nest.subfolder("data")?)?;
        fill(&tools, &nest, &data)?;
        Ok(Self { nest, tools, tls: None, data, port: 0, settings: Vec::new(), process: None })
    }

    fn set(&mut self, settings: &[(&str, &str)]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        self.settings.extend(settings.iter().map(owned));
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
        url(self.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate (PEM) that a client has to trust, if there is TLS.
    #[must_use]
    pub fn root_certificate(&self) -> Option<&Path> {
        self.tls.as_ref().map(|tls| &*tls.root)
    }

    /// Runs SQL through `psql` and returns what it prints: a line a row, columns parted by `|`.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses a statement.
    pub fn sql(&self, statements: &str) -> Result<String, Error> {
        self.tools.sql(&self.url(), statements)
    }

    /// Makes a standby a server of its own that can be written to; it follows nobody any more.
    ///
    /// # Errors
    ///
    /// When it is no standby, or does not end its recovery within a minute.
    pub fn promote(&self) -> Result<(), Error> {
        match &*self.sql("SELECT pg_promote(true, 60)")? {
            "t" => Ok(()),
            _ => Err(Error::new("the standby does not become a primary, even after a minute")),
        }
    }

    /// Waits until this standby shows all that the primary has committed so far.
    ///
    /// # Errors
    ///
    /// When it has not caught up within a minute.
    pub fn catch_up(&self, primary: &Self) -> Result<(), Error> {
        let place = primary.sql("SELECT pg_current_wal_flush_lsn()")?;
        let is_there = format!("SELECT pg_last_wal_replay_lsn() >= '{place}'");
        wait_for(START_MAX, || match self.sql(&is_there) {
            Ok(there) if there == "t" => Ok(()),
            Ok(_) => Err(Waiting::NotYet(Error::new("the standby lags behind"))),
            Err(error) => Err(Waiting::NotYet(error)),
        })
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
        let mut command = self.tools.command("postgres");
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        for (name, value) in &self.settings {
            command.args(["-c", &format!("{name}={value}")]);
        }
        let log = self.nest.folder().join("postgres.log");
        self.process = Some(serve(&mut command, &self.nest, &log, self.port)?);
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

fn url(port: u16) -> String {
    format!("postgres://{NAME}:{NAME}@127.0.0.1:{port}/{NAME}")
}

/// Starts what speaks PostgreSQL's protocol, and waits until it asks for a password.
fn serve(command: &mut Command, nest: &Nest, log: &Path, port: u16) -> Result<Process, Error> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let failed = format!("{} does not start", program.to_string_lossy());
    let mut process = Process::spawn(command, nest, log)?;
    process.wait_until_ready(START_MAX, || knock(port)).map_err(Error::of(failed))?;
    Ok(process)
}
