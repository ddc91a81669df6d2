//! From a key to everything that was started under it.
//!
//! A step hands a key to what it starts, and that key is derived from the record and the step's
//! name ([`Key::derived`]). So from a record and the names of steps the keys of its children can be
//! computed, and theirs in turn, through all doors. A finished record does not keep the names of
//! its steps, so they are given.

use semel::store::Filter;
use semel::{BoxFuture, Inspect, Key, Operation, Record, RecordId, State, Tenant};
use semel_kafka::ledger::{Seen, Trail};
use semel_kafka::{PostgresLedger, SqliteLedger};
use serde_json::{Value, json};

use super::find;
use crate::failure::Failure;
use crate::{output, text};

/// How deep a chain is followed.
const DEPTH_MAX: usize = 8;
/// How many records are shown.
const RECORDS_MAX: usize = 1000;
/// Scopes of one key that are looked at.
const SCOPES_MAX: usize = 100;
/// The outputs of a Kafka transformation are numbered; so many of them are looked for.
const OUTPUTS_MAX: usize = 10;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: super::Target,
    /// Look for what a step of this name started; may be given several times. The steps of a
    /// record in progress, and the outputs of a Kafka transformation, are known without it
    #[arg(long, value_name = "NAME")]
    step: Vec<String>,
    /// Also look into the ledger of Kafka consumers: sqlite:PATH or postgres://…
    #[arg(long, value_name = "URL", env = "SEMEL_LEDGER", hide_env_values = true)]
    ledger: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Something that knows a key, and what was started under it.
struct Node {
    id: RecordId,
    what: What,
    children: Vec<(String, Node)>,
}

/// Who knows the key.
enum What {
    /// A store has a record.
    Record(Option<Record>),
    /// A group of Kafka consumers remembers it.
    Seen(Seen),
}

/// Where to look, and what is left of the bounds.
struct Search<'a> {
    store: &'a dyn Inspect,
    ledger: Option<&'a dyn Trail>,
    steps: &'a [String],
    left: usize,
}

pub(super) async fn run(store: &dyn Inspect, arguments: Arguments) -> Result<(), Failure> {
    let ledger = arguments.ledger.as_deref().map(open_ledger).transpose()?;
    let ledger = ledger.as_deref();
    let mut search = Search { store, ledger, steps: &arguments.step, left: RECORDS_MAX };
    let target = &arguments.target;
    let known = find::all(store, target).await;
    let mut nodes = match &known {
        Ok(ids) => ids.iter().map(|id| (id.clone(), None)).collect(),
        Err(_) => Vec::new(),
    };
    nodes.extend(search.remembered(&target.key).await?);
    if nodes.is_empty() {
        known?;
    }
    for (id, seen) in nodes {
        let node = search.follow(id, seen, DEPTH_MAX).await?;
        if arguments.json {
            output::json(&value_of(&node));
        } else {
            show(&node, "", "");
        }
    }
    if search.left == 0 {
        output::line(&format!("and more: only {RECORDS_MAX} records are followed"));
    }
    Ok(())
}

fn open_ledger(url: &str) -> Result<Box<dyn Trail>, Failure> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        if !std::path::Path::new(path).exists() {
            return Err(Failure::runtime(format!("the ledger {path} does not exist")));
        }
        return Ok(Box::new(SqliteLedger::open(path)?));
    }
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        return Ok(Box::new(PostgresLedger::connect(url)?));
    }
    Err(Failure::usage("the ledger's URL is refused".to_owned())
        .help("write sqlite:PATH or postgres://user:password@host:port/database"))
}

impl Search<'_> {
    fn follow(
        &mut self,
        id: RecordId,
        seen: Option<Seen>,
        depth: usize,
    ) -> BoxFuture<'_, Result<Node, Failure>> {
        Box::pin(async move {
            self.left = self.left.saturating_sub(1);
            let what = match seen {
                Some(seen) => What::Seen(seen),
                None => What::Record(self.store.get(&id).await?),
            };
            let mut children = Vec::new();
            if depth > 0 {
                for step in self.names(&what) {
                    let key = Key::derived(&id, &step);
                    let mut found: Vec<_> = self.scopes(&key).await?;
                    found.extend(self.remembered(key.as_str()).await?);
                    for (child, seen) in found {
                        if self.left > 0 {
                            let node = self.follow(child, seen, depth - 1).await?;
                            children.push((step.clone(), node));
                        }
                    }
                }
            }
            Ok(Node { id, what, children })
        })
    }

    /// The names under which something may have been started.
    fn names(&self, what: &What) -> Vec<String> {
        let record = match what {
            What::Record(record) => record.as_ref(),
            What::Seen(_) => None,
        };
        let stored = record.into_iter().flat_map(|record| &record.steps);
        let mut names: Vec<String> = stored.map(|step| step.name.clone()).collect();
        let others = self.steps.iter().cloned().chain((0..OUTPUTS_MAX).map(|it| it.to_string()));
        for name in others {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    async fn scopes(&self, key: &Key) -> Result<Vec<(RecordId, Option<Seen>)>, Failure> {
        let filter = Filter { key: Some(key.as_str().to_owned()), ..Filter::default() };
        let found = self.store.list(&filter, None, SCOPES_MAX).await?;
        Ok(found.into_iter().map(|summary| (summary.id, None)).collect())
    }

    /// The groups of consumers that remember a key. What such a consumer starts has the group as
    /// its operation.
    async fn remembered(&self, key: &str) -> Result<Vec<(RecordId, Option<Seen>)>, Failure> {
        let Some(ledger) = self.ledger else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for seen in ledger.seen(key).await? {
            let (operation, key) = (Operation::new(&seen.group)?, Key::parse(key)?);
            let id = RecordId { tenant: Tenant::single(), operation, key };
            found.push((id, Some(seen)));
        }
        Ok(found)
    }
}

/// One line for each record, indented below what started it.
fn show(node: &Node, lead: &str, step: &str) {
    let scope = match node.id.tenant.as_str() {
        "-" => node.id.operation.as_str().to_owned(),
        tenant => format!("{} of {tenant}", node.id.operation.as_str()),
    };
    let state = match &node.what {
        What::Record(None) => "gone".to_owned(),
        What::Record(Some(record)) => state_of(record),
        What::Seen(seen) => {
            format!("consumed from {} {}", seen.partition, text::time(seen.at))
        }
    };
    output::line(&format!("{lead}{step}{}  {scope}  {state}", node.id.key.as_str()));
    // What hangs below the last child has no line beside it.
    let below = lead.replace("├─ ", "│  ").replace("└─ ", "   ");
    for (at, (name, child)) in node.children.iter().enumerate() {
        let branch = if at + 1 == node.children.len() { "└─ " } else { "├─ " };
        show(child, &format!("{below}{branch}"), &format!("{name}: "));
    }
}

fn state_of(record: &Record) -> String {
    let name = record.state.name();
    let attempts = match record.attempts {
        1 => String::new(),
        many => format!(", {many} attempts"),
    };
    match &record.state {
        State::Completed { completed_at, .. } => {
            format!("{name} {}{attempts}", text::time(*completed_at))
        }
        State::Held(hold) => {
            format!("{name} since {}, {}{attempts}", text::time(hold.since), hold.cause.name())
        }
        State::InProgress { .. } => {
            format!("{name} since {}{attempts}", text::time(record.created_at))
        }
        State::Interrupted { since } => format!("{name} {}{attempts}", text::time(*since)),
    }
}

fn value_of(node: &Node) -> Value {
    let mut value = match &node.what {
        What::Record(Some(record)) => {
            super::ls::value_of(&semel::store::Summary::of(&node.id, record))
        }
        What::Record(None) => json!({ "key": node.id.key.as_str(), "state": "gone",
            "tenant": node.id.tenant.as_str(), "operation": node.id.operation.as_str() }),
        What::Seen(seen) => json!({ "key": node.id.key.as_str(), "state": "consumed",
            "group": seen.group, "topic": &*seen.partition.topic,
            "partition": seen.partition.partition, "at": text::time(seen.at) }),
    };
    let children = node.children.iter().map(|(step, child)| {
        let mut value = value_of(child);
        value["step"] = step.as_str().into();
        value
    });
    value["started"] = children.collect();
    value
}
