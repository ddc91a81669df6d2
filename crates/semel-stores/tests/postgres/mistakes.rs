//! Wrong settings and servers in trouble: a clear word, nothing done, and it goes on without a
//! restart.

use std::future::Future;
use std::io::{Read, Write};
use std::time::Duration;

use semel::{ErrorKind, Store, TransactionalStore};
use semel_stores::postgres::{PostgresOptions, migrate};
use semel_testkit::servers::{PgBouncer, Postgres, skips};

use super::support::{
    Place, acquire, answer, block_on, client, finish, patient, request, schema_name, sql, url,
};

fn impatient() -> PostgresOptions {
    let time = Duration::from_millis(300);
    PostgresOptions::default().patience(time).response_timeout(time).connect_timeout(time)
}

async fn refusal(url: &str, options: PostgresOptions) -> semel::Error {
    options.connect(url).await.expect_err("it must be refused")
}

#[test]
fn a_wrong_user_password_database_or_port_is_named_without_the_password() {
    block_on(async {
        let Some(url) = url() else { return };
        let wrong = |from: &str, to: &str| url.replace(from, to);
        for (url, word) in [
            (wrong("semel:semel@", "semel:hunter2@"), "refuses the user or the password"),
            (wrong("semel:semel@", "nobody:hunter2@"), "refuses the user or the password"),
            (format!("{url}x"), "does not exist"),
            (wrong("127.0.0.1:", "127.0.0.1:1/x?port="), "wrong"),
        ] {
            let error = refusal(&url, impatient()).await;
            assert!(error.to_string().contains(word), "{url}: {error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let nobody = refusal("postgres://u:hunter2@127.0.0.1:9/d", impatient()).await;
        assert_eq!(nobody.kind(), ErrorKind::Unavailable);
        assert!(nobody.to_string().contains("cannot be reached"), "{nobody}");
    });
}

#[test]
fn a_wrong_port_is_told_with_the_way_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                // Whoever has asked hears it, or has gone already; all of it is read, because a
                // close before that would cut the answer off.
                drop(connection.read(&mut [0; 1]));
                drop(connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
                drop(connection.shutdown(std::net::Shutdown::Write));
                drop(std::io::copy(&mut connection, &mut std::io::sink()));
            });
        }
    });
    block_on(async {
        let nobody = refusal("postgres://u:p@127.0.0.1:1/d", impatient()).await.to_string();
        assert!(nobody.contains("is it running, and is the port right?"), "{nobody}");
        for mode in ["disable", "prefer"] {
            let url = format!("postgres://u:p@{place}/d?sslmode={mode}");
            let web = refusal(&url, impatient()).await.to_string();
            assert!(web.contains("is no PostgreSQL: is the port right?"), "{web}");
        }
    });
}

#[test]
fn tables_that_are_missing_or_newer_are_refused_and_the_way_out_is_named() {
    block_on(async {
        let Some(url) = url() else { return };
        let options = PostgresOptions::default().schema(&schema_name());
        let missing = refusal(&url, options.clone()).await;
        assert!(missing.to_string().contains("semel migrate up"), "{missing}");
        let steps = migrate::status(&url, options.clone()).await.unwrap();
        assert!(steps.iter().all(|step| step.applied.is_none()));

        let place = Place::at(&url, options).await;
        let steps = migrate::status(&url, place.options()).await.unwrap();
        assert!(steps.iter().all(|step| step.applied.is_some()));
        assert!(
            migrate::up(&url, place.options()).await.unwrap().is_empty(),
            "nothing to do twice"
        );
        place
            .sql("INSERT INTO semel.migration (version, name) VALUES (99, 'from the future')")
            .await;
        let newer = refusal(&url, place.options()).await;
        assert_eq!(newer.kind(), ErrorKind::TooNew, "{newer}");
        let newer = migrate::up(&url, place.options()).await.unwrap_err();
        assert_eq!(newer.kind(), ErrorKind::TooNew, "{newer}");
    });
}

#[test]
fn many_programs_may_migrate_at_once() {
    block_on(async {
        let Some(url) = url() else { return };
        let options = PostgresOptions::default().schema(&schema_name());
        let ups = (0..8).map(|_| migrate::up(&url, options.clone()));
        let done = futures_util::future::join_all(ups).await;
        let applied: usize = done.into_iter().map(|done| done.unwrap().len()).sum();
        assert_eq!(applied, migrate::status(&url, options).await.unwrap().len());
    });
}

#[test]
fn tables_that_disappear_are_an_error_and_come_back_without_a_restart() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.postgres();
        finish(&*store, "before", "done").await.unwrap();
        place.sql("ALTER TABLE semel.open RENAME TO gone").await;
        let error = store.claim(&request("k")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("semel migrate up"), "{error}");
        place.sql("ALTER TABLE semel.gone RENAME TO open").await;
        finish(&*store, "k", "done").await.unwrap();
        assert_eq!(answer(&*store, "before").await, "done");
    });
}

#[test]
fn a_strict_default_isolation_does_not_weaken_claims() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        // As an administrator may have set it; a pooler keeps us from setting it back.
        let schema = &place.schema;
        sql(&place.url, &format!("CREATE ROLE strict_{schema} SUPERUSER LOGIN PASSWORD 'x'")).await;
        sql(
            &place.url,
            &format!("ALTER ROLE strict_{schema} SET default_transaction_isolation = serializable"),
        )
        .await;
        let url = place.url.replace("semel:semel", &format!("strict_{schema}:x"));
        let behind_pooler = place.options().transaction_pooler(true).connect(&url).await.unwrap();
        let error = behind_pooler.claim(&request("k")).await.unwrap_err();
        assert!(error.to_string().contains("wrong isolation"), "{error}");
        let direct = place.options().connect(&url).await.unwrap();
        acquire(&direct, "k").await;
    });
}

#[test]
fn a_statement_time_out_of_the_server_is_told_and_loses_nothing() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let store = place.options().batch_max(1).pool(2).connect(&place.url).await.unwrap();
        let fence = acquire(&store, "k").await;
        let other = client(&place.url).await;
        let lock = format!("BEGIN; LOCK TABLE {}.open IN ACCESS EXCLUSIVE MODE", place.schema);
        other.batch_execute(&lock).await.unwrap();
        let impatient = impatient().schema(&place.schema);
        let blocked = impatient.connect(&place.url).await.unwrap();
        let error = blocked.claim(&request("other")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!error.outcome_unknown(), "a claim executes nothing");
        let late = super::support::completion("k", fence, "done");
        let error = blocked.complete(&late).await.unwrap_err();
        assert!(error.outcome_unknown(), "it may have been done: {error}");
        other.batch_execute("ROLLBACK").await.unwrap();
        store.complete(&late).await.unwrap();
        assert_eq!(answer(&blocked, "k").await, "done");
    });
}

#[test]
fn a_read_only_standby_is_refused_for_what_it_is_and_serves_once_it_is_promoted() {
    if skips(Postgres::missing()) {
        return;
    }
    block_on(async {
        let primary = Postgres::start().unwrap();
        migrate::up(&primary.url(), patient()).await.unwrap();
        let store = patient().connect(&primary.url()).await.unwrap();
        finish(&store, "old", "kept").await.unwrap();
        let standby = primary.replica().unwrap();
        standby.catch_up(&primary).unwrap();
        let on_standby = impatient().connect(&standby.url()).await.unwrap();
        let error = on_standby.claim(&request("k")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("read-only"), "{error}");

        // Both hosts in one URL: the driver finds the one that takes writes.
        let both = format!(
            "postgres://semel:semel@127.0.0.1:{},127.0.0.1:{}/semel\
             ?target_session_attrs=read-write",
            primary.port(),
            standby.port()
        );
        let found = patient().connect(&both).await.unwrap();
        finish(&found, "k", "on the primary").await.unwrap();
        standby.catch_up(&primary).unwrap();
        drop(primary);
        standby.promote().unwrap();
        assert_eq!(answer(&found, "k").await, "on the primary");
        finish(&found, "after", "on the new primary").await.unwrap();
        finish(&on_standby, "here", "without a restart").await.unwrap();
    });
}

#[test]
fn a_pool_whose_connections_are_all_in_use_says_so() {
    block_on(async {
        let Some(place) = Place::new().await else { return };
        let time = Duration::from_secs(4);
        let options = place.options().patience(time).transactions_max(1);
        let store = options.connect(&place.url).await.unwrap();
        let transaction = store.begin().await.unwrap();
        let error = store.begin().await.unwrap_err();
        assert!(error.to_string().contains("all connections"), "{error}");
        // Transactions of handlers do not starve the store's own calls.
        acquire(&store, "k").await;
        store.rollback(transaction).await.unwrap();
        let again = store.begin().await.unwrap();
        store.rollback(again).await.unwrap();
    });
}

#[test]
fn it_works_behind_a_pooler_of_transactions() {
    if skips(Postgres::missing()) || skips(PgBouncer::missing()) {
        return;
    }
    block_on(async {
        let postgres = Postgres::start().unwrap();
        let pooler = PgBouncer::start(&postgres).unwrap();
        let unnamed = refusal(&pooler.url(), impatient()).await;
        assert!(unnamed.to_string().contains("pooler=transaction"), "{unnamed}");
        let url = format!("{}?pooler=transaction", pooler.url());
        migrate::up(&url, patient()).await.unwrap();
        let store = patient().connect(&url).await.unwrap();
        let all = (0..300).map(|it| {
            let store = &store;
            async move { finish(store, &format!("k{it}"), "done").await.unwrap() }
        });
        futures_util::future::join_all(all).await;
        assert_eq!(answer(&store, "k299").await, "done");
        let transaction = store.begin().await.unwrap();
        transaction.query_typed("SELECT 1", &[]).await.unwrap();
        store.rollback(transaction).await.unwrap();
    });
}

#[test]
fn tls_is_verified_when_that_is_asked_for() {
    if skips(Postgres::missing()) {
        return;
    }
    block_on(async {
        let postgres = Postgres::with_tls().unwrap();
        let url = postgres.url();
        let root = postgres.root_certificate().unwrap().display().to_string();
        migrate::up(&format!("{url}?sslmode=require"), patient()).await.unwrap();
        let trusted = format!("{url}?sslmode=verify-full&sslrootcert={root}");
        let store = patient().connect(&trusted).await.unwrap();
        assert!(store.facts().await.unwrap().is_encrypted);
        finish(&store, "k", "in private").await.unwrap();
        let stranger = refusal(&format!("{url}?sslmode=verify-full"), impatient()).await;
        assert!(stranger.to_string().contains("certificate"), "{stranger}");
        let no_file = format!("{url}?sslmode=verify-full&sslrootcert=/no/such/file");
        let no_file = refusal(&no_file, impatient()).await;
        assert_eq!(no_file.kind(), ErrorKind::Invalid);
        assert!(no_file.to_string().contains("sslrootcert"), "{no_file}");
    });
}

#[test]
fn outside_a_runtime_it_says_so_instead_of_panicking() {
    let connecting = PostgresOptions::default().connect("postgres://u:p@127.0.0.1:9/d");
    let mut connecting = std::pin::pin!(connecting);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = connecting.as_mut().poll(&mut context) else {
        panic!("it must be refused at once");
    };
    assert_eq!(error.kind(), ErrorKind::Settings, "{error}");
}
