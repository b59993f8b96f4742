//! Memory of changes on their way, bounded by bytes: a full budget slows the reader down.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that changes in memory may hold.
#[derive(Clone, Debug)]
pub struct Budget {
    permits: Arc<Semaphore>,
    /// In units.
    size: u32,
}

/// A share of the budget, given back when the last holder drops it.
pub type Share = Arc<OwnedSemaphorePermit>;

const UNIT: usize = 1024;

impl Budget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let size = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self {
            permits: Arc::new(Semaphore::new(size as usize)),
            size,
        }
    }

    /// Waits until `bytes` are free. More than the whole budget takes all of it: one large row must pass.
    pub async fn take(&self, bytes: usize) -> Option<Share> {
        let units = u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .clamp(1, self.size);
        self.permits
            .clone()
            .acquire_many_owned(units)
            .await
            .ok()
            .map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_row_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(10 * UNIT);
        let all = budget.take(1000 * UNIT).await;
        assert!(all.is_some());
        assert!(timeout(Duration::from_millis(20), budget.take(1)).await.is_err());
        drop(all);
        assert!(budget.take(1).await.is_some());
    }
}
