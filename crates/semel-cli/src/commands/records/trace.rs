//! From a key to everything that was started under it.
//!
//! A step hands a key to what it starts, and that key is derived from the record and the step's
//! name ([`Key::derived`]). So from a record and the names of steps the keys of its children can be
//! computed, and theirs in turn, through all doors. A finished record does not keep the names of
//! its steps, so they are given.

use semel::store::Filter;
use semel::{BoxFuture, Inspect, Key, Record, RecordId, State};
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A record and what its steps started.
struct Node {
    id: RecordId,
    record: Option<Record>,
    children: Vec<(String, Node)>,
}

/// What is left of the bounds.
struct Search<'a> {
    store: &'a dyn Inspect,
    steps: &'a [String],
    left: usize,
}

pub(super) async fn run(store: &dyn Inspect, arguments: Arguments) -> Result<(), Failure> {
    let ids = find::all(store, &arguments.target).await?;
    let mut search = Search { store, steps: &arguments.step, left: RECORDS_MAX };
    for id in ids {
        let node = search.follow(id, DEPTH_MAX).await?;
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

impl Search<'_> {
    fn follow(&mut self, id: RecordId, depth: usize) -> BoxFuture<'_, Result<Node, Failure>> {
        Box::pin(async move {
            self.left = self.left.saturating_sub(1);
            let record = self.store.get(&id).await?;
            let mut children = Vec::new();
            if depth > 0 {
                for step in self.names(record.as_ref()) {
                    let key = Key::derived(&id, &step);
                    for child in self.scopes(&key).await? {
                        if self.left > 0 {
                            let node = self.follow(child, depth - 1).await?;
                            children.push((step.clone(), node));
                        }
                    }
                }
            }
            Ok(Node { id, record, children })
        })
    }

    /// The names under which this record may have started something.
    fn names(&self, record: Option<&Record>) -> Vec<String> {
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

    async fn scopes(&self, key: &Key) -> Result<Vec<RecordId>, Failure> {
        let filter = Filter { key: Some(key.as_str().to_owned()), ..Filter::default() };
        let found = self.store.list(&filter, None, SCOPES_MAX).await?;
        Ok(found.into_iter().map(|summary| summary.id).collect())
    }
}

/// One line for each record, indented below what started it.
fn show(node: &Node, lead: &str, step: &str) {
    let scope = match node.id.tenant.as_str() {
        "-" => node.id.operation.as_str().to_owned(),
        tenant => format!("{} of {tenant}", node.id.operation.as_str()),
    };
    let state = match &node.record {
        None => "gone".to_owned(),
        Some(record) => state_of(record),
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
    let mut value = match &node.record {
        Some(record) => super::ls::value_of(&semel::store::Summary::of(&node.id, record)),
        None => json!({ "key": node.id.key.as_str(), "tenant": node.id.tenant.as_str(),
            "operation": node.id.operation.as_str(), "state": "gone" }),
    };
    let children = node.children.iter().map(|(step, child)| {
        let mut value = value_of(child);
        value["step"] = step.as_str().into();
        value
    });
    value["started"] = children.collect();
    value
}
