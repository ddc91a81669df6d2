//! `cargo xtask test`: every suite that can run here, and the names of those that cannot.

use std::time::{Duration, Instant};

use crate::process;
use crate::suites::{SUITES, Suite, Verdict};
use crate::{Failure, suggest};

/// What the command line asks for.
#[derive(Debug, Default, PartialEq)]
struct Wish {
    /// Suites that must not be skipped.
    require: Vec<&'static str>,
    /// The only suites to run; all when empty.
    only: Vec<&'static str>,
}

/// What became of one suite.
struct Report {
    name: &'static str,
    verdict: Verdict,
    took: Duration,
}

/// `cargo xtask test [--require all|NAME,…] [--only NAME,…]`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let wish = parse(arguments)?;
    if wish.require.len() == SUITES.len() {
        process::require_everything();
    }
    let chosen = SUITES.iter().filter(|it| wish.only.is_empty() || wish.only.contains(&it.name));
    let chosen: Vec<&Suite> = chosen.collect();
    let mut reports = Vec::new();
    for (index, suite) in chosen.iter().enumerate() {
        println!("\n==> suite {} of {}: {} ({})", index + 1, chosen.len(), suite.name, suite.about);
        reports.push(run_one(suite, &wish));
    }
    print!("{}", summary(&reports));
    let all_is_well = reports.iter().all(|it| !matches!(it.verdict, Verdict::Failed(_)));
    if all_is_well { Ok(()) } else { Err(Failure::Failed) }
}

fn run_one(suite: &Suite, wish: &Wish) -> Report {
    let started = Instant::now();
    let verdict = match (suite.run)() {
        Verdict::Skipped { why, way } if wish.require.contains(&suite.name) => {
            Verdict::Failed(format!("required, but cannot run: {why}; to get it: {way}"))
        }
        verdict => verdict,
    };
    match &verdict {
        Verdict::Passed => println!("    {} passed", suite.name),
        Verdict::Failed(why) => println!("    {} FAILED: {why}", suite.name),
        Verdict::Skipped { why, .. } => println!("    {} skipped: {why}", suite.name),
    }
    Report { name: suite.name, verdict, took: started.elapsed() }
}

fn parse(arguments: &[String]) -> Result<Wish, Failure> {
    let mut wish = Wish::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let list = match flag {
            "--require" => &mut wish.require,
            "--only" => &mut wish.only,
            _ => {
                let problem = suggest::unknown("argument", flag, &["--require", "--only"]);
                return Err(Failure::Usage(problem));
            }
        };
        let Some(value) = value.or_else(|| arguments.next().cloned()) else {
            return Err(Failure::Usage(format!("{flag} needs the names of suites, or `all`")));
        };
        for name in value.split(',') {
            list.extend(suites_called(name)?);
        }
    }
    Ok(wish)
}

fn suites_called(name: &str) -> Result<Vec<&'static str>, Failure> {
    let names: Vec<&'static str> = SUITES.iter().map(|suite| suite.name).collect();
    if name == "all" {
        return Ok(names);
    }
    match names.iter().find(|known| **known == name) {
        Some(known) => Ok(vec![*known]),
        None => Err(Failure::Usage(suggest::unknown("suite", name, &names))),
    }
}

fn summary(reports: &[Report]) -> String {
    let mut text = format!("\n{:<14}{:<10}{:>8}\n", "suite", "result", "seconds");
    let mut counts = [0; 3];
    for Report { name, verdict, took } in reports {
        let (column, word) = match verdict {
            Verdict::Passed => (0, "passed"),
            Verdict::Failed(_) => (1, "FAILED"),
            Verdict::Skipped { .. } => (2, "skipped"),
        };
        counts[column] += 1;
        text += &format!("{name:<14}{word:<10}{:>8.1}\n", took.as_secs_f64());
    }
    for Report { name, verdict, .. } in reports {
        match verdict {
            Verdict::Passed => {}
            Verdict::Failed(why) => text += &format!("\nfailed: {name}: {why}\n"),
            Verdict::Skipped { why, way } => {
                text += &format!("\nskipped: {name}: {why}\n         to get it: {way}\n");
            }
        }
    }
    let [passed, failed, skipped] = counts;
    text + &format!("\n{passed} passed, {failed} failed, {skipped} skipped\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Wish, Failure> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn require_all_means_every_suite() {
        let wish = parsed("--require all").unwrap();
        assert_eq!(wish.require.len(), SUITES.len());
        assert_eq!(parsed("--require=fmt,tidy").unwrap().require, ["fmt", "tidy"]);
    }

    #[test]
    fn a_misspelt_suite_is_wrong_usage() {
        let Err(Failure::Usage(message)) = parsed("--require flask-strom") else {
            panic!("must be refused as wrong usage");
        };
        assert!(message.contains("did you mean `flask-storm`?"), "{message}");
        assert!(matches!(parsed("--require"), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_required_suite_that_cannot_run_fails() {
        let skips = || Verdict::Skipped { why: "no server".to_owned(), way: "get one".to_owned() };
        let suite = Suite { name: "fmt", about: "", run: skips };
        let free = run_one(&suite, &Wish::default());
        assert!(matches!(free.verdict, Verdict::Skipped { .. }));
        let bound = run_one(&suite, &parsed("--require fmt").unwrap());
        assert!(matches!(bound.verdict, Verdict::Failed(why) if why.contains("no server")));
    }

    #[test]
    fn the_summary_names_what_was_skipped_and_ends_with_the_counts() {
        let verdict = Verdict::Skipped { why: "no redis".to_owned(), way: "install it".to_owned() };
        let reports = [
            Report { name: "fmt", verdict: Verdict::Passed, took: Duration::ZERO },
            Report { name: "flask-storm", verdict, took: Duration::ZERO },
        ];
        let text = summary(&reports);
        assert!(text.contains("skipped: flask-storm: no redis"), "{text}");
        assert!(text.contains("to get it: install it"), "{text}");
        assert!(text.ends_with("\n1 passed, 0 failed, 1 skipped\n"), "{text}");
    }
}
