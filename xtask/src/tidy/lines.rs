//! Rules about single lines.

use super::Violation;
use super::files::File;

const COLUMNS_MAX: usize = 100;

/// Words that mark unfinished work. Put together here so that this file keeps its own rule.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Where home folders and checkouts lie on somebody's machine.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/home", "/"),
    concat!("/root", "/"),
    concat!("/Users", "/"),
    concat!("/work", "/main"),
    concat!("/work", "/shared"),
];

pub(super) fn check(file: &File) -> Vec<Violation> {
    // Tables in markdown and inline tables in TOML cannot be broken.
    let is_free = matches!(file.kind(), "json" | "md" | "toml");
    let mut violations = Vec::new();
    let mut add = |line, what: String, rule, way_out| {
        violations.push(Violation { path: file.path.clone(), line, what, rule, way_out });
    };
    for (number, line) in file.lines() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX && !is_free && !line.contains("://") {
            let rule = "a line of code has at most 100 columns";
            add(number, format!("the line has {columns} columns"), rule, "break it");
        }
        if line.ends_with([' ', '\t']) {
            let rule = "lines end with their last word";
            add(number, "white space at the end of the line".to_owned(), rule, "delete it");
        }
        if let Some(word) = UNFINISHED.iter().find(|word| has_word(line, word)) {
            let rule = "unfinished work does not land";
            add(number, format!("the word {word}"), rule, "finish it or say what is missing");
        }
        if let Some(path) = MACHINE_PATHS.iter().find(|path| has_path(line, path)) {
            let rule = "nothing may depend on one machine";
            add(number, format!("the absolute path `{path}…`"), rule, "use a relative path");
        }
    }
    violations
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
    line.match_indices(word).any(|(at, _)| {
        !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next())
    })
}

/// Whether the path starts there: not in the middle of a longer one or of a URL.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|it| it.is_alphanumeric() || matches!(it, '/' | '.' | '-' | '_' | '}'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        check(&file).iter().map(|violation| violation.way_out).collect()
    }

    #[test]
    fn long_lines_are_for_prose_and_addresses() {
        let long = "x".repeat(101);
        assert_eq!(rules("a.rs", &long), ["break it"]);
        assert!(rules("a.rs", &"x".repeat(100)).is_empty());
        assert!(rules("a.md", &long).is_empty());
        assert!(rules("a.rs", &format!("// https://{long}")).is_empty());
    }

    #[test]
    fn columns_are_characters_and_not_bytes() {
        assert!(rules("a.rs", &"é".repeat(100)).is_empty());
    }

    #[test]
    fn white_space_at_the_end_is_found_everywhere() {
        assert_eq!(rules("a.md", "word \nword"), ["delete it"]);
    }

    #[test]
    fn unfinished_work_is_found_as_a_word_only() {
        assert_eq!(rules("a.py", &format!("# {}: later", UNFINISHED[0])).len(), 1);
        assert!(rules("a.py", &format!("A{}X = 1", UNFINISHED[2])).is_empty());
    }

    #[test]
    fn a_path_of_a_machine_is_found_and_a_relative_one_is_not() {
        assert_eq!(rules("a.toml", &format!("path = \"{}me/x\"", MACHINE_PATHS[0])).len(), 1);
        assert!(rules("a.toml", &format!("path = \"docs{}me\"", MACHINE_PATHS[0])).is_empty());
    }
}
