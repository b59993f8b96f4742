//! Waiting for something to become true, never for a length of time.

use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(20);

/// Asks until the answer is yes. Panics, naming `what`, when that takes longer than `within`.
pub async fn wait_until(within: Duration, what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    wait_for(within, what, async || is_true().await.then_some(())).await;
}

/// Asks until there is an answer, and returns it. Panics, naming `what`, when that takes longer than `within`.
pub async fn wait_for<T>(within: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(STEP).await;
    }
}
