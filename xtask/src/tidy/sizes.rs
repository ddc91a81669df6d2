//! How long files and functions may be.

use std::ops::Range;

use super::Violation;
use super::code::{after_matching_brace, blank, line_of};
use super::files::File;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

pub(super) fn check(file: &File) -> Vec<Violation> {
    if file.kind() != "rs" {
        return Vec::new();
    }
    let blanked = blank(&file.text);
    let violation = |line, what| Violation {
        path: file.path.clone(),
        line,
        what,
        rule: "a file has at most 500 lines of code and a function at most 70 lines",
        way_out: "split it where the story changes",
    };
    let mut violations = Vec::new();
    let lines = code_lines(&blanked);
    if lines > FILE_LINES_MAX && !file.is_test() {
        violations.push(violation(1, format!("the file has {lines} lines of code")));
    }
    for Function { name, line, lines } in functions(&blanked) {
        if lines > FUNCTION_LINES_MAX {
            violations.push(violation(line, format!("the function `{name}` has {lines} lines")));
        }
    }
    violations
}

/// Lines that hold code, without the modules of tests.
fn code_lines(blanked: &str) -> usize {
    let tests = test_modules(blanked);
    let mut at = 0;
    let mut count = 0;
    for line in blanked.split_inclusive('\n') {
        let is_test = tests.iter().any(|range| range.contains(&at));
        count += usize::from(!is_test && !line.trim().is_empty());
        at += line.len();
    }
    count
}

/// Where `#[cfg(test)] mod … { … }` lies.
fn test_modules(blanked: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for (start, attribute) in blanked.match_indices("#[cfg(test)]") {
        let rest = blanked[start + attribute.len()..].trim_start();
        let open = blanked[start..].find('{').map(|offset| start + offset);
        let is_module = rest.starts_with("mod ") || rest.starts_with("pub(crate) mod ");
        let is_inline = rest.find('{') < rest.find(';') || !rest.contains(';');
        if let (true, true, Some(open)) = (is_module, is_inline, open) {
            ranges.push(start..after_matching_brace(blanked, open));
        }
    }
    ranges
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// Functions with a body, nested ones included.
fn functions(blanked: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, keyword) in blanked.match_indices("fn ") {
        let before = blanked[..start].chars().next_back();
        if before.is_some_and(|it| it.is_alphanumeric() || it == '_') {
            continue;
        }
        let rest = &blanked[start + keyword.len()..];
        let is_name = |it: &char| it.is_alphanumeric() || *it == '_';
        let name: String = rest.chars().take_while(is_name).collect();
        let Some(open) = body(blanked, start) else {
            continue;
        };
        if name.is_empty() {
            continue;
        }
        let line = line_of(blanked, start);
        let lines = line_of(blanked, after_matching_brace(blanked, open)) - line + 1;
        found.push(Function { name, line, lines });
    }
    found
}

/// The brace that opens the body of the function at `start`; none for a mere declaration.
fn body(blanked: &str, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in blanked[start..].bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(start + offset),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str) -> Vec<(String, usize, usize)> {
        let found = functions(&blank(source));
        found.into_iter().map(|it| (it.name, it.line, it.lines)).collect()
    }

    #[test]
    fn a_function_is_measured_from_its_name_to_its_last_brace() {
        let source = "\nfn one(a: [u8; 2])\nwhere\n    T: X,\n{\n    \"}\"\n}\nfn two() {}\n";
        assert_eq!(named(source), [("one".to_owned(), 2, 6), ("two".to_owned(), 8, 1)]);
    }

    #[test]
    fn declarations_and_pointers_have_no_body() {
        assert!(named("trait T { fn a(&self); }\nstruct S { run: fn(u8) -> u8 }").is_empty());
    }

    #[test]
    fn tests_and_comments_do_not_count_as_code() {
        let source = "//! Page.\n\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        assert_eq!(code_lines(&blank(source)), 1);
        assert_eq!(code_lines(&blank("#[cfg(test)]\nmod tests;\nfn a() {}\n")), 3);
    }

    #[test]
    fn the_limits_are_the_last_allowed_sizes() {
        let function = |lines: usize| format!("fn long() {{\n{}}}\n", "x();\n".repeat(lines - 2));
        let check_text = |text: String| check(&File { path: "src/a.rs".to_owned(), text });
        assert!(check_text(function(70)).is_empty());
        assert_eq!(check_text(function(71)).len(), 1);
        assert!(check_text("const A: u8 = 1;\n".repeat(500)).is_empty());
        assert_eq!(check_text("const A: u8 = 1;\n".repeat(501)).len(), 1);
    }
}
