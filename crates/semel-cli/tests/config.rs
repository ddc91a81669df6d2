//! Settings as an operator writes them.
//!
//! Goal: what the guide prints works as printed, every way to give a setting counts, `/config`
//! shows what counts, and secrets come in by files and never go out. `operating/config.rs` has the
//! carets of `check-config` and the order of the sources.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may panic, and real processes are watched with the real clock"
)]
#![allow(dead_code, clippy::print_stdout, reason = "the support is shared with other tests")]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;

use self::support::{Ask, Proxy, Site, document, post, proxy_command, run_in, semel};

/// What stands between these fences of the operator's guide.
fn block(language: &str) -> String {
    let guide = document("docs/operating.md");
    let (_, from) = guide.split_once(&format!("```{language}\n")).unwrap();
    from.split_once("```").unwrap().0.to_owned()
}

fn shown(proxy: &Proxy) -> Value {
    let answer = post(proxy.admin(), &Ask::get("/config")).unwrap();
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn the_file_in_the_guide_is_fine_and_says_what_the_guide_says() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("semel.toml"), block("toml")).unwrap();
    let said = run_in(folder.path(), &["check-config", "semel.toml"]);
    assert_eq!(said, (Some(0), "semel.toml is fine\n".to_owned()));
    // Were the file not read at all, it would be fine as well.
    let broken = block("toml").replace("retention = \"72h\"", "retention = \"1h\"");
    std::fs::write(folder.path().join("semel.toml"), broken).unwrap();
    let (exit, said) = run_in(folder.path(), &["check-config", "semel.toml"]);
    assert_eq!(exit, Some(2), "{said}");
    assert!(said.contains("retry_window") && said.contains("E0101"), "{said}");
}

#[test]
fn the_configuration_shows_settings_and_nothing_else() {
    let site = Site::new();
    let proxy = site.proxy_with(&["--admin", "127.0.0.1:0", "--require-key"]);
    let config = shown(&proxy);
    let names: BTreeSet<&str> = config.as_object().unwrap().keys().map(String::as_str).collect();
    let help = semel().args(["proxy", "--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    for name in &names {
        assert!(
            help.contains(&format!("--{name}\n")) || help.contains(&format!("--{name} ")),
            "`{name}` is no flag"
        );
    }
    for name in ["upstream", "listen", "admin", "store", "lease", "retention", "on-unknown"] {
        assert!(names.contains(name), "`{name}` is not shown");
    }
    assert_eq!(config["require-key"], serde_json::json!({ "value": "true", "source": "flag" }));
}

#[test]
fn every_name_of_a_setting_counts_in_the_file() {
    let site = Site::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.toml");
    let text = "on_unknown = \"retry\"\nkey-header = [\"X-Once\", \"Idempotency-Key\"]\n\
        in-flight-max = 1_000\nrequire-key = true\n";
    std::fs::write(&path, text).unwrap();
    let proxy = site.proxy_with(&["--admin", "127.0.0.1:0", "--config", path.to_str().unwrap()]);
    let config = shown(&proxy);
    assert_eq!(config["on-unknown"]["value"], "retry");
    assert_eq!(config["key-header"]["value"], "X-Once,Idempotency-Key");
    assert_eq!(config["in-flight-max"]["value"], "1000");
    let mut ask = Ask::order("k");
    ask.fields[0] = "X-Once: other".to_owned();
    assert!([201, 201] == [proxy.ask_for(&ask).status, proxy.ask_for(&ask).status]);
    assert!(proxy.ask_for(&ask).is_replayed(), "the field of the file does not carry the key");
    ask.fields.remove(0);
    assert!(proxy.ask_for(&ask).is("key-missing"));
}

#[test]
fn a_secret_comes_from_a_file_or_the_environment_and_is_shown_nowhere() {
    let site = Site::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let secret = "correct-horse-battery-staple";
    std::fs::write(&path, format!("{secret}\n")).unwrap();
    let with = |name: &str, value: &str| {
        let mut command = proxy_command(&site, &["--admin", "127.0.0.1:0"]);
        command.env(name, value);
        Proxy::start(command)
    };
    let from_file = with("SEMEL_SECRET_FILE", path.to_str().unwrap());
    assert_eq!(from_file.ask("k").status, 201);
    assert!(!shown(&from_file).to_string().contains(secret));
    // The same secret by the other way is the same secret; another one cannot know the payload.
    assert!(with("SEMEL_SECRET", secret).ask("k").is_replayed());
    let stranger = with("SEMEL_SECRET", "a-very-different-secret").ask("k");
    assert_eq!(stranger.status, 422, "{stranger:?}");
    assert_eq!(site.upstream.effects("k"), 1);
    // The newest pages are in the log beside the file.
    for entry in std::fs::read_dir(site.store().parent().unwrap()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let is_there = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        assert!(!is_there, "the secret is stored");
    }
}
