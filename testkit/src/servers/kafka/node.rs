//! One broker.

use std::path::PathBuf;

use super::super::nest::Nest;
use super::super::process::Process;
use super::java::{Java, option};
use super::metadata::{self, Metadata};
use super::{Error, START_MAX, trouble};

/// What is the same for all of them, unless they are told otherwise.
const SETTINGS: [(&str, &str); 10] = [
    ("process.roles", "broker,controller"),
    ("controller.listener.names", "CONTROLLER"),
    ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"),
    ("auto.create.topics.enable", "false"),
    ("offsets.topic.num.partitions", "3"),
    ("transaction.state.log.num.partitions", "3"),
    ("share.coordinator.state.topic.num.partitions", "3"),
    ("group.initial.rebalance.delay.ms", "0"),
    // So long a dead broker keeps its partitions from the others, and from its successor.
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "500"),
];

/// The 16 letters of `semel-test-kafka`, as Kafka writes such numbers.
const CLUSTER: &str = "c2VtZWwtdGVzdC1rYWZrYQ";

const LOG: &str = "kafka.log";

/// A broker with a folder and two ports of its own.
#[derive(Debug)]
pub(super) struct Node {
    folder: PathBuf,
    port: u16,
    process: Option<Process>,
    /// Since it was started.
    has_answered: bool,
}

impl Node {
    /// One that has its settings and neither data nor a process.
    pub(super) fn new(
        nest: &Nest,
        java: &Java,
        settings: &[(&str, &str)],
        place: Place<'_>,
    ) -> Result<Self, Error> {
        let Place { id, port, controller_port, voters } = place;
        let folder = nest.subfolder(&format!("broker-{id}"))?;
        nest.subfolder(&format!("broker-{id}/tmp"))?;
        let client = format!("PLAINTEXT://127.0.0.1:{port}");
        let listeners = format!("{client},CONTROLLER://127.0.0.1:{controller_port}");
        let (id_text, data) = (id.to_string(), folder.join("data"));
        let own = [
            ("node.id", &*id_text),
            ("controller.quorum.voters", voters),
            ("listeners", &*listeners),
            ("advertised.listeners", &*client),
            ("log.dirs", &*data.to_string_lossy()),
        ];
        let lines = SETTINGS.iter().chain(java.version.settings()).chain(&own).chain(settings);
        let text: String = lines.map(|(name, value)| format!("{name}={value}\n")).collect();
        nest.file(&format!("broker-{id}/server.properties"), &text)?;
        let (logging, _) = java.version.logging();
        nest.file(&format!("broker-{id}/logging.properties"), logging)?;
        Ok(Self { folder, port, process: None, has_answered: false })
    }

    /// Starts to make its data folder.
    pub(super) fn format(&self, nest: &Nest, java: &Java) -> Result<Process, Error> {
        let mut tool = java.tool("kafka.tools.StorageTool");
        tool.args(["format", "--cluster-id", CLUSTER, "--config", "server.properties"]);
        Process::spawn(tool.current_dir(&self.folder), nest, &self.folder.join(LOG))
    }

    pub(super) fn wait_until_formatted(&self, mut tool: Process) -> Result<(), Error> {
        let status = tool.wait_until_ended(START_MAX)?;
        if status.success() {
            return Ok(());
        }
        let told = trouble(&self.folder.join(LOG));
        Err(Error::new(format!("Kafka's data folder cannot be made ({status}){told}")))
    }

    /// Starts it, unless it runs already.
    pub(super) fn spawn(&mut self, nest: &Nest, java: &Java) -> Result<(), Error> {
        if self.process.is_some() {
            return Ok(());
        }
        let (_, logging) = java.version.logging();
        let options = [
            option(logging, &self.folder.join("logging.properties")),
            // Native code is unpacked there, and nobody would clear it away after a crash.
            option("-Djava.io.tmpdir=", &self.folder.join("tmp")),
        ];
        let mut server = java.server("kafka.Kafka", &options);
        server.arg("server.properties").current_dir(&self.folder);
        self.process = Some(Process::spawn(&mut server, nest, &self.folder.join(LOG))?);
        self.has_answered = false;
        Ok(())
    }

    /// Waits until it answers, if it was started and has not yet.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), Error> {
        if self.has_answered {
            return Ok(());
        }
        // Out of its place: one that does not get ready is killed.
        let Some(mut process) = self.process.take() else { return Ok(()) };
        if let Err(error) = process.wait_until_ready(START_MAX, || self.ask().map(drop)) {
            let told = trouble(&self.folder.join(LOG));
            return Err(Error::new(format!("Kafka does not start: {error}{told}")));
        }
        self.process = Some(process);
        self.has_answered = true;
        Ok(())
    }

    /// What it knows of its cluster. It tells nobody before it is a full member.
    pub(super) fn ask(&self) -> Result<Metadata, Error> {
        metadata::ask(&self.address())
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
        self.has_answered = false;
    }

    /// Lets it end in order.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.ask_to_end();
        process.wait_until_ended(START_MAX).map(drop)
    }

    pub(super) fn freeze(&self) {
        self.process.iter().for_each(Process::freeze);
    }

    pub(super) fn thaw(&self) {
        self.process.iter().for_each(Process::thaw);
    }
}

/// Where a broker is among the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) id: usize,
    /// For clients.
    pub(super) port: u16,
    /// For the others.
    pub(super) controller_port: u16,
    /// The controllers, which are all of them.
    pub(super) voters: &'a str,
}
