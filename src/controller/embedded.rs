//! Workers as tasks of the operator: for demos and small installs. A worker that ends by an error or a panic is
//! started again, with back-off, alone.

use super::Options;
use crate::{
    api::{Connection, reasons::WORKER_RESTARTED},
    worker::{self, Context},
};
use kube::{
    Api, Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use std::{collections::HashMap, sync::Mutex, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A worker's source Connection and group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub namespace: String,
    pub connection: String,
    pub group: String,
}

/// The workers that run.
pub struct Embedded {
    client: Client,
    options: Options,
    shutdown: CancellationToken,
    running: Mutex<HashMap<Key, JoinHandle<()>>>,
}

const LONGEST: Duration = Duration::from_secs(30);
/// SIGTERM finishes or rolls back what is in flight within ten seconds.
const END: Duration = Duration::from_secs(9);

impl Embedded {
    #[must_use]
    pub fn new(client: Client, options: Options, shutdown: CancellationToken) -> Self {
        Self {
            client,
            options,
            shutdown,
            running: Mutex::default(),
        }
    }

    /// Sees that a worker runs.
    pub fn ensure(&self, key: Key) {
        let mut running = self
            .running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        running.entry(key.clone()).or_insert_with(|| {
            let context = Context {
                client: self.client.clone(),
                connection: key.connection,
                group: key.group,
                identity: self.options.identity.clone(),
                default_queue: self.options.default_queue.clone(),
                lease_duration: self.options.lease_duration,
                pace: worker::Pace {
                    ceiling: self.options.ceilings.of(&key.namespace),
                    ..self.options.pace
                },
                namespace: key.namespace,
                started: CancellationToken::new(),
            };
            tokio::spawn(supervise(context, self.shutdown.clone()))
        });
    }

    /// Waits until all have ended.
    pub async fn end(&self) {
        let running: Vec<JoinHandle<()>> = {
            let mut running = self
                .running
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            running.drain().map(|(_, worker)| worker).collect()
        };
        let _ = tokio::time::timeout(END, futures::future::join_all(running)).await;
    }
}

async fn supervise(context: Context, shutdown: CancellationToken) {
    let mut pause = Duration::from_millis(500);
    while !shutdown.is_cancelled() {
        let ended = tokio::spawn(worker::run(context.clone(), shutdown.clone())).await;
        let why = match ended {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => format!("it panicked: {error}"),
        };
        if shutdown.is_cancelled() {
            return;
        }
        tracing::error!(connection = %context.connection, group = %context.group, %why, "a worker is started again");
        announce(&context, &why).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// An event on the worker's Connection; it never holds the worker up.
async fn announce(context: &Context, why: &str) {
    let publish = async {
        let api: Api<Connection> = Api::namespaced(context.client.clone(), &context.namespace);
        let connection = api.get(&context.connection).await?;
        let reporter = Reporter {
            controller: "tablemap-operator".into(),
            instance: Some(context.identity.clone()),
        };
        let event = Event {
            type_: EventType::Warning,
            reason: WORKER_RESTARTED.into(),
            note: Some(format!(
                "The worker of group {} is started again: {why}",
                context.group
            )),
            action: "Restart".into(),
            secondary: None,
        };
        Recorder::new(context.client.clone(), reporter)
            .publish(&event, &connection.object_ref(&()))
            .await
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), publish).await;
}
