//! Pages that the code refers to exist: errors, problems, examples.

use super::Violation;
use super::code::line_of;
use super::files::File;

const ERRORS: &str = "crates/semel/src/error.rs";
const ANSWERS: &str = "crates/semel-http/src/answer.rs";

pub(super) fn check(files: &[File]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, start, folder) in
        [(ERRORS, "=> \"E", "docs/errors/E"), (ANSWERS, "slug: \"", "docs/problems/")]
    {
        let Some(file) = files.iter().find(|file| file.path == path) else {
            continue;
        };
        for (line, name) in quoted_after(&file.text, start) {
            let page = format!("{folder}{name}.md");
            if !files.iter().any(|file| file.path == page) {
                violations.push(Violation {
                    path: path.to_owned(),
                    line,
                    what: format!("{page} does not exist"),
                    rule: "what a message refers to has a page",
                    way_out: "write the page: what happened, why, what to do",
                });
            }
        }
    }
    violations.extend(unnamed_examples(files));
    violations
}

/// The rest of each quoted word that begins with `start`, and its line.
fn quoted_after(text: &str, start: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(start) {
        let rest = &text[at + start.len()..];
        if let Some((name, _)) = rest.split_once('"') {
            found.push((line_of(text, at), name.to_owned()));
        }
    }
    found
}

fn unnamed_examples(files: &[File]) -> Vec<Violation> {
    let is_page = |file: &&File| {
        file.kind() == "md" && (file.path == "README.md" || file.path.starts_with("docs/"))
    };
    let pages: Vec<&File> = files.iter().filter(is_page).collect();
    let in_examples = files.iter().filter_map(|file| file.path.strip_prefix("examples/"));
    let mut folders: Vec<&str> = in_examples.filter_map(|path| path.split('/').next()).collect();
    folders.dedup();
    let is_unnamed = |folder: &&str| {
        let name = format!("examples/{folder}");
        !pages.iter().any(|page| page.text.contains(&name))
    };
    let unnamed = folders.into_iter().filter(is_unnamed);
    unnamed
        .map(|folder| Violation {
            path: format!("examples/{folder}"),
            line: 1,
            what: "no page names this example".to_owned(),
            rule: "an example that nobody can find helps nobody",
            way_out: "name it in README.md or under docs",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(texts: &[(&str, &str)]) -> Vec<File> {
        let file = |(path, text): &(&str, &str)| File {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        texts.iter().map(file).collect()
    }

    #[test]
    fn an_error_number_and_a_problem_without_a_page_are_found() {
        let code = "\nSelf::Settings => \"E0101\",\nSelf::Corrupt => \"E0102\",\n";
        let table = "Row { slug: \"in-flight\", status: 409 }";
        let violations =
            check(&files(&[(ERRORS, code), (ANSWERS, table), ("docs/errors/E0101.md", "page")]));
        let what: Vec<_> = violations.iter().map(|it| (it.line, it.what.as_str())).collect();
        assert_eq!(
            what,
            [
                (3, "docs/errors/E0102.md does not exist"),
                (1, "docs/problems/in-flight.md does not exist"),
            ]
        );
    }

    #[test]
    fn an_example_must_be_named_on_a_page() {
        let example = ("examples/orders/src/main.rs", "");
        assert_eq!(check(&files(&[example])).len(), 1);
        assert!(check(&files(&[example, ("README.md", "see examples/orders")])).is_empty());
    }
}
