//! The store's SQL, for the schema it lives in.

use semel::{Error, ErrorKind};

/// Statements are written for the schema `semel`; a store in another one gets its own copy.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    pub(super) name: String,
    pub(super) claim_one: String,
    pub(super) complete_one: String,
    pub(super) get: String,
    pub(super) put: String,
    pub(super) remove: String,
    pub(super) finish: String,
    pub(super) reopen: String,
    pub(super) step: String,
    pub(super) wait: String,
}

impl Schema {
    pub(super) fn new(name: &str) -> Result<Self, Error> {
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        let starts_well = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if !starts_well || name.len() > 40 || !name.bytes().all(is_plain) {
            let message = format!(
                "the schema `{}` breaks the rule: 1 to 40 of a-z, 0-9 and _, no digit first",
                name.escape_debug()
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let sql = |text: &str| within(name, text);
        Ok(Self {
            claim_one: sql("SELECT * FROM semel.claim_one($1, $2, $3, $4, $5, $6, $7, $8)"),
            complete_one: sql(include_str!("sql/complete_one.sql")),
            get: sql(include_str!("sql/get.sql")),
            put: sql(include_str!("sql/put.sql")),
            remove: sql(include_str!("sql/remove.sql")),
            finish: sql(include_str!("sql/finish.sql")),
            reopen: sql(include_str!("sql/reopen.sql")),
            step: sql(include_str!("sql/step.sql")),
            wait: sql(include_str!("sql/await.sql")),
            name: name.to_owned(),
        })
    }

    /// A statement that was written for the schema `semel`.
    pub(super) fn sql(&self, text: &str) -> String {
        within(&self.name, text)
    }

    /// The channel of notifications.
    pub(super) fn channel(&self) -> String {
        format!("{}.changed", self.name)
    }
}

pub(super) fn within(schema: &str, text: &str) -> String {
    text.replace("semel.", &format!("{schema}."))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_schema_whose_name_would_need_quotes_is_refused() {
        for bad in ["", "a b", "Semel", "1st", "x;drop", "ä", &"a".repeat(41)] {
            assert_eq!(Schema::new(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
        assert!(Schema::new("shop_1").unwrap().get.contains("shop_1.open"));
    }
}
