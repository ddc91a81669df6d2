//! What goes wrong between us and a server, and whether asking again can help.

use redis::RedisError;
use semel::{Error, ErrorKind};

/// A call that failed.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    kind: ErrorKind,
    what: String,
    /// Asking again may help.
    pub(super) is_passing: bool,
    /// The connection or what it leads to is not what is needed: make a new one.
    pub(super) spoils_connection: bool,
    /// The server may have done it all the same.
    pub(super) maybe_done: bool,
    /// The server has to be given the whole script.
    pub(super) is_unknown_script: bool,
}

impl Fault {
    /// A fault that asking again does not mend, and that changed nothing.
    pub(super) fn lasting(kind: ErrorKind, what: impl Into<String>) -> Self {
        let what = what.into();
        Self {
            kind,
            what,
            is_passing: false,
            spoils_connection: false,
            maybe_done: false,
            is_unknown_script: false,
        }
    }

    /// A fault of the way to the server, before anything was sent.
    pub(super) fn unreachable(what: impl Into<String>) -> Self {
        let fault = Self::lasting(ErrorKind::Unavailable, what);
        Self { is_passing: true, spoils_connection: true, ..fault }
    }

    /// The server answered something that no script of ours answers.
    pub(super) fn unexpected(what: &str) -> Self {
        let message = format!("the server gave an answer that no script gives: {what}");
        Self { maybe_done: true, ..Self::lasting(ErrorKind::Corrupt, message) }
    }

    /// What a failed call means, after its command was handed to the connection.
    pub(super) fn of(error: &RedisError) -> Self {
        if error.kind() == redis::ErrorKind::Io || error.kind() == redis::ErrorKind::Parse {
            let is_refused = error.is_connection_refusal();
            let what = match (error.is_timeout(), is_refused) {
                (true, _) => "it did not answer in time".to_owned(),
                (_, true) => "it refuses connections".to_owned(),
                _ => format!("the connection broke: {}", error.to_string().replace('\n', " ")),
            };
            return Self { maybe_done: !is_refused, ..Self::unreachable(what) };
        }
        match error.code() {
            Some(code) => Self::of_answer(code, error.detail().unwrap_or_default()),
            None => Self::of_client(error),
        }
    }

    /// What an error in the server's answer means.
    pub(super) fn of_answer(code: &str, detail: &str) -> Self {
        let unavailable = |what: String| Self::lasting(ErrorKind::Unavailable, what);
        let said = said(code, detail);
        match code {
            "LOADING" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "NOREPLICAS" | "MOVED" | "ASK" => {
                let what = format!("it cannot serve just now: {said}");
                Self { spoils_connection: false, ..Self::unreachable(what) }
            }
            "READONLY" | "MASTERDOWN" | "UNBLOCKED" => {
                Self::unreachable(format!("it is no primary any more: {said}"))
            }
            "NOSCRIPT" => Self { is_unknown_script: true, ..unavailable(said) },
            "OOM" => unavailable(format!(
                "its memory is full, so new keys are refused; raise `maxmemory` or shorten the \
                 retention: {said}"
            )),
            "MISCONF" => unavailable(format!("it cannot save to its disk: {said}")),
            "NOAUTH" | "WRONGPASS" => unavailable(format!(
                "the login in the store URL is wrong or missing; write \
                 redis://user:password@host:port: {said}"
            )),
            "NOPERM" => Self::denied(&said),
            // A script's own commands are refused without a code.
            "ERR" if detail.contains("can't run this command") => {
                Self { maybe_done: true, ..Self::denied(&said) }
            }
            "WRONGTYPE" => Self::lasting(
                ErrorKind::Corrupt,
                format!("a key of the store holds something else; use a prefix of its own: {said}"),
            ),
            _ => Self { maybe_done: true, ..unavailable(format!("it answered an error: {said}")) },
        }
    }

    fn denied(said: &str) -> Self {
        let what = format!(
            "its access list denies what the store needs; the documentation of the Redis store \
             lists the rights: {said}"
        );
        Self::lasting(ErrorKind::Unavailable, what)
    }

    fn of_client(error: &RedisError) -> Self {
        match error.kind() {
            redis::ErrorKind::AuthenticationFailed => Self::lasting(
                ErrorKind::Unavailable,
                format!(
                    "the login in the store URL is wrong or missing; write \
                     redis://user:password@host:port: {error}"
                ),
            ),
            redis::ErrorKind::ClusterConnectionNotFound => {
                Self::unreachable("no node of the cluster can be reached")
            }
            redis::ErrorKind::Client => Self {
                maybe_done: true,
                ..Self::unreachable(format!("the connection broke: {error}"))
            },
            _ => Self {
                maybe_done: true,
                ..Self::lasting(ErrorKind::Unavailable, format!("the call failed: {error}"))
            },
        }
    }

    /// Adds a way out.
    pub(super) fn hint(self, hint: &str) -> Self {
        let what = format!("{}; {hint}", self.what.trim_end());
        Self { what, ..self }
    }

    /// The same fault of a call that changes nothing, so whether it happened does not matter.
    pub(super) fn of_a_question(self) -> Self {
        Self { maybe_done: false, ..self }
    }

    /// The error for the caller; `server` is the URL without its login.
    pub(super) fn into_error(self, server: &str) -> Error {
        let message = format!("the store at {server} cannot be used: {}", self.what);
        Error::new(self.kind, message)
    }
}

/// What the server said, without the arguments that some errors repeat.
fn said(code: &str, detail: &str) -> String {
    let detail = detail.split(", with args").next().unwrap_or_default();
    let detail = &detail[..detail.floor_char_boundary(200)];
    format!("{code} {detail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_busy_or_gone_is_asked_again_and_a_wrong_login_is_not() {
        for code in ["LOADING", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "MASTERDOWN", "BUSY"] {
            assert!(Fault::of_answer(code, "x").is_passing, "{code}");
        }
        for code in ["OOM", "NOAUTH", "WRONGPASS", "NOPERM", "MISCONF", "ERR", "WRONGTYPE"] {
            assert!(!Fault::of_answer(code, "x").is_passing, "{code}");
        }
        assert!(Fault::of_answer("READONLY", "x").spoils_connection);
        assert!(!Fault::of_answer("LOADING", "x").spoils_connection);
    }

    #[test]
    fn an_answer_that_never_came_leaves_open_whether_it_was_done() {
        let io = |kind| Fault::of(&RedisError::from(std::io::Error::from(kind)));
        assert!(io(std::io::ErrorKind::TimedOut).maybe_done);
        assert!(io(std::io::ErrorKind::BrokenPipe).maybe_done);
        assert!(!io(std::io::ErrorKind::ConnectionRefused).maybe_done);
        assert!(!Fault::of_answer("OOM", "x").maybe_done);
    }

    #[test]
    fn arguments_that_a_server_repeats_are_not_shown() {
        let detail = "unknown command 'EVALSHA', with args beginning with: 'secret'";
        let shown = Fault::of_answer("ERR", detail).into_error("redis://h").to_string();
        assert!(shown.contains("EVALSHA") && !shown.contains("secret"), "{shown}");
    }
}
