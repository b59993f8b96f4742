//! A worker's life: Lease, source, engine, watch, status; and its end.

use super::{
    command,
    engine::{Commands, Engine, Event, Over, Pace, Source},
    objects::Cluster,
    resolve::{ResolveError, Resolver},
    status::{Of, StatusWriter, Statuses, write_slots},
    watch::Watch,
};
use crate::{
    api::{Connection, Management},
    lease::{Held, HeldLease, LeaseError},
};
use kube::{Client, ResourceExt};
use std::{collections::BTreeSet, hash::Hasher, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What a worker is told.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub namespace: String,
    /// The source Connection.
    pub connection: String,
    pub group: String,
    /// Who holds the Lease: the pod, or the process.
    pub identity: String,
    pub default_queue: Option<String>,
    pub lease_duration: Duration,
    pub pace: Pace,
    /// Cancelled once the worker has its Lease and the list of its maps.
    pub started: CancellationToken,
}

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Resolve(#[from] ResolveError),
    #[error("{0}")]
    Lease(#[from] LeaseError),
    #[error("the Connection {0} has `management: External` and names no slot for worker group {1}")]
    NoSlot(String, String),
    #[error("{0}")]
    Over(Over),
    #[error("the worker's watch ended")]
    Watch,
}

/// A worker's name: of its Lease and, later, its Deployment.
#[must_use]
pub fn name(connection: &str, group: &str) -> String {
    let cut: String = connection.chars().take(29).collect();
    format!(
        "tablemap-{}-{group}-{:08x}",
        cut.trim_end_matches(['-', '.']),
        fnv(&format!("{connection}/{group}")) >> 32
    )
}

/// Stable across builds: it is part of names.
pub fn fnv(text: &str) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    hasher.write(text.as_bytes());
    hasher.finish()
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

/// Runs until `shutdown`, or until it cannot go on.
///
/// # Errors
/// The source's Connection cannot be read, or the watch ended.
pub async fn run(context: Context, shutdown: CancellationToken) -> Result<(), Error> {
    let Context {
        client,
        namespace,
        connection,
        group,
        ..
    } = context.clone();
    let lease_name = name(&connection, &group);
    let lease = tokio::select! {
        lease = HeldLease::acquire(client.clone(), &namespace, &lease_name, &context.identity, context.lease_duration) => lease?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let result = serve(&context, &lease, shutdown).await;
    lease.release().await;
    result
}

async fn serve(context: &Context, lease: &HeldLease, shutdown: CancellationToken) -> Result<(), Error> {
    let client = context.client.clone();
    let resolver = Resolver::new(
        Cluster::new(client.clone(), Cluster::MOMENT),
        &context.namespace,
        context.default_queue.clone(),
    );
    let source = source(context, &resolver).await?;
    let (updates, inbox) = mpsc::unbounded_channel();
    let (notices, to_publish) = mpsc::unbounded_channel();
    let (slots, slots_told) = watch::channel(Vec::new());
    let (said, told) = mpsc::unbounded_channel();
    let engine = Engine::new(
        source,
        context.pace,
        lease.epoch(),
        Statuses::new(updates, notices, slots, context.pace.counters),
        Commands::new(said),
    );
    let events = engine.events();
    let writer = StatusWriter::new(client.clone(), inbox, events.clone(), lease.held());
    let mut writer = AbortOnDropHandle::new(tokio::spawn(writer.run()));
    let of = Of {
        namespace: context.namespace.clone(),
        connection: context.connection.clone(),
        group: context.group.clone(),
        worker: name(&context.connection, &context.group),
    };
    let slots = write_slots(client.clone(), of, slots_told, context.pace.counters);
    let _slots = AbortOnDropHandle::new(tokio::spawn(slots));
    let publish = super::status::publish(client.clone(), context.identity.clone(), to_publish);
    let _publisher = AbortOnDropHandle::new(tokio::spawn(publish));
    let telling = command::write(client.clone(), told, events.clone(), lease.held());
    let telling = AbortOnDropHandle::new(tokio::spawn(telling));
    let commands = command::watch(client.clone(), context.namespace.clone(), events.clone());
    let mut commanding = AbortOnDropHandle::new(tokio::spawn(commands));
    let (names, wanted) = watch::channel(BTreeSet::from([context.connection.clone()]));
    let refresh = super::refresh::run(resolver.clone(), wanted, events.clone());
    let _refreshing = AbortOnDropHandle::new(tokio::spawn(refresh));
    let watch = Watch::new(
        client,
        &context.namespace,
        &context.connection,
        &context.group,
        resolver,
        names,
        events.clone(),
    );
    let mut watching = AbortOnDropHandle::new(tokio::spawn(watch.run(context.started.clone())));
    let _forcing = AbortOnDropHandle::new(tokio::spawn(force(lease.held(), events)));
    let running = engine.run(shutdown.clone());
    let ended = tokio::select! {
        ended = running => ended.map_err(Error::Over),
        _ = &mut watching => Err(Error::Watch),
        _ = &mut commanding => Err(Error::Watch),
    };
    // The last statuses still go out, briefly; but not over those of the worker that has taken over.
    if !matches!(ended, Err(Error::Over(_))) {
        let last = async { tokio::join!(&mut writer, telling) };
        let _ = tokio::time::timeout(Duration::from_secs(2), last).await;
    }
    ended
}

/// After the Lease had expired, the operator has written our statuses: they are written anew.
async fn force(mut held: watch::Receiver<Held>, events: mpsc::UnboundedSender<Event>) {
    let mut regained = 0;
    while held.changed().await.is_ok() {
        let now = held.borrow_and_update().regained;
        if now > regained {
            regained = now;
            let _ = events.send(Event::LeaseRegained);
        }
    }
}

/// The source as its Connection says.
async fn source(context: &Context, resolver: &Resolver) -> Result<Source, Error> {
    let connection: Connection = resolver.connection(&context.connection).await?;
    let settings = resolver.postgres(&connection).await?;
    let replication = connection
        .spec
        .postgres
        .as_ref()
        .map(|spec| spec.replication.clone())
        .unwrap_or_default();
    let external = match replication.management {
        Management::Managed => None,
        Management::External => {
            let slot = replication
                .slots
                .iter()
                .find(|slot| slot.worker_group == context.group);
            let missing = || Error::NoSlot(context.connection.clone(), context.group.clone());
            let slot = slot.ok_or_else(missing)?;
            Some((slot.slot_name.clone(), slot.publication_name.clone()))
        }
    };
    let uid = connection.uid().unwrap_or_default();
    let base = format!("tablemap_{:012x}", fnv(&format!("{uid}/{}", context.group)) >> 16);
    Ok(Source {
        namespace: context.namespace.clone(),
        connection: context.connection.clone(),
        uid: uid.clone(),
        settings,
        base,
        external,
    })
}
