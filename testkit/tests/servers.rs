//! The servers keep what the page of `servers` promises.
//!
//! Each test starts its own. A server that is not on this machine is skipped by name, unless
//! everything is required.

#![allow(clippy::disallowed_methods, reason = "the end of another process sends no signal")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use semel_testkit::servers::{
    PgBouncer, Postgres, Redis, RedisCluster, RedisSentinel, Reply, skips,
};

type Story = Result<(), Box<dyn std::error::Error>>;

fn text(text: &str) -> Reply {
    Reply::Text(text.to_owned())
}

#[test]
fn a_postgres_keeps_its_commits_over_a_crash() -> Story {
    if skips(Postgres::missing()) {
        return Ok(());
    }
    let mut postgres = Postgres::with(&[("application_name", "kit"), ("work_mem", "1MB")])?;
    let url = postgres.url();
    postgres.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")?;
    postgres.kill();
    assert!(postgres.sql("SELECT 1").is_err());
    postgres.start_again()?;
    assert_eq!(postgres.url(), url);
    assert_eq!(postgres.sql("SELECT n FROM t")?, "7");
    let told = postgres.sql(
        "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name
         IN ('fsync', 'synchronous_commit', 'max_connections', 'listen_addresses', 'work_mem')",
    )?;
    let wanted = "fsync=on listen_addresses=127.0.0.1 max_connections=200 \
                  synchronous_commit=on work_mem=1024";
    assert_eq!(told, wanted);
    Ok(())
}

#[test]
fn a_postgres_lets_nobody_in_without_the_password() -> Story {
    if skips(Postgres::missing()) {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    assert_eq!(postgres.sql("SHOW password_encryption")?, "scram-sha-256");
    let rules = postgres.sql("SELECT DISTINCT auth_method FROM pg_hba_file_rules")?;
    assert_eq!(rules, "scram-sha-256");
    assert_eq!(postgres.sql("SELECT usesuper FROM pg_user WHERE usename = 'semel'")?, "t");
    Ok(())
}

#[test]
fn a_standby_follows_until_it_is_promoted() -> Story {
    if skips(Postgres::missing()) {
        return Ok(());
    }
    let mut primary = Postgres::start()?;
    primary.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")?;
    let standby = primary.replica()?;
    primary.sql("INSERT INTO t VALUES (2)")?;
    standby.catch_up(&primary)?;
    assert_eq!(standby.sql("SELECT count(*) FROM t")?, "2");
    let refused = standby.sql("INSERT INTO t VALUES (3)").unwrap_err().to_string();
    assert!(refused.contains("read-only"), "{refused}");
    primary.kill();
    standby.promote()?;
    standby.sql("INSERT INTO t VALUES (3)")?;
    assert_eq!(standby.sql("SELECT count(*) FROM t")?, "3");
    assert!(standby.promote().is_err());
    Ok(())
}

#[test]
fn a_postgres_with_tls_can_be_verified_and_refuses_plain_text() -> Story {
    if skips(Postgres::missing()) {
        return Ok(());
    }
    let postgres = Postgres::with_tls()?;
    let root = postgres.root_certificate().ok_or("no certificate")?.display().to_string();
    let psql = |mode: &str| {
        let url = format!("{}?sslmode={mode}&sslrootcert={root}", postgres.url());
        let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Command::new("psql").args(["-X", "-A", "-t", "-c", query, &url]).output()
    };
    assert_eq!(psql("verify-full")?.stdout, b"t\n");
    assert!(!psql("disable")?.status.success());
    // Copying it and pooling for it go through TLS as well.
    assert_eq!(postgres.replica()?.sql("SELECT pg_is_in_recovery()")?, "t");
    if !skips(PgBouncer::missing()) {
        assert_eq!(PgBouncer::start(&postgres)?.sql("SELECT 7")?, "7");
    }
    Ok(())
}

#[test]
fn a_pooler_shares_few_connections_among_many_clients() -> Story {
    if skips(PgBouncer::missing()) {
        return Ok(());
    }
    let postgres = Postgres::start()?;
    let mut pooler = PgBouncer::with(&postgres, &[("default_pool_size", "1")])?;
    let process = "SELECT pg_backend_pid()";
    assert_eq!(pooler.sql(process)?, pooler.sql(process)?);
    assert_ne!(postgres.sql(process)?, postgres.sql(process)?);
    pooler.kill();
    assert!(pooler.sql(process).is_err());
    pooler.start_again()?;
    pooler.sql(process)?;
    Ok(())
}

#[test]
fn a_redis_with_tls_can_be_verified() -> Story {
    if skips(Redis::missing()) {
        return Ok(());
    }
    let redis = Redis::with_tls()?;
    assert_eq!(redis.url(), format!("rediss://127.0.0.1:{}", redis.port()));
    let root = redis.root_certificate().ok_or("no certificate")?;
    let output = Command::new("redis-cli")
        .args(["--tls", "-u", &redis.url(), "--cacert"])
        .arg(root)
        .arg("PING")
        .output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PONG\n");
    redis.ask(&["PING"])?;
    Ok(())
}

#[test]
fn a_redis_keeps_its_keys_over_a_crash() -> Story {
    if skips(Redis::missing()) {
        return Ok(());
    }
    let mut redis = Redis::with(&[("appendfsync", "always")])?;
    let url = redis.url();
    redis.ask(&["SET", "key", "value"])?;
    redis.kill();
    assert!(redis.ask(&["PING"]).is_err());
    redis.start_again()?;
    assert_eq!(redis.url(), url);
    assert_eq!(redis.ask(&["GET", "key"])?, text("value"));
    let policy = redis.ask(&["CONFIG", "GET", "maxmemory-policy"])?;
    assert_eq!(policy.list(), [text("maxmemory-policy"), text("noeviction")]);
    Ok(())
}

#[test]
fn a_frozen_redis_does_not_answer_until_it_is_thawed() -> Story {
    use std::io::{Read, Write};
    if skips(Redis::missing()) {
        return Ok(());
    }
    let redis = Redis::start()?;
    let mut client = std::net::TcpStream::connect(("127.0.0.1", redis.port()))?;
    redis.freeze();
    client.write_all(b"PING\r\n")?;
    client.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
    assert!(client.read(&mut [0]).is_err());
    redis.thaw();
    client.set_read_timeout(None)?;
    assert_eq!(client.read(&mut [0; 16])?, "+PONG\r\n".len());
    Ok(())
}

#[test]
fn a_redis_with_a_user_or_a_password_says_so_in_its_url() -> Story {
    if skips(Redis::missing()) {
        return Ok(());
    }
    let redis = Redis::with_user("anna", "secret")?;
    assert_eq!(redis.url(), format!("redis://anna:secret@127.0.0.1:{}", redis.port()));
    assert_eq!(redis.ask(&["ACL", "WHOAMI"])?, text("anna"));
    let redis = Redis::with_password("secret")?;
    assert_eq!(redis.url(), format!("redis://:secret@127.0.0.1:{}", redis.port()));
    assert_eq!(redis.ask(&["PING"])?, text("PONG"));
    Ok(())
}

#[test]
fn a_cluster_serves_every_slot_and_moves_one_with_its_keys() -> Story {
    if skips(RedisCluster::missing()) {
        return Ok(());
    }
    let cluster = RedisCluster::start()?;
    assert!(cluster.url().starts_with("redis-cluster://127.0.0.1:"));
    assert_eq!(cluster.url().matches(',').count(), 2);
    let slot = cluster.slot("{tag}0")?;
    let from = cluster.owner(slot)?;
    let to = (from + 1) % 3;
    for n in 0..250 {
        cluster.ask(from, &["SET", &format!("{{tag}}{n}"), "value"])?;
    }
    cluster.begin_move(slot, to)?;
    let sent_on = cluster.ask(from, &["GET", "{tag}none"]).unwrap_err().to_string();
    assert!(sent_on.contains("ASK"), "{sent_on}");
    cluster.finish_move(slot, to)?;
    assert_eq!(cluster.owner(slot)?, to);
    assert_eq!(cluster.ask(to, &["GET", "{tag}249"])?, text("value"));
    let moved = cluster.ask(from, &["GET", "{tag}249"]).unwrap_err().to_string();
    assert!(moved.contains("MOVED"), "{moved}");
    Ok(())
}

#[test]
fn a_cluster_refuses_work_while_a_node_is_down_and_recovers() -> Story {
    if skips(RedisCluster::missing()) {
        return Ok(());
    }
    let mut cluster = RedisCluster::with(&[("appendfsync", "always")])?;
    let owner = cluster.owner(cluster.slot("key")?)?;
    cluster.ask(owner, &["SET", "key", "value"])?;
    cluster.kill_node(owner);
    assert!(cluster.ask(owner, &["GET", "key"]).is_err());
    cluster.start_node_again(owner)?;
    assert_eq!(cluster.ask(owner, &["GET", "key"])?, text("value"));
    Ok(())
}

#[test]
fn the_sentinels_promote_a_replica_that_has_lost_writes() -> Story {
    if skips(RedisSentinel::missing()) {
        return Ok(());
    }
    let mut pair = RedisSentinel::with_sentinels(3)?;
    assert!(pair.url().ends_with("/mymaster") && pair.url().matches(',').count() == 2);
    assert_eq!(pair.primary(), 0);
    pair.ask(0, &["SET", "early", "1"])?;
    pair.ask(0, &["WAIT", "1", "5000"])?;
    pair.pause_replication()?;
    pair.ask(0, &["SET", "late", "1"])?;
    pair.kill_primary();
    pair.wait_for_promotion()?;
    assert_eq!(pair.primary(), 1);
    assert_eq!(pair.ask(1, &["GET", "early"])?, text("1"));
    assert_eq!(pair.ask(1, &["GET", "late"])?, Reply::Nothing);
    pair.start_again()?;
    assert_eq!(pair.ask(0, &["GET", "late"])?, Reply::Nothing);
    Ok(())
}

#[test]
fn paused_replication_can_go_on() -> Story {
    if skips(RedisSentinel::missing()) {
        return Ok(());
    }
    let pair = RedisSentinel::start()?;
    pair.pause_replication()?;
    pair.ask(0, &["SET", "key", "1"])?;
    pair.resume_replication()?;
    pair.ask(0, &["WAIT", "1", "5000"])?;
    assert_eq!(pair.ask(1, &["GET", "key"])?, text("1"));
    Ok(())
}

/// The other half of the next test, in a process of its own.
#[test]
#[ignore = "it waits to be killed"]
fn holds_servers_until_it_is_killed() -> Story {
    let postgres = Postgres::start()?;
    let redis = Redis::start()?;
    // Frozen ones cannot notice by themselves that nobody is left.
    postgres.freeze();
    println!("\nheld {} {}", redis.folder().display(), postgres.port());
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

#[test]
fn nothing_survives_a_test_that_is_killed() -> Story {
    use std::io::{BufRead, BufReader};
    if skips(Postgres::missing()) || skips(Redis::missing()) {
        return Ok(());
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "holds_servers_until_it_is_killed", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no pipe")?;
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let held = lines.find_map(|line| line.strip_prefix("held ").map(str::to_owned));
    child.kill()?;
    child.wait()?;
    let held = held.ok_or("the servers did not start")?;
    let (folder, port) = held.split_once(' ').ok_or("no port")?;
    // The folder goes last, after every process that used it.
    while Path::new(folder).exists() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let port: u16 = port.parse()?;
    while std::net::TcpListener::bind(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
