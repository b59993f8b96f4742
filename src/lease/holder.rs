//! Taking, renewing and releasing a Lease.

use super::{EPOCH, Observed};
use crate::apiserver;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use std::time::{Duration, Instant};
use tokio::{sync::watch, task::JoinHandle};

const DEADLINE: Duration = Duration::from_secs(3);
/// It is renewed so many times in its duration; and after a failure sooner.
const RENEWALS: u32 = 3;
const RETRIES: u32 = 10;
/// A Lease of another is looked at so many times in its duration.
const LOOKS: u32 = 16;

/// The Lease could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("the Lease {0} cannot be read or written: {1}")]
    Api(String, String),
}

/// How a Lease is held.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// When it was renewed last, or about to be.
    renewed: Instant,
    duration: Duration,
    /// How often it was held again after it had expired.
    pub regained: u64,
    /// Somebody else held it when it was to be renewed.
    pub taken: bool,
}

impl Held {
    /// Whether nobody else can have taken it yet.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.renewed.elapsed() < self.duration
    }

    /// Until when what nobody else may do at the same time must have ended: a quarter of the Lease is left then.
    #[must_use]
    pub fn leads_until(&self) -> Instant {
        self.renewed + self.duration * 3 / 4
    }
}

/// Waits until a Lease is held. False: it was given up.
pub async fn until_held(lease: &mut watch::Receiver<Held>) -> bool {
    while !lease.borrow_and_update().is_valid() {
        if lease.changed().await.is_err() {
            return false;
        }
    }
    true
}

/// A Lease that is held, and renewed in the background until it is released or dropped.
#[derive(Debug)]
pub struct HeldLease {
    api: Api<Lease>,
    name: String,
    identity: String,
    epoch: i64,
    held: watch::Receiver<Held>,
    renewing: JoinHandle<()>,
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl HeldLease {
    /// Waits for the old holder's Lease to expire or to be released, and takes it. Its epoch rises by one. `duration` is in
    /// whole seconds.
    ///
    /// # Errors
    /// The API server refuses; while it is away, this waits.
    pub async fn acquire(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        duration: Duration,
    ) -> Result<Self, LeaseError> {
        let api: Api<Lease> = Api::namespaced(client, namespace);
        let mut seen = Observed::new(Instant::now());
        loop {
            let renewed = Instant::now();
            match try_take(&api, name, identity, duration, &mut seen).await {
                Ok(Some(epoch)) => {
                    let (sender, held) = watch::channel(Held {
                        renewed,
                        duration,
                        regained: 0,
                        taken: false,
                    });
                    let (name, identity) = (name.to_owned(), identity.to_owned());
                    let renewing = Renewing {
                        api: api.clone(),
                        name: name.clone(),
                        identity: identity.clone(),
                        epoch,
                        duration,
                    };
                    return Ok(Self {
                        api,
                        name,
                        identity,
                        epoch,
                        held,
                        renewing: tokio::spawn(renewing.run(sender)),
                    });
                }
                Ok(None) => {}
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    return Err(LeaseError::Api(name.into(), status.message.clone()));
                }
                Err(error) => tracing::warn!(lease = name, %error, "the Lease was not taken; trying again"),
            }
            tokio::time::sleep(duration / LOOKS).await;
        }
    }

    /// The epoch that was reached when this Lease was taken.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Changes each time the Lease was renewed.
    #[must_use]
    pub fn held(&self) -> watch::Receiver<Held> {
        self.held.clone()
    }

    /// Gives the Lease up, so that the next worker need not wait.
    pub async fn release(self) {
        self.renewing.abort();
        let release = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else {
                return Ok(());
            };
            let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = None;
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<(), kube::Error>(())
        };
        if within(release).await.is_err() {
            tracing::warn!(lease = %self.name, "the Lease was not released; it will expire");
        }
    }
}

fn now() -> MicroTime {
    MicroTime(Timestamp::now())
}

fn epoch_of(lease: &Lease) -> i64 {
    lease
        .annotations()
        .get(EPOCH)
        .and_then(|epoch| epoch.parse().ok())
        .unwrap_or(0)
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    apiserver::within(DEADLINE, call).await
}

/// One attempt. None: somebody else holds it.
async fn try_take(
    api: &Api<Lease>,
    name: &str,
    identity: &str,
    duration: Duration,
    seen: &mut Observed,
) -> Result<Option<i64>, kube::Error> {
    let Some(mut lease) = within(api.get_opt(name)).await? else {
        let mut lease = named(name);
        hold(&mut lease, identity, duration, 1);
        return match within(api.create(&PostParams::default(), &lease)).await {
            Ok(_) => Ok(Some(1)),
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(error),
        };
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let theirs = Duration::from_secs(u64::from(spec.lease_duration_seconds.unwrap_or(4).unsigned_abs()));
    let expired = seen.is_expired(lease.metadata.resource_version.as_deref(), theirs, Instant::now());
    if spec
        .holder_identity
        .as_deref()
        .is_some_and(|holder| holder != identity)
        && !expired
    {
        return Ok(None);
    }
    let epoch = epoch_of(&lease) + 1;
    hold(&mut lease, identity, duration, epoch);
    // The resourceVersion that was read makes this a compare-and-set.
    match within(api.replace(name, &PostParams::default(), &lease)).await {
        Ok(_) => Ok(Some(epoch)),
        Err(error) if is_conflict(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn hold(lease: &mut Lease, identity: &str, duration: Duration, epoch: i64) {
    lease.annotations_mut().insert(EPOCH.into(), epoch.to_string());
    let transitions = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_transitions)
        .unwrap_or(0);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.into()),
        acquire_time: Some(now()),
        renew_time: Some(now()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs().max(1)).unwrap_or(i32::MAX)),
        lease_transitions: Some(transitions + 1),
        ..LeaseSpec::default()
    });
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Renews while it is held. A worker that loses it stops nothing but status writes: the rest only a higher
/// epoch does.
struct Renewing {
    api: Api<Lease>,
    name: String,
    identity: String,
    epoch: i64,
    duration: Duration,
}

impl Renewing {
    async fn run(self, held: watch::Sender<Held>) {
        let mut wait = self.duration / RENEWALS;
        loop {
            tokio::time::sleep(wait).await;
            wait = self.duration / RENEWALS;
            let now = Instant::now();
            match self.renew().await {
                Ok(true) => held.send_modify(|held| {
                    held.regained += u64::from(!held.is_valid());
                    held.renewed = now;
                    held.taken = false;
                }),
                Ok(false) => {
                    tracing::warn!(lease = %self.name, "somebody else holds the Lease");
                    held.send_modify(|held| held.taken = true);
                }
                Err(error) => {
                    tracing::warn!(lease = %self.name, %error, "the Lease was not renewed");
                    wait = self.duration / RETRIES;
                }
            }
        }
    }

    /// False: somebody else holds it, or has held it since. A Lease that was deleted is made anew, also if others have made
    /// it, empty.
    async fn renew(&self) -> Result<bool, kube::Error> {
        let Some(mut lease) = within(self.api.get_opt(&self.name)).await? else {
            let mut lease = named(&self.name);
            hold(&mut lease, &self.identity, self.duration, self.epoch);
            let made = within(self.api.create(&PostParams::default(), &lease)).await;
            return made.map(|_| true);
        };
        let epoch = epoch_of(&lease);
        let spec = lease.spec.get_or_insert_default();
        match spec.holder_identity.as_deref() {
            Some(holder) if holder == self.identity => spec.renew_time = Some(now()),
            None if epoch < self.epoch => hold(&mut lease, &self.identity, self.duration, self.epoch),
            _ => return Ok(false),
        }
        let renewed = within(self.api.replace(&self.name, &PostParams::default(), &lease)).await;
        renewed.map(|_| true)
    }
}

fn named(name: &str) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        spec: None,
    }
}
