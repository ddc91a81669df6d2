//! How the tables come to be.

use semel::ErrorKind;
use semel_kafka::{PostgresLedger, SqliteLedger, Window};

use super::support::{block_on, name, patient, pool, see, server, take};

/// The URL of a new and empty database.
fn database() -> Option<String> {
    let server = server()?;
    let database = name("tables").replace('-', "_");
    server.sql(&format!("CREATE DATABASE {database}")).unwrap();
    Some(server.url().rsplit_once('/').unwrap().0.to_owned() + "/" + &database)
}

async fn works(ledger: &PostgresLedger) {
    let group = name("group");
    take(ledger, &group, &[0]).await;
    assert_eq!(see(ledger, &group, &Window::endless(), &["a", "a"]).await, [true, false]);
}

#[test]
fn missing_tables_are_refused_with_the_way_out() {
    block_on(async {
        let Some(url) = database() else { return };
        let ledger = patient(pool(&url, 2));
        let error = ledger.check().await.unwrap_err();
        assert!(error.to_string().contains("PostgresLedger::migrate"), "{error}");
        let partitions = [super::support::partition(0)];
        let error = semel_kafka::ledger::Ledger::take(&ledger, "g", &partitions).await.unwrap_err();
        assert!(error.to_string().contains("PostgresLedger::migrate"), "{error}");
    });
}

#[test]
fn several_programs_may_migrate_at_once_and_again() {
    block_on(async {
        let Some(url) = database() else { return };
        let programs: Vec<_> = (0..4)
            .map(|_| {
                let ledger = patient(pool(&url, 1));
                tokio::spawn(async move { ledger.migrate().await })
            })
            .collect();
        for program in programs {
            program.await.unwrap().unwrap();
        }
        let ledger = patient(pool(&url, 2));
        ledger.migrate().await.unwrap();
        ledger.check().await.unwrap();
        works(&ledger).await;
    });
}

#[test]
fn another_tool_can_run_the_steps() {
    block_on(async {
        let Some(url) = database() else { return };
        let pool = pool(&url, 2);
        for step in PostgresLedger::MIGRATIONS {
            pool.get().await.unwrap().batch_execute(step).await.unwrap();
        }
        let ledger = patient(pool);
        ledger.check().await.unwrap();
        ledger.migrate().await.unwrap();
        works(&ledger).await;
    });
}

#[test]
fn tables_of_a_newer_program_are_refused() {
    block_on(async {
        let Some(url) = database() else { return };
        let pool = pool(&url, 2);
        let ledger = patient(pool.clone());
        ledger.migrate().await.unwrap();
        let newer = "INSERT INTO semel_kafka.migration (version, name) VALUES (2, 'more')";
        pool.get().await.unwrap().batch_execute(newer).await.unwrap();
        assert_eq!(ledger.check().await.unwrap_err().kind(), ErrorKind::TooNew);
        assert_eq!(ledger.migrate().await.unwrap_err().kind(), ErrorKind::TooNew);
    });
}

#[test]
fn a_file_that_is_no_ledger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no database, and long enough to be sure of it".repeat(100)).unwrap();
    let kind = |path: &std::path::Path| SqliteLedger::open(path).unwrap_err().kind();
    assert_eq!(kind(&text), ErrorKind::Corrupt);
    assert_eq!(kind(":memory:".as_ref()), ErrorKind::Invalid);
    assert_eq!(kind(&folder.path().join("no/such/folder")), ErrorKind::Unavailable);
    let newer = folder.path().join("newer.db");
    drop(SqliteLedger::open(&newer).unwrap());
    let update = "UPDATE semel_kafka_meta SET value = 2";
    rusqlite::Connection::open(&newer).unwrap().execute_batch(update).unwrap();
    assert_eq!(kind(&newer), ErrorKind::TooNew);
}
