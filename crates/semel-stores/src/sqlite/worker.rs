//! Threads with a connection each, for work that must neither block an async thread nor the
//! writer: reads, and transactions of callers.

use std::thread::JoinHandle;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use semel::{Error, ErrorKind};

type Task<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that owns a connection (or what else `S` is) and runs what it is sent, in order.
#[derive(Debug)]
pub(super) struct Worker<S> {
    tasks: Option<Sender<Task<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Send + 'static> Worker<S> {
    #[expect(clippy::disallowed_methods, reason = "the owner of the worker joins it")]
    pub(super) fn start(name: &str, mut state: S, queue_max: usize) -> Result<Self, Error> {
        let (tasks, queue): (Sender<Task<S>>, Receiver<Task<S>>) =
            async_channel::bounded(queue_max.max(1));
        let serve = move || {
            while let Ok(task) = queue.recv_blocking() {
                task(&mut state);
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(serve);
        let thread = thread.map_err(|error| {
            let message = "the system gave no thread for a connection of the store";
            Error::new(ErrorKind::Unavailable, message).with_source(error)
        })?;
        Ok(Self { tasks: Some(tasks), thread: Some(thread) })
    }

    /// Runs `work` on the thread. Dropping the future does not stop work that has begun.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let gone = || Error::new(ErrorKind::Unavailable, "the store's thread is gone");
        let (reply, answer) = oneshot::channel();
        let task: Task<S> = Box::new(move |state| {
            // Whoever stopped waiting has decided to do without the answer.
            drop(reply.send(work(state)));
        });
        let tasks = self.tasks.as_ref().ok_or_else(gone)?;
        tasks.send(task).await.map_err(|_| gone())?;
        // Lost only when the thread died while it worked on it.
        answer.await.map_err(|_| gone().with_outcome_unknown())
    }

    /// Queues `work` behind what is there. `false` when the thread is gone or its queue is full.
    pub(super) fn send(&self, work: impl FnOnce(&mut S) + Send + 'static) -> bool {
        self.tasks.as_ref().is_some_and(|tasks| tasks.try_send(Box::new(work)).is_ok())
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            join(thread);
        }
    }
}

/// Waits for the end of a thread of the store, unless it is this one: a task may own the last
/// handle to the store, and then the store is dropped on the store's own thread, which ends when
/// the task does.
pub(super) fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() {
        // A thread that panicked has told so already; there is nothing left to save.
        drop(thread.join());
    }
}
