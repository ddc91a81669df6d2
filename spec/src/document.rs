//! `docs/guarantees.md`: prose by people around tables by the model.

use std::path::PathBuf;

const BEGIN: &str =
    "<!-- made by `cargo run --release -p semel-spec -- --write`: do not edit -->\n";
const END: &str = "<!-- end of what is made -->\n";

/// The page, cut at its marks.
#[derive(Debug)]
pub struct Document {
    before: String,
    table: String,
    after: String,
}

/// Reads the page.
///
/// # Errors
/// A sentence when it is missing or its marks are.
pub fn read() -> Result<Document, String> {
    let path = path();
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let marks = || format!("{} lacks its marks `{}`", path.display(), BEGIN.trim_end());
    let (before, rest) = text.split_once(BEGIN).ok_or_else(marks)?;
    let (table, after) = rest.split_once(END).ok_or_else(marks)?;
    let [before, table, after] = [before, table, after].map(str::to_owned);
    Ok(Document { before, table, after })
}

impl Document {
    /// What the model said when the page was written.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The page with another table.
    #[must_use]
    pub fn with_table(&self, table: &str) -> Self {
        Self { before: self.before.clone(), table: table.to_owned(), after: self.after.clone() }
    }

    /// Writes the page.
    ///
    /// # Errors
    /// A sentence when it cannot be written.
    pub fn write(&self) -> Result<(), String> {
        let path = path();
        let text = [self.before.as_str(), BEGIN, &self.table, END, &self.after].concat();
        std::fs::write(&path, text)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/guarantees.md")
}
