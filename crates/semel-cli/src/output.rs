//! The only file that prints.

use std::io::{self, IsTerminal, Write};

/// One line for whoever reads the output. A reader that went away is no failure.
pub(crate) fn line(text: &str) {
    raw(&format!("{text}\n"));
}

/// Text as it is, shown at once.
pub(crate) fn raw(text: &str) {
    let mut out = io::stdout().lock();
    // `semel records ls | head` closes the pipe early and means it.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    drop(out.write_all(bytes).and_then(|()| out.flush()));
}

/// One line for whoever watches.
pub(crate) fn error_line(text: &str) {
    drop(io::stderr().lock().write_all(format!("{text}\n").as_bytes()));
}

/// Whether a person looks at the output.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A value as one line of JSON.
pub(crate) fn json(value: &serde_json::Value) {
    line(&value.to_string());
}

/// Columns for people: as wide as needed, two spaces apart, without trailing blanks.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let show = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(width + 2 - cell.chars().count()));
        }
        line(text.trim_end());
    };
    show(&mut head.iter().copied());
    for row in rows {
        show(&mut row.iter().map(String::as_str));
    }
}
