//! A connection pooler before a PostgreSQL.

use std::path::PathBuf;

use super::super::nest::Nest;
use super::super::process::Process;
use super::super::{Error, Missing, PORTS_TRIED_MAX, ports, programs};
use super::tools::Tools;
use super::{NAME, Postgres, serve, url};

/// A PgBouncer that pools by transaction: what a session leaves behind may be seen by any other,
/// or be gone. See [`servers`](super::super) for what holds for all servers.
#[derive(Debug)]
pub struct PgBouncer {
    // First, so that it is dropped first: it kills and removes, the rest only reaps.
    nest: Nest,
    tools: Tools,
    program: PathBuf,
    port: u16,
    process: Option<Process>,
}

impl PgBouncer {
    /// What is not there to start one.
    #[must_use]
    pub fn missing() -> Option<Missing> {
        let missing = Missing { program: "pgbouncer", way: "apt-get install pgbouncer" };
        let is_here = programs::find_of_root(missing.program).is_some();
        Postgres::missing().or_else(|| (!is_here).then_some(missing))
    }

    /// Starts one with twenty connections to the server and room for a thousand clients.
    ///
    /// # Errors
    ///
    /// When it does not answer within a minute; the message holds the end of its log.
    pub fn start(postgres: &Postgres) -> Result<Self, Error> {
        Self::with(postgres, &[])
    }

    /// Starts one with these settings of the section `pgbouncer` on top.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with(postgres: &Postgres, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let program = programs::find_of_root("pgbouncer");
        let program = program.ok_or_else(|| Error::new("the program `pgbouncer` is missing"))?;
        let (tools, nest) = (postgres.tools.clone(), Nest::new("pgbouncer")?);
        let users = tools.own(nest.file("users.txt", &format!("\"{NAME}\" \"{NAME}\"\n"))?)?;
        let users = users.to_string_lossy().into_owned();
        let mut pooler = Self { nest, tools, program, port: 0, process: None };
        let mut last = Error::new("no port was tried");
        for _ in 0..PORTS_TRIED_MAX {
            pooler.port = ports::free()?;
            let port = pooler.port.to_string();
            let own = [
                ("listen_addr", "127.0.0.1"),
                ("listen_port", &*port),
                ("unix_socket_dir", ""),
                ("auth_type", "scram-sha-256"),
                ("auth_file", &*users),
                ("admin_users", NAME),
                ("pool_mode", "transaction"),
                // Releases differ in what they do by themselves.
                ("server_tls_sslmode", "prefer"),
                ("default_pool_size", "20"),
                ("max_client_conn", "1000"),
                // Drivers set it as they connect; it changes nothing that could leak.
                ("ignore_startup_parameters", "extra_float_digits"),
            ];
            let mut text =
                format!("[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\n", postgres.port());
            for (name, value) in own.iter().chain(settings) {
                text += &format!("{name} = {value}\n");
            }
            pooler.tools.own(pooler.nest.file("pgbouncer.ini", &text)?)?;
            match pooler.start_again() {
                Ok(()) => return Ok(pooler),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// How to reach the server through it as `semel`.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL through `psql`, as [`Postgres::sql`] does.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses a statement.
    pub fn sql(&self, statements: &str) -> Result<String, Error> {
        self.tools.sql(&self.url(), statements)
    }

    /// Crashes it (`SIGKILL`). Nothing happens when it does not run.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same port.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_again(&mut self) -> Result<(), Error> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = self.tools.command(&self.program);
        command.arg(self.nest.folder().join("pgbouncer.ini"));
        let log = self.nest.folder().join("pgbouncer.log");
        self.process = Some(serve(&mut command, &self.nest, &log, self.port)?);
        Ok(())
    }

    /// Stops it where it is; its connections stay open.
    pub fn freeze(&self) {
        self.process.iter().for_each(Process::freeze);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.iter().for_each(Process::thaw);
    }
}
