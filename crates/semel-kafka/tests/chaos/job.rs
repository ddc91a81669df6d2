//! What a worker is told to do.

use semel_kafka::GroupProtocol;
use serde_json::{Value, json};

/// What the names of runs end with in which handlers fail.
pub(crate) const FAILING: &str = "failing";

/// What the names of retry topics end with.
pub(crate) const RETRY_SUFFIX: &str = ".retry";

/// What kind of consumer or relay a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    InboxPostgres,
    InboxSqlite,
    Transform,
    Guarded,
    RelayPostgres,
    RelaySqlite,
    /// Naive: looks for the id, has the effect, writes the id, commits the position.
    ExistsById,
    /// Naive: writes the id, has the effect, commits the position.
    MarkFirst,
}

impl Class {
    const ALL: [Self; 8] = [
        Self::InboxPostgres,
        Self::InboxSqlite,
        Self::Transform,
        Self::Guarded,
        Self::RelayPostgres,
        Self::RelaySqlite,
        Self::ExistsById,
        Self::MarkFirst,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InboxPostgres => "inbox-postgres",
            Self::InboxSqlite => "inbox-sqlite",
            Self::Transform => "transform",
            Self::Guarded => "guarded",
            Self::RelayPostgres => "relay-postgres",
            Self::RelaySqlite => "relay-sqlite",
            Self::ExistsById => "exists-by-id",
            Self::MarkFirst => "mark-first",
        }
    }

    /// Whether its effects are records in the log.
    pub(crate) fn writes_records(self) -> bool {
        self.is_relay() || self == Self::Transform
    }

    /// Whether it takes rows of a database to the log, and consumes nothing.
    pub(crate) fn is_relay(self) -> bool {
        matches!(self, Self::RelayPostgres | Self::RelaySqlite)
    }

    /// Whether it is to recognise a record that was written twice.
    pub(crate) fn remembers_ids(self) -> bool {
        matches!(self, Self::InboxPostgres | Self::InboxSqlite | Self::Guarded)
    }
}

/// A worker's orders. All names are made from that of the run.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) class: Class,
    pub(crate) bootstrap: String,
    pub(crate) run: String,
    /// The same for a worker and who takes its place.
    pub(crate) slot: String,
    /// This process in the group.
    pub(crate) name: String,
    /// The database of the effects: an address or a path.
    pub(crate) sink: String,
    pub(crate) batch_max: usize,
    pub(crate) protocol: GroupProtocol,
    /// The point at which to halt, and at which pass.
    pub(crate) halt: Option<(String, u32)>,
}

impl Job {
    pub(crate) fn input(&self) -> String {
        format!("{}-in", self.run)
    }

    pub(crate) fn output(&self) -> String {
        format!("{}-out", self.run)
    }

    /// Whether handlers fail now and then, and retry topics are used. The run's name says so.
    pub(crate) fn fails(&self) -> bool {
        self.run.ends_with(FAILING)
    }

    pub(crate) fn dead(&self) -> String {
        format!("{}-dead", self.run)
    }

    pub(crate) fn to_text(&self) -> String {
        json!({
            "class": self.class.name(),
            "bootstrap": self.bootstrap,
            "run": self.run,
            "slot": self.slot,
            "name": self.name,
            "sink": self.sink,
            "batch_max": self.batch_max,
            "brokers_assign": self.protocol == GroupProtocol::Consumer,
            "halt": self.halt,
        })
        .to_string()
    }

    pub(crate) fn parse(text: &str) -> Self {
        let value: Value = serde_json::from_str(text).unwrap();
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        let class = text("class");
        let protocol = match value["brokers_assign"].as_bool().unwrap() {
            true => GroupProtocol::Consumer,
            false => GroupProtocol::Classic,
        };
        let halt = value["halt"].as_array().map(|halt| {
            let pass = u32::try_from(halt[1].as_u64().unwrap()).unwrap();
            (halt[0].as_str().unwrap().to_owned(), pass)
        });
        Self {
            class: *Class::ALL.iter().find(|it| it.name() == class).unwrap(),
            bootstrap: text("bootstrap"),
            run: text("run"),
            slot: text("slot"),
            name: text("name"),
            sink: text("sink"),
            batch_max: usize::try_from(value["batch_max"].as_u64().unwrap()).unwrap(),
            protocol,
            halt,
        }
    }
}
