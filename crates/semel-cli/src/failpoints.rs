//! Named points of the engine at which a test stops this process. Without the feature
//! `failpoints` there is nothing here.
//!
//! `SEMEL_FAILPOINT=after_effect=halt` says so on standard error and stops that thread for ever,
//! so that the test can kill or freeze the process at exactly that point; `=panic` and `=abort`
//! do what they say; `after_effect=halt@2` waits for the second pass.

#[cfg(not(feature = "failpoints"))]
pub(crate) fn install() {}

#[cfg(feature = "failpoints")]
pub(crate) use on::install;

#[cfg(feature = "failpoints")]
mod on {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use crate::output;

    struct Trap {
        point: String,
        action: String,
        pass: u32,
        passed: AtomicU32,
    }

    static TRAP: OnceLock<Trap> = OnceLock::new();

    pub(crate) fn install() {
        let Ok(text) = std::env::var("SEMEL_FAILPOINT") else { return };
        let Some((point, action)) = text.split_once('=') else { return };
        let (action, pass) = action.split_once('@').unwrap_or((action, "1"));
        let trap = Trap {
            point: point.to_owned(),
            action: action.to_owned(),
            pass: pass.parse().unwrap_or(1),
            passed: AtomicU32::new(0),
        };
        if TRAP.set(trap).is_ok() {
            semel::failpoint::install(hit);
        }
    }

    #[expect(clippy::panic, reason = "a test asked for it")]
    fn hit(point: &str) {
        let Some(trap) = TRAP.get() else { return };
        if trap.point != point || trap.passed.fetch_add(1, Ordering::SeqCst) + 1 != trap.pass {
            return;
        }
        output::error_line(&format!("failpoint {point}"));
        match trap.action.as_str() {
            "abort" => std::process::abort(),
            "panic" => panic!("failpoint {point}"),
            _ => loop {
                std::thread::park();
            },
        }
    }
}
