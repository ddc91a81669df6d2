//! A complaint about one place of a file, with the line and a caret.

use std::ops::Range;
use std::path::Path;

use crate::failure::Failure;

/// Points at `span` of the file's text.
pub(super) fn at(path: &Path, text: &str, span: Range<usize>, message: &str) -> Failure {
    let start = span.start.min(text.len());
    let before = &text[..start];
    let number = before.matches('\n').count() + 1;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let column = text[line_start..start].chars().count();
    let width = text.get(start..span.end).map_or(1, |it| it.chars().count());
    let width = width.clamp(1, line.chars().count().saturating_sub(column).max(1));
    let gutter = " ".repeat(number.to_string().len());
    Failure::usage(format!(
        "{message}\n{gutter}--> {}:{number}:{}\n{gutter} |\n{number} | {line}\n{gutter} | {}{}",
        path.display(),
        column + 1,
        " ".repeat(column),
        "^".repeat(width)
    ))
}
