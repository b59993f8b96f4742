//! Calls to the Kubernetes API server.

use std::time::Duration;

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
