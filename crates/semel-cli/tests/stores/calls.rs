//! What a call of the program says and how it ends.

use super::support::semel;

/// Exit code, standard output and standard error of `semel` with these words before the store.
pub(crate) fn call(words: &[&str], url: &str) -> (Option<i32>, String, String) {
    let output = semel().args(words).args(["--store", url]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (said, complained) = (text(output.stdout), text(output.stderr));
    assert!(!complained.contains("panicked"), "{words:?}: {complained}");
    (output.status.code(), said, complained)
}

/// A call that must succeed in silence, and its output.
pub(crate) fn call_ok(words: &[&str], url: &str) -> String {
    let (exit, said, complained) = call(words, url);
    assert_eq!((exit, complained.as_str()), (Some(0), ""), "{words:?}: {said}");
    said
}

/// A call that must fail with this code and say all these parts.
pub(crate) fn call_fails(words: &[&str], url: &str, code: i32, parts: &[&str]) -> String {
    let (exit, said, complained) = call(words, url);
    assert_eq!(exit, Some(code), "{words:?}: {said}{complained}");
    for part in parts {
        assert!(complained.contains(part), "{words:?}: no `{part}` in {complained}");
    }
    complained
}

/// Every command that opens a store and ends by itself.
pub(crate) const ALL: [&[&str]; 4] = [
    &["doctor"],
    &["records", "ls"],
    &["records", "release", "k", "--reason", "none"],
    &["proxy", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0"],
];
