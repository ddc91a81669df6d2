//! Which slots of a cluster nobody serves.

use redis::Value;

use super::facts::{UnservedSlots, text_of};

const SLOTS: u16 = 16_384;

/// Reads the answer to `CLUSTER SHARDS`.
pub(super) fn unserved(answer: &Value) -> Vec<UnservedSlots> {
    let (mut unserved, mut owned) = (Vec::new(), Vec::new());
    for shard in items(answer) {
        let slots = numbers(field(shard, "slots"));
        let ranges = slots.chunks_exact(2).map(|range| (range[0], range[1]));
        let nodes = items(field(shard, "nodes")).iter();
        let masters = nodes.filter(|node| text_of(field(node, "role")) == "master");
        let (online, gone): (Vec<_>, Vec<_>) =
            masters.partition(|node| text_of(field(node, "health")) == "online");
        let gone = gone.first().filter(|_| online.is_empty()).map(|node| address(node));
        for slots in ranges {
            owned.push(slots);
            if let Some(node) = &gone {
                unserved.push(UnservedSlots { slots, node: Some(node.clone()) });
            }
        }
    }
    owned.sort_unstable();
    let mut next = 0;
    for (first, last) in owned.into_iter().chain([(SLOTS, SLOTS)]) {
        if first > next {
            unserved.push(UnservedSlots { slots: (next, first - 1), node: None });
        }
        next = next.max(last.saturating_add(1));
    }
    unserved.sort_by_key(|gap| gap.slots);
    unserved
}

fn address(node: &Value) -> String {
    let port = match field(node, "port") {
        Value::Nil => field(node, "tls-port"),
        port => port,
    };
    format!("{}:{}", text_of(field(node, "ip")), text_of(port))
}

/// The value behind a name in a list of names and values.
fn field<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut pairs = items(list).chunks_exact(2);
    pairs.find(|pair| text_of(&pair[0]) == name).map_or(&Value::Nil, |pair| &pair[1])
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        _ => &[],
    }
}

fn numbers(value: &Value) -> Vec<u16> {
    items(value).iter().filter_map(|number| text_of(number).parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn shard(slots: &[i64], port: i64, health: &str) -> Value {
        let node = [
            [text("port"), Value::Int(port)],
            [text("ip"), text("h")],
            [text("role"), text("master")],
            [text("health"), text(health)],
        ];
        let slots = slots.iter().map(|slot| Value::Int(*slot)).collect();
        let nodes = vec![Value::Array(node.into_iter().flatten().collect())];
        Value::Array(vec![text("slots"), Value::Array(slots), text("nodes"), Value::Array(nodes)])
    }

    fn gap(first: u16, last: u16, node: Option<&str>) -> UnservedSlots {
        UnservedSlots { slots: (first, last), node: node.map(str::to_owned) }
    }

    #[test]
    fn slots_of_dead_nodes_and_slots_of_nobody_are_found() {
        let whole =
            Value::Array(vec![shard(&[100, 16383], 1, "online"), shard(&[0, 99], 2, "online")]);
        assert_eq!(unserved(&whole), []);
        let holes = Value::Array(vec![
            shard(&[0, 99, 200, 299], 1, "fail"),
            shard(&[400, 16000], 2, "online"),
            shard(&[], 3, "fail"),
        ]);
        let expected = [
            gap(0, 99, Some("h:1")),
            gap(100, 199, None),
            gap(200, 299, Some("h:1")),
            gap(300, 399, None),
            gap(16001, 16383, None),
        ];
        assert_eq!(unserved(&holes), expected);
        assert_eq!(unserved(&Value::Nil), [gap(0, 16383, None)]);
    }
}
