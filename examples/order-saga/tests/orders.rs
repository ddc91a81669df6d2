//! The program as its page shows it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

fn order(db: &Path, words: [&str; 3]) -> String {
    let program = env!("CARGO_BIN_EXE_order-saga");
    let output = Command::new(program).arg(db).args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn journal(db: &Path) -> Vec<String> {
    let shop = rusqlite::Connection::open(db).unwrap();
    let mut lines = shop.prepare("SELECT line FROM journal ORDER BY rowid").unwrap();
    lines.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn an_order_that_cannot_be_shipped_is_undone_once_and_says_so_every_time() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("shop.db");
    for _ in 0..3 {
        assert_eq!(
            order(&db, ["order-17", "book", "Atlantis"]),
            "refused at ship (\"nobody ships to Atlantis\"), undone: charge, reserve\n"
        );
    }
    let undone = ["reserve book", "charge 12 EUR", "refund 12 EUR", "put back book"];
    assert_eq!(journal(&db), undone);
    for _ in 0..3 {
        assert_eq!(order(&db, ["order-18", "book", "Berlin"]), "shipped to Berlin\n");
    }
    assert_eq!(journal(&db)[4..], ["reserve book", "charge 12 EUR"]);
}
