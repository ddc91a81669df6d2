//! What people see: a table that lives in a terminal, plain lines in a pipe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use terminal_size::{Height, Width, terminal_size};

use super::side::Side;
use crate::output;

/// Redraws a second: quick enough to look alive.
const FRAME: Duration = Duration::from_millis(125);

/// Columns of the table, and of the one for small windows. A line that is broken by the terminal
/// would end up elsewhere when it is drawn again.
const WIDE: u16 = 60;
const NARROW: u16 = 44;
/// A window with fewer lines cannot hold a table and its title.
const LINES: u16 = 12;

/// How the demo talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// A table that is drawn again and again.
    Live { color: bool, is_narrow: bool },
    /// Lines on standard error; standard output is for one JSON object.
    Json,
    /// Lines.
    Plain,
}

impl Style {
    pub(super) fn of(is_json: bool, is_plain: bool) -> Self {
        // A terminal that does not tell its size is taken for a usual one.
        let (Width(wide), Height(high)) = terminal_size().unwrap_or((Width(80), Height(24)));
        // A dumb terminal shows escape sequences instead of following them.
        let is_able =
            output::is_terminal() && std::env::var_os("TERM").is_none_or(|it| it != "dumb");
        if is_json {
            Self::Json
        } else if is_plain || !is_able || wide < NARROW || high < LINES {
            Self::Plain
        } else {
            let color = std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
            Self::Live { color, is_narrow: wide < WIDE }
        }
    }

    pub(super) fn line(self, text: &str) {
        if self == Self::Json { output::error_line(text) } else { output::line(text) }
    }
}

/// Shows the two sides while something happens.
pub(super) struct Screen<'a> {
    pub(super) style: Style,
    pub(super) sides: [&'a Side; 2],
    /// Distinct keys that were asked for so far.
    pub(super) wanted: u64,
}

impl Screen<'_> {
    /// Runs `act` under its title, with the table below it.
    pub(super) fn play<T>(&self, title: &str, act: impl FnOnce() -> T) -> T {
        self.style.line("");
        self.style.line(&self.bold(title));
        let Style::Live { .. } = self.style else {
            let done = act();
            self.sides.iter().for_each(|side| self.style.line(&self.sentence(side)));
            return done;
        };
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut drawn = 0;
                loop {
                    // Looked at before the drawing, so that the last table is complete.
                    let is_last = is_over.load(Ordering::Acquire);
                    let table = self.table();
                    let up = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
                    let lines: String =
                        table.iter().map(|line| format!("\x1b[2K{line}\n")).collect();
                    output::raw(&format!("{up}{lines}"));
                    drawn = table.len();
                    if is_last {
                        return;
                    }
                    std::thread::sleep(FRAME);
                }
            });
            let done = act();
            is_over.store(true, Ordering::Release);
            done
        })
    }

    fn table(&self) -> Vec<String> {
        let [one, other] = self.sides;
        let orders = [one.orders(), other.orders()];
        let count = |read: fn(&Side) -> u64| [read(one), read(other)];
        let is_narrow = matches!(self.style, Style::Live { is_narrow: true, .. });
        let [name, left, right] = if is_narrow { [22, 9, 9] } else { [26, 14, 16] };
        let line = |label: &str, one: &str, other: &str| {
            format!("  {label:<name$}{one:>left$}{other:>right$}")
        };
        let row =
            |label: &str, [one, other]: [u64; 2]| line(label, &one.to_string(), &other.to_string());
        let load = Ordering::Relaxed;
        let is_doubled = orders[0] > self.wanted;
        let mut orders = row("orders made", orders);
        if self.is_colored() {
            let color = if is_doubled { "\x1b[1;31m" } else { "\x1b[1m" };
            let (bare, guarded) = orders.split_at(2 + name + left);
            orders = format!("{color}{bare}\x1b[1;32m{guarded}\x1b[0m");
        }
        let short = |side: &Side| side.name.replace(" semel", "");
        vec![
            if is_narrow {
                line("semel:", &short(one), &short(other))
            } else {
                line("", one.name, other.name)
            },
            row("requests", [one.tally.requests.load(load), other.tally.requests.load(load)]),
            row("orders wanted", [self.wanted; 2]),
            orders,
            row("answers replayed", count(|side| side.tally.replays.load(Ordering::Relaxed))),
            row("told \"in flight\"", count(|side| side.tally.refusals.load(Ordering::Relaxed))),
            row(
                "told \"outcome unknown\"",
                count(|side| side.tally.unknowns.load(Ordering::Relaxed)),
            ),
            row("heard nothing in time", count(|side| side.tally.silences.load(Ordering::Relaxed))),
        ]
    }

    fn sentence(&self, side: &Side) -> String {
        let tally = &side.tally;
        format!(
            "{:<14} {} requests so far, {} orders wanted, {} made; {} replayed, {} in flight, {} \
             unknown",
            side.name,
            tally.requests.load(Ordering::Relaxed),
            self.wanted,
            side.orders(),
            tally.replays.load(Ordering::Relaxed),
            tally.refusals.load(Ordering::Relaxed),
            tally.unknowns.load(Ordering::Relaxed),
        )
    }

    fn bold(&self, text: &str) -> String {
        if self.is_colored() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn is_colored(&self) -> bool {
        matches!(self.style, Style::Live { color: true, .. })
    }
}
