//! One question for everyone who waits.

use std::future::Future;

use tokio::sync::{mpsc, oneshot};

/// Callers that wait for a question to be asked; beyond it they wait to wait.
const WAITING_MAX: usize = 64 * 1024;

/// Answers many callers with one question.
///
/// At most one question is in flight. Whoever comes while it is shares the next one, never the one
/// that was already asked: for a read index that would be stale.
pub(crate) struct Coalesced<T> {
    waiting: mpsc::Sender<oneshot::Sender<T>>,
}

impl<T: Clone + Send + 'static> Coalesced<T> {
    /// Starts the task that asks `question`; it ends with the last handle.
    pub(crate) fn new<F, A>(question: F) -> Self
    where
        F: Fn() -> A + Send + 'static,
        A: Future<Output = T> + Send,
    {
        let (waiting, mut queue) = mpsc::channel::<oneshot::Sender<T>>(WAITING_MAX);
        tokio::spawn(async move {
            let mut waiters = Vec::new();
            while queue.recv_many(&mut waiters, WAITING_MAX).await > 0 {
                let answer = question().await;
                for waiter in waiters.drain(..) {
                    // A waiter may have given up.
                    drop(waiter.send(answer.clone()));
                }
            }
        });
        Self { waiting }
    }

    /// The answer to a question that is asked after this call began; `None` only when the runtime
    /// shuts down.
    pub(crate) async fn ask(&self) -> Option<T> {
        let (waiter, answer) = oneshot::channel();
        self.waiting.send(waiter).await.ok()?;
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_comes_late_gets_the_next_answer() {
        let asked = Arc::new(AtomicUsize::new(0));
        let may_answer = Arc::new(Semaphore::new(0));
        let (count, gate) = (Arc::clone(&asked), Arc::clone(&may_answer));
        let coalesced = Arc::new(Coalesced::new(move || {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                number
            }
        }));
        let ask = || {
            let coalesced = Arc::clone(&coalesced);
            tokio::spawn(async move { coalesced.ask().await.unwrap() })
        };
        let first = ask();
        while asked.load(Ordering::SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        let late: Vec<_> = (0..100).map(|_| ask()).collect();
        // All of them are queued: the question is still in flight.
        while coalesced.waiting.max_capacity() - coalesced.waiting.capacity() < 100 {
            tokio::task::yield_now().await;
        }
        may_answer.add_permits(2);
        assert_eq!(first.await.unwrap(), 1);
        for waiter in late {
            assert_eq!(waiter.await.unwrap(), 2);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
