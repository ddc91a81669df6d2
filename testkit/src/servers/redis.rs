//! One Redis server.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::nest::Nest;
use super::process::Process;
use super::resp::{Connection, Reply};
use super::{Error, Missing, PORTS_TRIED_MAX, START_MAX, ports, programs};

/// What every server of the kit keeps to, unless it is told otherwise: an append-only file that
/// reaches the disk within a second, and no eviction.
const SETTINGS: [(&str, &str); 6] = [
    ("bind", "127.0.0.1"),
    ("daemonize", "no"),
    ("save", "\"\""),
    ("appendonly", "yes"),
    ("appendfsync", "everysec"),
    ("maxmemory-policy", "noeviction"),
];

/// A Redis server that answers. See [`servers`](super) for what holds for all servers.
#[derive(Debug)]
pub struct Redis {
    // First, so that it is dropped first: it kills and removes, the rest only reaps.
    nest: Nest,
    node: Node,
    login: Login,
}

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Login {
    user: String,
    password: String,
}

impl Redis {
    /// What is not there to start one.
    #[must_use]
    pub fn missing() -> Option<Missing> {
        let missing = Missing { program: "redis-server", way: "apt-get install redis-server" };
        programs::find(missing.program).is_none().then_some(missing)
    }

    /// Starts one that writes an append-only file (`appendfsync everysec`) and evicts nothing.
    ///
    /// # Errors
    ///
    /// When it does not answer within a minute; the message holds the end of its log.
    pub fn start() -> Result<Self, Error> {
        Self::with(&[])
    }

    /// Starts one with these settings of `redis.conf` on top.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with(settings: &[(&str, &str)]) -> Result<Self, Error> {
        Self::launch(settings, Login::default())
    }

    /// Starts one that asks for this password.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with_password(password: &str) -> Result<Self, Error> {
        let login = Login { user: String::new(), password: password.to_owned() };
        Self::launch(&[("requirepass", password)], login)
    }

    /// Starts one that only lets this user in, who may do everything to every key.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn with_user(user: &str, password: &str) -> Result<Self, Error> {
        let rule = format!("{user} on >{password} ~* &* +@all");
        let login = Login { user: user.to_owned(), password: password.to_owned() };
        Self::launch(&[("user", "default off"), ("user", &rule)], login)
    }

    fn launch(settings: &[(&str, &str)], login: Login) -> Result<Self, Error> {
        let nest = Nest::new("redis")?;
        let node = Node::start(&nest, "server", settings, &login.words())?;
        Ok(Self { nest, node, login })
    }

    /// How to reach it, with user and password if it asks for them.
    #[must_use]
    pub fn url(&self) -> String {
        let Login { user, password } = &self.login;
        let login = if password.is_empty() { String::new() } else { format!("{user}:{password}@") };
        format!("redis://{login}127.0.0.1:{}", self.port())
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.node.port
    }

    /// Its append-only file and everything else it keeps.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.node.folder
    }

    /// Sends one command over a connection of its own.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses the command.
    pub fn ask(&self, words: &[&str]) -> Result<Reply, Error> {
        self.node.ask(&self.login.words(), words)
    }

    /// Crashes it (`SIGKILL`). Nothing happens when it does not run.
    pub fn kill(&mut self) {
        self.node.kill();
    }

    /// Starts it again in the same folder on the same port, and waits until it has loaded its
    /// file.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_again(&mut self) -> Result<(), Error> {
        self.node.run(&self.nest, &self.login.words())
    }

    /// Stops it where it is; its connections stay open.
    pub fn freeze(&self) {
        self.node.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.node.thaw();
    }
}

impl Login {
    /// The words after `AUTH`; none when everybody may come in.
    fn words(&self) -> Vec<&str> {
        [&*self.user, &*self.password].into_iter().filter(|word| !word.is_empty()).collect()
    }
}

/// One server process with its own folder and port; clusters and sentinels have several.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) port: u16,
    folder: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Starts a server in a new folder of the nest and waits until it answers.
    pub(super) fn start(
        nest: &Nest,
        name: &str,
        settings: &[(&str, &str)],
        auth: &[&str],
    ) -> Result<Self, Error> {
        let folder = nest.subfolder(name)?;
        let mut last = Error::new("no port was tried");
        for _ in 0..PORTS_TRIED_MAX {
            let port = ports::free()?;
            let own = [("port", &*port.to_string()), ("dir", &*folder.to_string_lossy())];
            let lines = SETTINGS.iter().chain(&own).chain(settings);
            let text: String = lines.map(|(name, value)| format!("{name} {value}\n")).collect();
            nest.file(&format!("{name}/redis.conf"), &text)?;
            let mut node = Self { port, folder: folder.clone(), process: None };
            match node.run(nest, auth) {
                Ok(()) => return Ok(node),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Runs it as its `redis.conf` says, unless it runs already.
    pub(super) fn run(&mut self, nest: &Nest, auth: &[&str]) -> Result<(), Error> {
        if self.process.is_some() {
            return Ok(());
        }
        let mut command = Command::new("redis-server");
        command.arg(self.folder.join("redis.conf")).current_dir(&self.folder);
        let mut process = Process::spawn(&mut command, nest, &self.folder.join("redis.log"))?;
        // A server that still loads its file refuses the PING.
        process
            .wait_until_ready(START_MAX, || self.ask(auth, &["PING"]).map(drop))
            .map_err(Error::of("redis-server does not start"))?;
        self.process = Some(process);
        Ok(())
    }

    pub(super) fn ask(&self, auth: &[&str], words: &[&str]) -> Result<Reply, Error> {
        Connection::open(self.port, auth)?.ask(words)
    }

    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    pub(super) fn freeze(&self) {
        self.process.iter().for_each(Process::freeze);
    }

    pub(super) fn thaw(&self) {
        self.process.iter().for_each(Process::thaw);
    }
}
