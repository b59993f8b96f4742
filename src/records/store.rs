//! Maps and their queues, as the API finds them.

use super::fault::Fault;
use crate::{
    api::TableMap,
    apiserver,
    connection::redis,
    destination::postgres::{Control, LaneError},
    queue::{Queue, QueueError},
    record::{Has, Lsn, Position},
    worker::{Cluster, Objects, Plan, Resolver},
};
use kube::{Api, Client, ResourceExt, api::ListParams};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Of the API server.
const DEADLINE: Duration = Duration::from_secs(5);
/// Of a destination that is asked how far it is.
const DESTINATION: Duration = Duration::from_secs(2);
/// Of Redis, for the first time.
const CONNECT: Duration = Duration::from_secs(3);
/// A server that did not answer is left alone so long.
const APART: Duration = Duration::from_secs(10);
/// So many connections to Redis are kept.
const KEPT: usize = 32;

/// See the module.
pub struct Store {
    client: Client,
    cluster: Cluster,
    /// None is all.
    namespaces: Vec<String>,
    default_queue: Option<String>,
    queues: Mutex<HashMap<QueueName, (redis::Settings, Queue)>>,
    /// Connections that did not answer, by namespace and name, with what was said of them.
    silent: Mutex<HashMap<(String, String), (Instant, String)>>,
}

/// Namespace, the queue's id, and the map's name.
type QueueName = (String, String, String);

/// One map with its queue.
pub struct Opened {
    pub plan: Plan,
    pub queue: Queue,
}

impl Store {
    pub fn new(client: Client, namespaces: Vec<String>, default_queue: Option<String>) -> Self {
        Self {
            cluster: Cluster::new(client.clone(), Cluster::MOMENT),
            client,
            namespaces,
            default_queue,
            queues: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    fn serves(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|served| served == namespace)
    }

    /// A map, if there is one.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn map(&self, namespace: &str, name: &str) -> Result<Option<TableMap>, Fault> {
        // What cannot be a name must not become part of a path.
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !self.serves(namespace) || !(1..=63).contains(&name.len()) || !name.bytes().all(is_name) {
            return Ok(None);
        }
        let api: Api<TableMap> = Api::namespaced(self.client.clone(), namespace);
        within(api.get_opt(name)).await
    }

    /// All maps, by namespace and name.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn maps(&self, namespace: Option<&str>) -> Result<Vec<TableMap>, Fault> {
        if namespace.is_some_and(|namespace| !self.serves(namespace)) {
            return Ok(Vec::new());
        }
        let of = |namespace: &str| Api::namespaced(self.client.clone(), namespace);
        let apis: Vec<Api<TableMap>> = match namespace {
            Some(namespace) => vec![of(namespace)],
            None if self.namespaces.is_empty() => vec![Api::all(self.client.clone())],
            None => self.namespaces.iter().map(|namespace| of(namespace)).collect(),
        };
        let mut maps = Vec::new();
        for api in apis {
            maps.extend(within(api.list(&ListParams::default())).await?.items);
        }
        maps.sort_by_key(|map| (map.namespace(), map.name_any()));
        Ok(maps)
    }

    /// Connects to a map's queue.
    ///
    /// # Errors
    /// What it refers to is missing, or Redis cannot be reached.
    pub async fn open(&self, map: &TableMap) -> Result<Opened, Fault> {
        let namespace = map.namespace().unwrap_or_default();
        let of_map =
            |why: String| Fault::Unavailable(format!("TableMap {namespace}/{}: {why}", map.name_any()));
        let objects = Objects::Cluster(self.cluster.clone());
        let resolver = Resolver::of(objects, &namespace, self.default_queue.clone());
        let plan = resolver
            .plan(map)
            .await
            .map_err(|error| of_map(error.to_string()))?;
        let name = (namespace.clone(), plan.id.to_string(), plan.name.clone());
        if let Some(queue) = self.known(&name, &plan.queue_settings) {
            return Ok(Opened { plan, queue });
        }
        let connection = (namespace.clone(), plan.queue_connection.clone());
        if let Some(why) = self.silence(&connection) {
            return Err(of_map(why));
        }
        let connected = tokio::time::timeout(CONNECT, plan.connect_queue()).await;
        let why = match connected {
            Ok(Ok(queue)) => {
                self.keep(name, plan.queue_settings.clone(), queue.clone());
                return Ok(Opened { plan, queue });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "Redis did not answer in time".into(),
        };
        self.fell_silent(connection, &why);
        Err(of_map(why))
    }

    /// What was said of a Connection that did not answer a moment ago.
    fn silence(&self, connection: &(String, String)) -> Option<String> {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, why) = silent.get(connection)?;
        (since.elapsed() < APART).then(|| why.clone())
    }

    fn fell_silent(&self, connection: (String, String), why: &str) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|_, (since, _)| since.elapsed() < APART);
        silent.insert(connection, (Instant::now(), why.to_owned()));
    }

    fn known(&self, name: &QueueName, settings: &redis::Settings) -> Option<Queue> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, queue) = queues.get(name)?;
        (known == settings).then(|| queue.clone())
    }

    fn keep(&self, name: QueueName, settings: redis::Settings, queue: Queue) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.len() >= KEPT {
            queues.clear();
        }
        queues.insert(name, (settings, queue));
    }

    /// How far the destination is; or why that is not known.
    ///
    /// # Errors
    /// A sentence for whoever asked.
    pub async fn has(&self, opened: &Opened) -> Result<Has, String> {
        let plan = &opened.plan;
        let unknown = |why: &str| {
            format!(
                "The destination of TableMap {} does not tell how far it is ({why}): records that it has not kept yet, or has \
                 written already, may be among these.",
                plan.name
            )
        };
        let connection = (plan.namespace.clone(), plan.destination.clone());
        if let Some(why) = self.silence(&connection) {
            return Err(unknown(&why));
        }
        let asked = tokio::time::timeout(DESTINATION, self.ask(plan)).await;
        let why = match asked {
            Ok(Ok(has)) => return Ok(has),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".into(),
        };
        self.fell_silent(connection, &why);
        Err(unknown(&why))
    }

    /// Before its first write a destination has nothing.
    async fn ask(&self, plan: &Plan) -> Result<Has, LaneError> {
        let control = Control::look(&plan.destination_settings).await?;
        let progress = control.peek(&plan.id).await?;
        Ok(progress.map_or_else(Has::default, |progress| progress.has()))
    }
}

/// Where that is not known, everything is shown as Redis has it.
pub fn everything() -> Has {
    Has {
        position: Position::through(u32::MAX, Lsn(u64::MAX)),
        settled: u64::MAX,
    }
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Fault> {
    let done = apiserver::within(DEADLINE, call).await;
    done.map_err(|error| Fault::Unavailable(format!("the TableMaps cannot be read: {error}")))
}

impl From<QueueError> for Fault {
    fn from(error: QueueError) -> Self {
        Self::Unavailable(format!("the records cannot be read: {error}"))
    }
}
