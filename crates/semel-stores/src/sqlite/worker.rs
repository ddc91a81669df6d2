//! Threads with a connection each, for work that must neither block an async thread nor the
//! writer: reads, and transactions of callers.

use std::thread::JoinHandle;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;
use rusqlite::Connection;
use semel::{Error, ErrorKind};

type Task = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread that owns a connection and runs what it is sent, in order.
#[derive(Debug)]
pub(super) struct Worker {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    #[expect(clippy::disallowed_methods, reason = "the owner of the worker joins it")]
    pub(super) fn start(
        name: &str,
        mut connection: Connection,
        queue_max: usize,
    ) -> Result<Self, Error> {
        let (tasks, queue): (Sender<Task>, Receiver<Task>) =
            async_channel::bounded(queue_max.max(1));
        let serve = move || {
            while let Ok(task) = queue.recv_blocking() {
                task(&mut connection);
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
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let gone = || Error::new(ErrorKind::Unavailable, "the store's thread is gone");
        let (reply, answer) = oneshot::channel();
        let task: Task = Box::new(move |connection| {
            // Whoever stopped waiting has decided to do without the answer.
            drop(reply.send(work(connection)));
        });
        let tasks = self.tasks.as_ref().ok_or_else(gone)?;
        tasks.send(task).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

impl Worker {
    /// Queues `work` behind what is there. `false` when the thread is gone or its queue is full.
    pub(super) fn send(&self, work: impl FnOnce(&mut Connection) + Send + 'static) -> bool {
        self.tasks.as_ref().is_some_and(|tasks| tasks.try_send(Box::new(work)).is_ok())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
