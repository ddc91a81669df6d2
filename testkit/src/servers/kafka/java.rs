//! Programs that run on Java.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;
use super::version::KafkaVersion;

/// Quick to start rather than fast in the long run, small, and silent about what it does not find
/// in the archive of classes.
const OPTIONS: [&str; 5] = [
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    // It would leave a file of its own when it is killed.
    "-XX:-UsePerfData",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
];

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";

/// A JVM and a version's jars.
#[derive(Clone, Debug)]
pub(super) struct Java {
    pub(super) version: KafkaVersion,
    pub(super) program: PathBuf,
    pub(super) jars: PathBuf,
    /// Kafka's classes in the form in which the JVM needs them, so that it need not read them
    /// from the jars: a broker starts more than twice as fast.
    pub(super) archive: Archive,
}

/// What to do with the archive of classes.
#[derive(Clone, Debug)]
pub(super) enum Archive {
    Read(PathBuf),
    /// The broker writes it when it ends.
    Write(PathBuf),
}

impl Java {
    /// A program of the jars that serves. Its own arguments come last.
    pub(super) fn server(&self, class: &str, options: &[OsString]) -> Command {
        let archive = match &self.archive {
            Archive::Read(file) => option("-XX:SharedArchiveFile=", file),
            Archive::Write(file) => option("-XX:ArchiveClassesAtExit=", file),
        };
        let memory = ["-Xms128m", "-Xmx512m"].map(OsString::from);
        self.command(class, &[&memory, options, &[archive]].concat())
    }

    /// A program of the jars that does one thing and ends. Its own arguments come last.
    pub(super) fn tool(&self, class: &str) -> Command {
        let mut options = vec![OsString::from("-Xmx128m")];
        if let Archive::Read(file) = &self.archive {
            options.push(option("-XX:SharedArchiveFile=", file));
        }
        self.command(class, &options)
    }

    fn command(&self, class: &str, options: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        // Not an argument, so that lists of processes stay readable.
        command.env("CLASSPATH", self.jars.join("*"));
        command.args(OPTIONS).args(options).arg(class);
        command
    }

    pub(super) fn create_topic(
        &self,
        bootstrap: &str,
        name: &str,
        partitions: u32,
    ) -> Result<(), Error> {
        let partitions = partitions.to_string();
        self.topics(bootstrap, &["--create", "--topic", name, "--partitions", &partitions])?;
        Ok(())
    }

    pub(super) fn describe_topic(&self, bootstrap: &str, name: &str) -> Result<String, Error> {
        // The tool parts its words by tabs.
        let said = self.topics(bootstrap, &["--describe", "--topic", name])?;
        Ok(said.replace('\t', " ").trim().to_owned())
    }

    fn topics(&self, bootstrap: &str, arguments: &[&str]) -> Result<String, Error> {
        let mut tool = self.tool(TOPICS);
        tool.args(["--bootstrap-server", bootstrap]).args(arguments).stdin(Stdio::null());
        let output = tool.output().map_err(Error::of("`java` cannot be started"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() {
            return Ok(said.into_owned());
        }
        // It gives its reason on the first line of its output, or of its errors.
        let errors = String::from_utf8_lossy(&output.stderr);
        let mut lines = said.lines().chain(errors.lines()).map(str::trim);
        let reason = lines.find(|line| !line.is_empty()).unwrap_or("it said nothing");
        Err(Error::new(format!("Kafka's tool for topics failed ({}): {reason}", output.status)))
    }
}

/// An option whose value is a path.
pub(super) fn option(name: &str, file: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(file);
    option
}
