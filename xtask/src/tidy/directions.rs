//! Which crate may depend on which, over `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Violation;
use crate::process;

const ENGINE: &str = "semel";

/// Doors and stores: they know the engine and never each other.
const LEAVES: [&str; 4] = ["semel-http", "semel-kafka", "semel-stores", "semel-tasks"];

/// What the engine must not bring along, not even through others.
const KEPT_OUT_OF_THE_ENGINE: [&str; 7] =
    ["axum", "http", "hyper", "rdkafka", "reqwest", "rusqlite", "tokio"];

/// librdkafka takes minutes to build: who may depend on it.
const MAY_USE_RDKAFKA: [&str; 2] = ["semel-bench", "semel-kafka"]; // The bench has it as a peer.

/// Real servers and broken networks are for tests, so it is a dev-dependency everywhere else.
const TESTKIT: &str = "semel-testkit";

const MAY_USE_TESTKIT: [&str; 2] = ["semel-bench", "xtask"];

/// Normal and build dependencies by package name.
type Graph = BTreeMap<String, BTreeSet<String>>;

pub(super) fn check() -> Result<Vec<Violation>, String> {
    let metadata = process::output(&mut process::cargo(&["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata)
        .map_err(|error| format!("`cargo metadata` cannot be read: {error}"))?;
    let members = members(&metadata);
    Ok(judge(&members, &graph(&metadata)))
}

/// The workspace's packages and where they lie.
fn members(metadata: &Value) -> BTreeMap<String, String> {
    let root = text(&metadata["workspace_root"]);
    let is_member = |package: &&Value| package["source"].is_null();
    let place = |package: &Value| {
        let manifest = text(&package["manifest_path"]);
        let relative = manifest.strip_prefix(&root).unwrap_or(&manifest);
        (text(&package["name"]), relative.trim_start_matches('/').to_owned())
    };
    array(&metadata["packages"]).filter(is_member).map(place).collect()
}

/// The resolved graph without dev-dependencies. Versions of one package are taken together.
fn graph(metadata: &Value) -> Graph {
    let name = |package: &Value| (text(&package["id"]), text(&package["name"]));
    let names: BTreeMap<String, String> = array(&metadata["packages"]).map(name).collect();
    let mut graph = Graph::new();
    for node in array(&metadata["resolve"]["nodes"]) {
        let edges = graph.entry(names.get(&text(&node["id"])).cloned().unwrap_or_default());
        let edges = edges.or_default();
        for dependency in array(&node["deps"]) {
            let is_used = array(&dependency["dep_kinds"]).any(|kind| kind["kind"] != "dev");
            if let (true, Some(name)) = (is_used, names.get(&text(&dependency["pkg"]))) {
                edges.insert(name.clone());
            }
        }
    }
    graph
}

fn judge(members: &BTreeMap<String, String>, graph: &Graph) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (package, manifest) in members {
        let mut add = |what: String, rule, way_out| {
            let path = manifest.clone();
            violations.push(Violation { path, line: 1, what, rule, way_out });
        };
        let direct = graph.get(package).cloned().unwrap_or_default();
        for used in direct.iter().filter(|used| members.contains_key(*used)) {
            if package == ENGINE {
                let rule = "the engine depends on no other crate of the workspace";
                add(format!("`{package}` depends on `{used}`"), rule, "turn the dependency round");
            } else if LEAVES.contains(&package.as_str()) && used != ENGINE {
                let rule = "doors and stores depend on `semel` alone";
                let way_out = "meet in `semel`, or in dev-dependencies";
                add(format!("`{package}` depends on `{used}`"), rule, way_out);
            }
        }
        if direct.contains(TESTKIT) && !MAY_USE_TESTKIT.contains(&package.as_str()) {
            let rule = "what is shipped contains nothing that only tests need";
            let way_out = "make it a dev-dependency";
            add(format!("`{package}` depends on `{TESTKIT}`"), rule, way_out);
        }
        if direct.contains("rdkafka") && !MAY_USE_RDKAFKA.contains(&package.as_str()) {
            let rule = "librdkafka stays in one crate";
            add(format!("`{package}` depends on `rdkafka`"), rule, "use that crate's API");
        }
        if package == ENGINE {
            for banned in reached(graph, ENGINE) {
                if KEPT_OUT_OF_THE_ENGINE.contains(&banned.as_str()) {
                    let rule = "the engine has no I/O, no runtime and no protocol";
                    let way_out = "move what needs it into a door or a store";
                    add(format!("`semel` brings along `{banned}`"), rule, way_out);
                }
            }
        }
    }
    violations
}

/// Everything that a package depends on, directly or not.
fn reached(graph: &Graph, start: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![start.to_owned()];
    while let Some(package) = open.pop() {
        for next in graph.get(&package).into_iter().flatten() {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(edges: &[(&str, &[&str])]) -> Vec<String> {
        let graph: Graph = edges
            .iter()
            .map(|(name, used)| {
                ((*name).to_owned(), used.iter().map(|name| (*name).to_owned()).collect())
            })
            .collect();
        let members = ["semel", "semel-cli", "semel-http", "semel-stores"];
        let members = members.map(|name| (name.to_owned(), format!("crates/{name}/Cargo.toml")));
        judge(&members.into(), &graph).into_iter().map(|it| it.what).collect()
    }

    #[test]
    fn the_intended_directions_are_fine() {
        let cli: &[&str] = &["semel", "semel-http", "semel-stores", "tokio"];
        let edges: [(&str, &[&str]); 4] = [
            ("semel", &["blake3"]),
            ("semel-cli", cli),
            ("semel-http", &["semel", "tokio"]),
            ("semel-stores", &["semel", "rusqlite"]),
        ];
        assert!(judged(&edges).is_empty());
    }

    #[test]
    fn the_engine_brings_no_runtime_not_even_through_others() {
        let found = judged(&[("semel", &["helper"]), ("helper", &["tokio"])]);
        assert_eq!(found, ["`semel` brings along `tokio`"]);
    }

    #[test]
    fn a_door_knows_no_store_and_the_engine_knows_neither() {
        let found =
            judged(&[("semel-http", &["semel", "semel-stores"]), ("semel", &["semel-http"])]);
        assert_eq!(
            found,
            ["`semel` depends on `semel-http`", "`semel-http` depends on `semel-stores`"]
        );
    }

    #[test]
    fn what_is_for_tests_is_not_shipped() {
        let found = judged(&[("semel-cli", &["semel-testkit"])]);
        assert_eq!(found, ["`semel-cli` depends on `semel-testkit`"]);
    }

    #[test]
    fn rdkafka_is_refused_everywhere() {
        assert_eq!(judged(&[("semel-cli", &["rdkafka"])]), ["`semel-cli` depends on `rdkafka`"]);
    }
}
