//! Where settings come from, and what a wrong file says.

use std::process::Output;

use super::support::{Ask, Site, post, semel};

fn check(text: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.toml");
    std::fs::write(&path, text).unwrap();
    let Output { status, stdout, stderr } =
        semel().args(["check-config", "semel.toml"]).current_dir(folder.path()).output().unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[test]
fn a_mistake_in_the_file_is_shown_with_line_and_caret() {
    let upstream = "upstream = \"http://app:8000\"\n";
    for (text, expected) in [
        (
            "leese = \"30s\"\n",
            "error: the setting `leese` is unknown\n --> semel.toml:2:1\n  |\n2 | leese = \"30s\"\n\
             \x20 | ^^^^^\nhelp: did you mean `lease`?\n",
        ),
        (
            "lease = \"30\"\n",
            "error: invalid value '30' for '--lease <DUR>': `30` is not a length of time; write a \
             whole number and ms, s, m, h or d, for example `30s`\n --> semel.toml:2:9\n  |\n2 | \
             lease = \"30\"\n  |         ^^^^\n",
        ),
        (
            "require-key = \"perhaps\"\n",
            "error: the setting `require-key` is true or false\n --> semel.toml:2:15\n  |\n2 | \
             require-key = \"perhaps\"\n  |               ^^^^^^^^^\n",
        ),
    ] {
        assert_eq!(check(&format!("{upstream}{text}")), (Some(2), expected.to_owned()));
    }
    let (code, said) = check("upstream = \"http://app\nlease = \"30s\"\n");
    assert_eq!(code, Some(2));
    assert!(said.contains("semel.toml:1:") && said.contains('^'), "{said}");
    let (code, said) = check("lease = \"30s\"\n");
    assert_eq!(code, Some(2));
    assert!(said.contains("--upstream <URL>") && said.contains("set it in semel.toml"), "{said}");
}

#[test]
fn settings_that_contradict_each_other_are_found_without_starting() {
    let upstream = "upstream = \"http://app:8000\"\n";
    for (text, one, other) in [
        ("retention = \"10s\"", "retention", "lease"),
        ("wait = \"24h\"", "wait", "retention"),
        ("retry-window = \"48h\"", "retention", "retry_window"),
        ("execution-max = \"10s\"", "lease", "execution_max"),
        ("in-flight-max = 0", "in_flight_max", "0"),
        ("upstream-in-flight-max = 0", "upstream_in_flight_max", "0"),
    ] {
        let (code, said) = check(&format!("{upstream}{text}\n"));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(one) && said.contains(other) && said.contains("E0101"), "{said}");
    }
    let fine = "on_unknown = \"retry\"\nmethods = [\"POST\"]\nretention = \"72h\"\n";
    assert_eq!(check(&format!("{upstream}{fine}")), (Some(0), "semel.toml is fine\n".to_owned()));
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let site = Site::new();
    let folder = tempfile::tempdir().unwrap();
    let (config, store_file) = (folder.path().join("semel.toml"), folder.path().join("url"));
    std::fs::write(&config, "lease = \"11s\"\nretention = \"30h\"\nwait = \"1s\"\n").unwrap();
    std::fs::write(&store_file, format!("{}\n", super::support::url(&site.store()))).unwrap();
    let mut command = semel();
    command
        .args(["proxy", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--wait", "3s"])
        .args(["--upstream", &format!("http://{}", site.upstream.address)])
        .arg("--config")
        .arg(&config)
        .env("SEMEL_STORE_FILE", &store_file)
        .env("SEMEL_RETENTION", "40h")
        .env("SEMEL_WAIT", "2s");
    let proxy = super::support::Proxy::start(command);
    let shown = post(proxy.admin(), &Ask::get("/config")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&shown.body).unwrap();
    let pair = |name: &str| {
        let setting = &config[name];
        (setting["value"].as_str().unwrap(), setting["source"].as_str().unwrap())
    };
    assert_eq!(pair("wait"), ("3s", "flag"));
    assert_eq!(pair("retention"), ("40h", "environment"));
    assert_eq!(pair("lease"), ("11s", "file or default"));
    assert_eq!(pair("on-unknown"), ("hold", "file or default"));
    assert_eq!(proxy.ask("k").status, 201);
    assert!(site.store().exists(), "SEMEL_STORE_FILE did not count");
}
