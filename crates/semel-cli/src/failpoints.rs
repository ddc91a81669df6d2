//! Named points of the engine at which a test stops this process. Without the feature
//! `failpoints` there is nothing here.
//!
//! `SEMEL_FAILPOINT=after_effect=halt` says so on standard error and stops that thread for ever,
//! so that the test can kill or freeze the process at exactly that point; `=panic` and `=abort`
//! do what they say; `after_effect=halt@2` waits for the second pass. Anything else is refused: a
//! test whose point is misspelt would pass without having stopped anything.

#[cfg(not(feature = "failpoints"))]
pub(crate) fn install() -> Result<(), crate::failure::Failure> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub(crate) use on::install;

#[cfg(feature = "failpoints")]
mod on {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use crate::failure::Failure;
    use crate::output;

    #[derive(Clone, Copy)]
    enum Action {
        Abort,
        Halt,
        Panic,
    }

    struct Trap {
        point: String,
        action: Action,
        pass: u32,
        passed: AtomicU32,
    }

    static TRAP: OnceLock<Trap> = OnceLock::new();

    pub(crate) fn install() -> Result<(), Failure> {
        let Ok(text) = std::env::var("SEMEL_FAILPOINT") else { return Ok(()) };
        let trap = parse(&text).ok_or_else(|| {
            Failure::usage(format!("SEMEL_FAILPOINT `{text}` is not understood")).help(format!(
                "write POINT=halt, =panic or =abort, with @N for the nth pass; the points are {}",
                semel::failpoint::POINTS.join(", ")
            ))
        })?;
        if TRAP.set(trap).is_ok() {
            semel::failpoint::install(hit);
        }
        Ok(())
    }

    fn parse(text: &str) -> Option<Trap> {
        let (point, action) = text.split_once('=')?;
        let (action, pass) = action.split_once('@').unwrap_or((action, "1"));
        let action = match action {
            "abort" => Action::Abort,
            "halt" => Action::Halt,
            "panic" => Action::Panic,
            _ => return None,
        };
        let pass = pass.parse().ok().filter(|pass| *pass > 0)?;
        let is_known = semel::failpoint::POINTS.contains(&point);
        is_known.then(|| Trap { point: point.to_owned(), action, pass, passed: 0.into() })
    }

    #[expect(clippy::panic, reason = "a test asked for it")]
    fn hit(point: &str) {
        let Some(trap) = TRAP.get() else { return };
        if trap.point != point || trap.passed.fetch_add(1, Ordering::SeqCst) + 1 != trap.pass {
            return;
        }
        output::error_line(&format!("failpoint {point}"));
        match trap.action {
            Action::Abort => std::process::abort(),
            Action::Panic => panic!("failpoint {point}"),
            Action::Halt => loop {
                std::thread::park();
            },
        }
    }
}
