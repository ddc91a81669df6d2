//! Calls back into Python from a thread that keeps nothing alive.
//!
//! The thread of the heart must never wait for the interpreter's lock, or a body that holds it
//! would lose its lease. So whoever has something to say leaves it here.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, OnceLock};
use std::thread::JoinHandle;

use pyo3::prelude::*;

use crate::process::{PerProcess, lock};

#[derive(Default)]
struct Notifier(Mutex<State>);

#[derive(Default)]
struct State {
    running: Option<(Sender<Py<PyAny>>, JoinHandle<()>)>,
    /// The interpreter is ending; nobody may call into it any more.
    is_over: bool,
}

fn notifier() -> &'static Notifier {
    static NOTIFIERS: OnceLock<PerProcess<Notifier>> = OnceLock::new();
    NOTIFIERS.get_or_init(PerProcess::new).get()
}

/// Calls this soon, without arguments.
pub(crate) fn call(callback: Py<PyAny>) {
    let mut state = lock(&notifier().0);
    if state.is_over {
        return;
    }
    let (sender, _) = match &mut state.running {
        Some(running) => running,
        none => match start() {
            Some(started) => none.insert(started),
            None => return,
        },
    };
    // It ends with its sender only.
    drop(sender.send(callback));
}

/// Lets what was left be called, and nothing after it.
pub(crate) fn stop() {
    let running = {
        let mut state = lock(&notifier().0);
        state.is_over = true;
        state.running.take()
    };
    if let Some((sender, thread)) = running {
        drop(sender);
        drop(thread.join());
    }
}

#[expect(clippy::disallowed_methods, reason = "ended by `stop`, before the interpreter ends")]
fn start() -> Option<(Sender<Py<PyAny>>, JoinHandle<()>)> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("semel-notifier".to_owned());
    let thread = thread.spawn(move || serve(&receiver)).ok()?;
    Some((sender, thread))
}

fn serve(receiver: &Receiver<Py<PyAny>>) {
    for callback in receiver {
        let called = Python::try_attach(|py| {
            if let Err(error) = callback.call0(py) {
                error.write_unraisable(py, Some(callback.bind(py)));
            }
        });
        if called.is_none() {
            return;
        }
    }
}
