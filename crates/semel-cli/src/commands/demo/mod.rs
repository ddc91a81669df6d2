//! `semel demo`: the same storm against two equal services, one bare and one behind a real proxy.

mod acts;
mod client;
pub(crate) mod orders;
mod process;
mod program;
mod screen;
mod side;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use semel::{Random, SystemRandom};
use serde_json::{Value, json};

use self::screen::{Screen, Style};
use self::side::Side;
use crate::failure::Failure;
use crate::{output, text};

/// Keys of the last act: one that is resolved, one that is left for the user.
const KILLED: usize = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many orders are wanted
    #[arg(long, value_name = "N", default_value = "24")]
    #[arg(value_parser = clap::value_parser!(u16).range(4..=200))]
    keys: u16,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
    /// Print lines instead of a table that is redrawn
    #[arg(long)]
    plain: bool,
    /// Keep the files in this folder instead of a new one
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    process::end_with_the_demo()?;
    let style = Style::of(arguments.json, arguments.plain);
    let folder = folder(arguments.keep.as_deref())?;
    let store = format!("sqlite:{}", folder.join("semel.db").display());
    style.line("semel demo: two equal order services, one storm.");
    let bare = Side::start("without semel", &folder, None)?;
    let guarded = Side::start("behind semel", &folder, Some(&store))?;
    let sides = [&bare, &guarded];
    let keys = keys(usize::from(arguments.keys))?;
    play(style, sides, &keys, &store)?;
    let wanted = keys.len() as u64;
    let (made, kept) = (bare.orders(), guarded.orders());
    let held = keys.last().map(String::as_str).unwrap_or_default();
    if arguments.json {
        output::json(&result(sides, wanted, &store, held));
    } else {
        finish(style, [wanted, made, kept], &store, held, guarded.order_of(held));
    }
    // Both: a lost order and a doubled one would make up for each other.
    let distinct = guarded.distinct_keys();
    if [kept, distinct] == [wanted; 2] {
        Ok(())
    } else {
        Err(Failure::runtime(broken(wanted, kept, distinct)))
    }
}

pub(crate) fn serve_orders(arguments: orders::Arguments) -> Result<(), Failure> {
    super::block_on(orders::serve(arguments))
}

fn play(style: Style, sides: [&Side; 2], keys: &[String], store: &str) -> Result<(), Failure> {
    let slow = (keys.len() - KILLED) / 3;
    let (twice, rest) = keys.split_at(keys.len() - KILLED - slow.max(1));
    let (slow, killed) = rest.split_at(rest.len() - KILLED);
    let wanted = [twice.len(), twice.len() + slow.len(), keys.len()].map(|it| it as u64);
    let screen = |act: usize| Screen { style, sides, wanted: wanted[act] };
    let title = format!(
        "1. Every order is sent {} times at once: double clicks, two tabs, retries.",
        acts::AT_ONCE
    );
    screen(0).play(&title, || {
        acts::on_both(sides, |side| {
            acts::duplicates(side, twice);
            Ok(())
        })
    })?;
    let title = format!(
        "2. Clients give up after {} ms and try again; the handler takes {} ms.",
        acts::IMPATIENT.as_millis(),
        acts::SLOW_MS
    );
    screen(1).play(&title, || {
        acts::on_both(sides, |side| {
            acts::time_outs(side, slow);
            Ok(())
        })
    })?;
    let title = "3. kill -9: the service dies after it made the order, before it answered.";
    let decide = |side: &Side, key: &str| acts::decide(store, side, key);
    screen(2).play(title, || {
        acts::on_both(sides, |side| {
            let is_guarded = std::ptr::eq(side, sides[1]);
            let decide: Option<acts::Decide<'_>> = if is_guarded { Some(&decide) } else { None };
            acts::kills(side, killed, decide)
        })
    })
}

/// The last words: what was seen, and what to type next.
fn finish(style: Style, counts: [u64; 3], store: &str, held: &str, order: Option<u64>) {
    let [wanted, made, kept] = counts;
    let (semel, store) = (text::shell_word(&program::as_typed()), text::shell_word(store));
    let order = order.unwrap_or_default();
    style.line("");
    style.line(&format!(
        "{wanted} orders wanted. Without semel: {made} made. Behind semel: {kept}."
    ));
    style.line("");
    style.line("One key of act 3 is still held: its service died before it could tell, so semel");
    style.line("did not guess. Look at it, decide, and put semel in front of a service of yours:");
    style.line("");
    style.line(&format!("  {semel} records ls --store {store} --state held"));
    style.line(&format!(
        "  {semel} records complete {held} --store {store} --status 201 \
         --reason \"order {order} is in the orders table\""
    ));
    // The usual port, unless somebody has it already: the command has to work as printed.
    let is_free = std::net::TcpListener::bind("127.0.0.1:8080").is_ok();
    let listen = if is_free { "" } else { " --listen 127.0.0.1:0" };
    style.line(&format!(
        "  {semel} proxy --upstream http://127.0.0.1:8000{listen} --store sqlite:semel.db"
    ));
}

fn result(sides: [&Side; 2], wanted: u64, store: &str, held: &str) -> Value {
    let [bare, guarded] = sides.map(|side| {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "requests": count(&side.tally.requests),
            "orders": side.orders(),
            "distinct_keys": side.distinct_keys(),
            "replays": count(&side.tally.replays),
            "refusals": count(&side.tally.refusals),
            "unknowns": count(&side.tally.unknowns),
            "timeouts": count(&side.tally.silences),
        })
    });
    json!({
        "distinct_keys": wanted,
        "without_semel": bare,
        "with_semel": guarded,
        "store": store,
        "held_key": held,
    })
}

fn broken(wanted: u64, kept: u64, distinct: u64) -> String {
    format!(
        "behind semel {kept} orders were made for {distinct} keys, and {wanted} were wanted; this \
         is a bug: please report it with the folder that the demo left behind"
    )
}

fn folder(keep: Option<&Path>) -> Result<PathBuf, Failure> {
    let folder = match keep {
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir().join(format!("semel-demo-{}", hex(4)?)),
    };
    std::fs::create_dir_all(&folder).map_err(|error| {
        Failure::runtime(format!("the folder {} cannot be made", folder.display()))
            .caused_by(&error)
            .help("choose another one with --keep DIR")
    })?;
    if folder.join("semel.db").exists() {
        return Err(Failure::usage(format!("{} holds a demo already", folder.display()))
            .help("choose an empty folder"));
    }
    Ok(folder)
}

fn keys(count: usize) -> Result<Vec<String>, Failure> {
    (0..count).map(|_| Ok(format!("order-{}", hex(6)?))).collect()
}

fn hex(bytes: usize) -> Result<String, Failure> {
    let mut buffer = vec![0; bytes];
    SystemRandom.fill(&mut buffer)?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
