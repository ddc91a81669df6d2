//! Where settings come from, and what a wrong file says.

use std::process::Output;

use super::support::{Ask, Site, post, semel};

fn check(text: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.toml");
    std::fs::write(&path, text).unwrap();
    let mut command = semel();
    // The environment counts, and would hide what the file says.
    command.args(["check-config", "semel.toml"]).env_remove("SEMEL_LOG");
    let Output { status, stdout, stderr } = command.current_dir(folder.path()).output().unwrap();
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
    assert_eq!(pair("lease"), ("11s", "file"));
    assert_eq!(pair("on-unknown"), ("hold", "default"));
    assert_eq!(proxy.ask("k").status, 201);
    assert!(site.store().exists(), "SEMEL_STORE_FILE did not count");
}

/// What a call says in an empty folder with two files: `url` names the store `from-file.db`, and
/// `semel.toml` has this text.
fn called(arguments: &[&str], variables: &[(&str, &str)], toml: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), "sqlite:from-file.db\n").unwrap();
    std::fs::write(folder.path().join("semel.toml"), toml).unwrap();
    let mut command = semel();
    command.args(arguments).envs(variables.iter().copied()).current_dir(folder.path());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn of_two_ways_to_name_the_store_the_stronger_source_counts() {
    let (flag, file) = (["--store", "sqlite:flag.db"], ["--store-file", "url"]);
    let (variable, file_variable) = (("SEMEL_STORE", "sqlite:env.db"), ("SEMEL_STORE_FILE", "url"));
    for command in [&["doctor"][..], &["records", "ls"]] {
        for (flags, variables, store) in [
            (&flag[..], &[file_variable][..], "flag.db"),
            (&file, &[variable], "from-file.db"),
            (&[], &[variable], "env.db"),
            (&[], &[file_variable], "from-file.db"),
            (&[], &[], "semel.db"),
        ] {
            let (code, said) = called(&[command, flags].concat(), variables, "");
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(&format!("{store};")), "{flags:?} {variables:?}: {said}");
        }
        for (flags, variables, one, other) in [
            (&[flag, file].concat()[..], &[][..], "'--store'", "'--store-file'"),
            (&[], &[variable, file_variable], "'SEMEL_STORE'", "'SEMEL_STORE_FILE'"),
        ] {
            let (code, said) = called(&[command, flags].concat(), variables, "");
            assert_eq!(code, Some(2), "{said}");
            assert!(said.contains(one) && said.contains(other), "{said}");
        }
    }
}

#[test]
fn a_variable_wins_over_its_rival_in_the_file() {
    let site = Site::new();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("semel.toml");
    let unused = format!("store-file = \"{}/no-such\"\n", folder.path().display());
    std::fs::write(&config, unused + "tenant-header = \"X-Who\"\n").unwrap();
    let mut command = semel();
    command
        .args(["proxy", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--single-tenant"])
        .args(["--upstream", &format!("http://{}", site.upstream.address), "--config"])
        .arg(&config)
        .env("SEMEL_STORE", super::support::url(&site.store()));
    let proxy = super::support::Proxy::start(command);
    assert_eq!(proxy.ask("k").status, 201);
    assert!(site.records_ok(&["get", "k"]).contains("completed"), "SEMEL_STORE did not count");
    // One tenant, whoever asks.
    let other = Ask::order("k").field("Authorization: Bearer bob").field("X-Who: bob");
    assert!(proxy.ask_for(&other).is_replayed(), "--single-tenant did not count");
    let shown = post(proxy.admin(), &Ask::get("/config")).unwrap().body;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["store"]["source"], "environment");
    assert_eq!(shown["single-tenant"]["value"], "true");
    for loser in ["store-file", "tenant-header"] {
        assert!(shown.get(loser).is_none(), "{loser} is shown although it does not count");
    }
}

#[test]
fn a_secret_that_is_given_twice_is_a_question_or_the_stronger_one() {
    let proxy = ["proxy", "--upstream", "http://127.0.0.1:1", "--listen", "nonsense"];
    let (short, file) = (("SEMEL_SECRET", "short"), ("SEMEL_SECRET_FILE", "url"));
    let (code, said) = called(&proxy, &[short, file], "");
    assert_eq!(code, Some(2));
    assert!(said.contains("'SEMEL_SECRET_FILE'") && said.contains("'SEMEL_SECRET'"), "{said}");
    // Only the one that counts is looked at: the first call fails for its address alone.
    let check = ["check-config", "semel.toml"];
    let upstream = "upstream = \"http://app:8000\"\n";
    let with_file = format!("{upstream}secret-file = \"no-such\"\n");
    let long = ("SEMEL_SECRET", "0123456789abcdef");
    assert_eq!(called(&check, &[long], &with_file), (Some(0), String::new()));
    let (code, said) = called(&check, &[short], upstream);
    assert_eq!(code, Some(2));
    assert!(said.contains("at least 16") && !said.contains("short"), "{said}");
}

#[test]
fn switches_in_variables_are_read_as_people_write_them() {
    let site = Site::new();
    let mut keyless = Ask::order("k");
    keyless.fields.remove(0);
    for (value, status) in [("1", 400), ("yes", 400), ("true", 400), ("0", 201), ("off", 201)] {
        let mut command = semel();
        command
            .args(["proxy", "--listen", "127.0.0.1:0", "--store", "memory:"])
            .args(["--upstream", &format!("http://{}", site.upstream.address)])
            .env("SEMEL_REQUIRE_KEY", value);
        let proxy = super::support::Proxy::start(command);
        assert_eq!(proxy.ask_for(&keyless).status, status, "SEMEL_REQUIRE_KEY={value}");
    }
}

#[test]
fn a_wrong_value_is_told_with_the_variable_that_holds_it() {
    let proxy = ["proxy", "--upstream", "http://127.0.0.1:1"];
    let (code, said) = called(&proxy, &[("SEMEL_LEASE", "abc")], "");
    assert_eq!(code, Some(2));
    assert!(said.contains("help: the value comes from the variable SEMEL_LEASE"), "{said}");
    let typed = [&proxy[..], &["--lease", "abc"]].concat();
    let (code, said) = called(&typed, &[("SEMEL_LEASE", "abc")], "");
    assert_eq!(code, Some(2));
    assert!(!said.contains("SEMEL_LEASE"), "{said}");
}

#[test]
fn what_the_proxy_would_refuse_at_its_start_is_found_without_starting() {
    for (text, expected) in [
        ("listen = \"nonsense\"", "--listen `nonsense` is no address"),
        ("admin = \"9090\"", "--admin `9090` is no address"),
        ("log = \"a=b=c\"", "the log filter `a=b=c` is not understood"),
        ("store = \"mysql://db\"", "`mysql:`"),
        ("store = \"sqlite:\"", "lacks its path"),
        ("store-patience = \"60s\"", "store_patience (60s)"),
        ("on-unknown = \"hold\"\non_unknown = \"hold\"", "is there twice"),
        ("store = \"memory:\"\nstore-file = \"x\"", "`store-file` cannot be used with `store`"),
        ("single-tenant = true\ntenant-header = \"X\"", "cannot be used with `single-tenant`"),
    ] {
        let (code, said) = check(&format!("upstream = \"http://app:8000\"\n{text}\n"));
        assert_eq!(code, Some(2), "{text}: {said}");
        assert!(said.contains(expected), "{text}: {said}");
    }
    let (code, said) = check("upstream = \"http://app:99999\"\n");
    assert!(code == Some(2) && said.contains("no usable port"), "{said}");
    let fine = "upstream = \"http://[::1]\"\nsingle-tenant = false\ntenant-header = \"X\"\n";
    assert_eq!(check(fine), (Some(0), "semel.toml is fine\n".to_owned()));
}
