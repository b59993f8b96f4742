//! Calls to the Kubernetes API server.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A call, with a deadline.
///
/// # Errors
/// What the API server says, or that it did not answer in time.
pub async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let late = |_| {
        Err(kube::Error::Service(
            "the API server did not answer in time".into(),
        ))
    };
    tokio::time::timeout(deadline, call).await.unwrap_or_else(late)
}

/// What was answered last, by name. Of those who wait while it is asked for, one asks for all of them: nobody is given an answer
/// that is older than his question, unless he says that it serves.
pub struct Answers<N, T>(Mutex<HashMap<N, Slot<T>>>);

/// Held while it is asked for.
type Slot<T> = Arc<tokio::sync::Mutex<Option<Answer<T>>>>;

/// What was answered, and when it was asked for.
pub struct Answer<T> {
    pub at: Instant,
    pub said: T,
}

impl<N, T> Default for Answers<N, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<N: Eq + Hash + Clone, T: Clone> Answers<N, T> {
    fn slots(&self) -> MutexGuard<'_, HashMap<N, Slot<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that `serves`, or that was asked for after this call began; else what `ask` says.
    ///
    /// # Errors
    /// As [`within`], for whoever waits too.
    pub async fn get(
        &self,
        name: &N,
        deadline: Duration,
        serves: impl Fn(&Answer<T>) -> bool,
        ask: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        let begun = Instant::now();
        let slot = self.slots().entry(name.clone()).or_default().clone();
        let mut known = within(deadline, async { Ok(slot.lock().await) }).await?;
        if let Some(answer) = known
            .as_ref()
            .filter(|answer| answer.at >= begun || serves(answer))
        {
            return Ok(answer.said.clone());
        }
        let at = Instant::now();
        let said = within(deadline, ask).await?;
        *known = Some(Answer {
            at,
            said: said.clone(),
        });
        Ok(said)
    }

    /// The next one who asks is given a new answer.
    pub fn forget(&self, name: &N) {
        self.slots().remove(name);
    }

    /// Forgets all others. What is being asked for stays.
    pub fn retain(&self, keep: impl Fn(&N, Option<&Answer<T>>) -> bool) {
        self.slots()
            .retain(|name, slot| slot.try_lock().map_or(true, |known| keep(name, known.as_ref())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SOON: Duration = Duration::from_secs(5);

    #[derive(Default)]
    struct Server {
        answers: Answers<&'static str, usize>,
        asked: AtomicUsize,
    }

    impl Server {
        async fn get(&self, serves: bool) -> usize {
            let ask = async {
                tokio::task::yield_now().await;
                Ok(self.asked.fetch_add(1, Ordering::Relaxed))
            };
            self.answers.get(&"a", SOON, |_| serves, ask).await.unwrap()
        }
    }

    #[tokio::test]
    async fn of_those_who_wait_one_asks_for_all() {
        let server = Server::default();
        let all = futures::future::join_all((0..16).map(|_| server.get(false))).await;
        // What the first has asked for was under way when the others came.
        assert_eq!((all[0], &all[1..]), (0, &[1; 15][..]));
        assert_eq!(server.get(false).await, 2, "an old answer");
        assert_eq!(server.get(true).await, 2, "one that serves");
    }

    #[tokio::test]
    async fn what_is_forgotten_is_asked_for_again() {
        let server = Server::default();
        server.get(true).await;
        server.answers.forget(&"a");
        assert_eq!(server.get(true).await, 1);
        server
            .answers
            .retain(|_, known| known.is_some_and(|known| known.said == 0));
        assert_eq!(server.get(true).await, 2);
    }

    #[tokio::test]
    async fn an_error_is_not_kept() {
        let server = Server::default();
        let failing = async { Err(kube::Error::Service("away".into())) };
        let failed = server.answers.get(&"a", SOON, |_| true, failing).await;
        assert!(failed.is_err());
        assert_eq!(server.get(true).await, 0);
    }
}
