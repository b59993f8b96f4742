//! Of several processes one leads: what it does the others do not, until it ends or cannot be reached.

use super::{Held, HeldLease, LeaseError};
use kube::Client;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Who wants to lead, by which Lease.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub namespace: String,
    pub name: String,
    pub identity: String,
    /// Whole seconds.
    pub duration: Duration,
}

/// Why this process does not lead.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    #[error("{0}. Whoever leads needs the verbs get, create and update on Leases there.")]
    Lease(#[from] LeaseError),
    #[error(
        "the Lease {0} was not renewed in time: another operator may lead now, and this one ends so that it begins anew"
    )]
    Lost(String),
}

/// Waits until this process leads, and then works; what it does ends before anybody else can lead, judged by this process's
/// clock alone.
///
/// # Errors
/// The Lease cannot be taken, or was lost: then the work was broken off, and the process should end.
pub async fn lead(
    client: Client,
    candidate: &Candidate,
    shutdown: &CancellationToken,
    work: impl Future<Output = ()>,
) -> Result<(), LeaderError> {
    let Candidate {
        namespace,
        name,
        identity,
        duration,
    } = candidate;
    let acquire = HeldLease::acquire(client, namespace, name, identity, *duration);
    let lease = tokio::select! {
        lease = acquire => lease?,
        () = shutdown.cancelled() => return Ok(()),
    };
    tracing::info!(lease = %name, %identity, term = lease.epoch(), "this operator leads");
    tokio::select! {
        () = work => {}
        () = overdue(shutdown) => tracing::warn!("the work has not ended in time, and is broken off"),
        () = lost(lease.held()) => return Err(LeaderError::Lost(name.clone())),
    }
    lease.release().await;
    Ok(())
}

/// What is under way when this process is told to end has so long for it: less than the thirty seconds after which Kubernetes
/// kills a pod, so that the Lease is released, and the next one need not wait for its end.
const ENDS: Duration = Duration::from_secs(20);

async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(ENDS).await;
}

/// Ends when what is held may soon be another's.
async fn lost(mut held: watch::Receiver<Held>) {
    loop {
        let until = held.borrow_and_update().leads_until();
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            changed = held.changed() => if changed.is_err() { return },
        }
        let now = *held.borrow();
        if now.taken || now.leads_until() <= Instant::now() {
            return;
        }
    }
}
