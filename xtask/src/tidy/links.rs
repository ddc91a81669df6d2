//! Links in markdown lead somewhere.

use std::path::Path;

use super::Violation;
use super::files::File;

pub(super) fn check(file: &File, root: &Path) -> Vec<Violation> {
    if file.kind() != "md" {
        return Vec::new();
    }
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut violations = Vec::new();
    for (line, target) in targets(file) {
        let (path, anchor) = target.split_once('#').unwrap_or((target.as_str(), ""));
        let full = match path {
            "" => root.join(&file.path),
            path => root.join(folder).join(path),
        };
        let problem = if !full.exists() {
            format!("the link to `{target}` leads nowhere")
        } else if !anchor.is_empty() && !has_heading(&full, anchor) {
            format!("the link to `{target}` leads to a heading that is not there")
        } else {
            continue;
        };
        violations.push(Violation {
            path: file.path.clone(),
            line,
            what: problem,
            rule: "every relative link leads to a file of the project",
            way_out: "write the page or mend the link",
        });
    }
    violations
}

/// Relative targets of `[text](target)` outside of code, with their lines.
fn targets(file: &File) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in file.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Code between back-ticks may look like a link: every second part is code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in prose.split("](").skip(1) {
            let target = part.split([')', ' ']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number, target.to_owned()));
            }
        }
    }
    found
}

/// Whether the page has a heading with this anchor. Only markdown has headings.
fn has_heading(page: &Path, anchor: &str) -> bool {
    if page.extension().is_none_or(|kind| kind != "md") {
        return true;
    }
    let text = std::fs::read_to_string(page).unwrap_or_default();
    text.lines().filter(|line| line.starts_with('#')).any(|line| anchor_of(line) == anchor)
}

/// A heading's anchor: lower case, spaces as hyphens, punctuation dropped.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
    kept.map(|it| if it == ' ' { '-' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> File {
        File { path: "docs/a.md".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn links_in_code_and_to_the_web_are_left_alone() {
        let text = "[a](b.md) `[c](d.md)` [e](https://f)\n```\n[g](h.md)\n```\n[i](j.md#k \"t\")";
        let found = targets(&page(text));
        assert_eq!(found, [(1, "b.md".to_owned()), (5, "j.md#k".to_owned())]);
    }

    #[test]
    fn a_dead_link_is_found_and_a_living_one_is_not() {
        let root = crate::process::root();
        assert!(check(&page("[x](../Cargo.toml)"), &root).is_empty());
        let dead = check(&page("\n[x](../no-such-page.md)"), &root);
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].line, 2);
    }

    #[test]
    fn anchors_are_made_as_the_usual_viewers_make_them() {
        assert_eq!(
            anchor_of("## What is promised, and what is not"),
            "what-is-promised-and-what-is-not"
        );
        assert_eq!(anchor_of("# `semel proxy`"), "semel-proxy");
    }
}
