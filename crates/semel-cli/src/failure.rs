//! Why a command did not succeed, and what is said about it.

use std::error::Error as StdError;
use std::fmt::Display;
use std::process::ExitCode;

use semel::ErrorKind;

use crate::output;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: u8,
    code: Option<&'static str>,
    message: String,
    causes: Vec<String>,
    help: Option<String>,
    /// Everything has been said already.
    is_told: bool,
}

impl Failure {
    /// It was called wrongly, or its settings contradict each other: exit code 2.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self::new(2, message)
    }

    /// It failed while it ran: exit code 1.
    pub(crate) fn runtime(message: impl Display) -> Self {
        Self::new(1, message)
    }

    /// It ran, and the answer is no; the output says so already. Exit code 1.
    pub(crate) fn told() -> Self {
        Self { is_told: true, ..Self::new(1, "") }
    }

    /// It was called wrongly, and somebody else has said so. Exit code 2.
    pub(crate) fn told_usage() -> Self {
        Self { is_told: true, ..Self::new(2, "") }
    }

    fn new(exit: u8, message: impl Display) -> Self {
        let message = message.to_string();
        Self { exit, code: None, message, causes: Vec::new(), help: None, is_told: false }
    }

    /// Adds what to do.
    pub(crate) fn help(mut self, text: impl Display) -> Self {
        self.help = Some(text.to_string());
        self
    }

    /// Adds why.
    pub(crate) fn caused_by(mut self, error: &dyn StdError) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !self.message.contains(&text) && !self.causes.contains(&text) {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// Says it and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if !self.is_told {
            let code = self.code.map(|code| format!("[{code}]")).unwrap_or_default();
            output::error_line(&format!("error{code}: {}", self.message));
            for cause in &self.causes {
                output::error_line(&format!("caused by: {cause}"));
            }
            if let Some(help) = &self.help {
                output::error_line(&format!("help: {help}"));
            }
        }
        ExitCode::from(self.exit)
    }
}

impl From<semel::Error> for Failure {
    fn from(error: semel::Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::Invalid | ErrorKind::Settings => 2,
            _ => 1,
        };
        let mut failure = Self::new(exit, &error);
        failure.code = Some(error.kind().code());
        if let Some(source) = error.source() {
            failure = failure.caused_by(source);
        }
        failure.help(format!("docs/errors/{}.md explains this error", error.kind().code()))
    }
}
