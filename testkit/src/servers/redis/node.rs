//! One process of `redis-server`.

use std::path::PathBuf;
use std::process::Command;

use super::super::nest::Nest;
use super::super::process::Process;
use super::super::{Error, PORTS_TRIED_MAX, START_MAX, ports};
use super::resp::{Connection, Reply};

/// What holds for all of them, sentinels too.
const BASE: [(&str, &str); 2] = [("bind", "127.0.0.1"), ("daemonize", "no")];

/// What holds for those with data, unless they are told otherwise: an append-only file that
/// reaches the disk within a second, no eviction, and no waiting before a replica is served.
const DATA: [(&str, &str); 5] = [
    ("save", "\"\""),
    ("appendonly", "yes"),
    ("appendfsync", "everysec"),
    ("maxmemory-policy", "noeviction"),
    ("repl-diskless-sync-delay", "0"),
];

/// A server with a folder and a port of its own. Its settings lie in the folder.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) port: u16,
    pub(super) folder: PathBuf,
    /// The words after `AUTH`; none when everybody may come in.
    auth: Vec<String>,
    mode: &'static [&'static str],
    process: Option<Process>,
}

impl Node {
    /// Starts a server that keeps data.
    pub(super) fn with_data(
        nest: &Nest,
        name: &str,
        settings: &[(&str, &str)],
        auth: &[&str],
    ) -> Result<Self, Error> {
        Self::start(nest, name, &[&DATA, settings].concat(), auth, &[])
    }

    /// Starts a sentinel.
    pub(super) fn sentinel(
        nest: &Nest,
        name: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, Error> {
        Self::start(nest, name, settings, &[], &["--sentinel"])
    }

    /// Starts in a new folder of the nest and waits for an answer.
    fn start(
        nest: &Nest,
        name: &str,
        settings: &[(&str, &str)],
        auth: &[&str],
        mode: &'static [&'static str],
    ) -> Result<Self, Error> {
        let folder = nest.subfolder(name)?;
        let auth = auth.iter().copied().map(str::to_owned).collect();
        let mut node = Self { port: 0, folder, auth, mode, process: None };
        let mut last = Error::new("no port was tried");
        for _ in 0..PORTS_TRIED_MAX {
            node.port = ports::free()?;
            let port = node.port.to_string();
            let own = [("port", &*port), ("dir", &*node.folder.to_string_lossy())];
            let lines = BASE.iter().chain(&own).chain(settings);
            let text: String = lines.map(|(name, value)| format!("{name} {value}\n")).collect();
            nest.file(&format!("{name}/redis.conf"), &text)?;
            match node.run(nest) {
                Ok(()) => return Ok(node),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Runs it as its settings say, unless it runs already.
    pub(super) fn run(&mut self, nest: &Nest) -> Result<(), Error> {
        if self.runs() {
            return Ok(());
        }
        let mut command = Command::new("redis-server");
        command.arg(self.folder.join("redis.conf")).args(self.mode).current_dir(&self.folder);
        let mut process = Process::spawn(&mut command, nest, &self.folder.join("redis.log"))?;
        // A server that still loads its file refuses the PING.
        process
            .wait_until_ready(START_MAX, || self.ask(&["PING"]).map(drop))
            .map_err(Error::of("redis-server does not start"))?;
        self.process = Some(process);
        Ok(())
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Sends one command over a connection of its own.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Reply, Error> {
        let auth: Vec<&str> = self.auth.iter().map(String::as_str).collect();
        Connection::open(self.port, &auth)?.ask(words)
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

/// `127.0.0.1:PORT` of each, with commas, as URLs of several servers have them.
pub(super) fn hosts(nodes: &[Node]) -> String {
    let hosts: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    hosts.join(",")
}
