//! Reads what an object refers to: Connections, Secrets and `ConfigMaps`, as late as possible.

use crate::{
    api::{
        Bytes, CertificateAuthority, Connection, Credentials, KeySelector, OnExit, OutagePolicy, Pause,
        PostgresSpec, QueueBounds, QueueLimits, RedisSpec, TableMap, TableMapStatus, TlsSpec,
        TlsVerification, Transform as TransformSpec, UnmatchedPolicy,
    },
    clock,
    connection::{
        postgres::{self, Tls, TlsMode},
        redis,
    },
    gate::Phase,
    mapping::{self, FieldSpec, FilterSpec, From, Mapping, Transform, Unmatched, ValueMap},
    worker::{
        limits::{Limits, Measures},
        map::Ruling,
        objects::{CONNECTION, Cluster, Object, Objects},
        plan::{Plan, StatusBefore},
        rules,
        status::{Facts, Ledger, Memory, PauseFacts, Said, Starting},
        wish::{self, Wish},
    },
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Resource, ResourceExt};
use std::{sync::Arc, time::Duration};

/// What an object refers to cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("the API server cannot be asked: {0}")]
    Api(String),
    #[error("{0}")]
    Missing(String),
    #[error("{0}")]
    Invalid(String),
    #[error(
        "`spec.queue.id` names the queue of TableMap {0}: one queue serves one map. Delete one of the two, or make this one \
         without `queue.id`."
    )]
    QueueInUse(String),
}

impl std::convert::From<kube::Error> for ResolveError {
    fn from(error: kube::Error) -> Self {
        Self::Api(error.to_string())
    }
}

impl ResolveError {
    /// The reason in the condition `SpecValid`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Api(_) | Self::Missing(_) => "ConnectionMissing",
            Self::Invalid(_) => "MappingInvalid",
            Self::QueueInUse(_) => "QueueInUse",
        }
    }
}

/// How a Connection is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    Postgres(postgres::Settings),
    Redis(redis::Settings),
}

/// Reads references of one namespace.
#[derive(Clone)]
pub struct Resolver {
    objects: Objects,
    namespace: String,
    default_queue: Option<String>,
}

impl Resolver {
    #[must_use]
    pub fn new(cluster: Cluster, namespace: &str, default_queue: Option<String>) -> Self {
        Self::of(Objects::Cluster(cluster), namespace, default_queue)
    }

    /// Reads from elsewhere than the cluster alone.
    #[must_use]
    pub fn of(objects: Objects, namespace: &str, default_queue: Option<String>) -> Self {
        Self {
            objects,
            namespace: namespace.to_owned(),
            default_queue,
        }
    }

    /// A map's plan.
    ///
    /// # Errors
    /// A reference is missing, or the spec is inconsistent: the message names it.
    pub async fn plan(&self, object: &TableMap) -> Result<Plan, ResolveError> {
        let spec = &object.spec;
        self.has_queue(object).await?;
        let destination = self.connection(&spec.destination.connection_ref.name).await?;
        let destination_settings = self.postgres(&destination).await?;
        let queue_name = self.queue_name(object).ok_or_else(|| {
            let text = "`spec.queue.connectionRef` is not given, and the operator has no --default-queue";
            ResolveError::Missing(text.into())
        })?;
        let queue = self.connection(&queue_name).await?;
        let errors = spec.errors.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        if !wish::is_readable(object) {
            let text = "`spec.pauseUntilTime` is not a time: write it like 2026-11-24T22:00:00Z";
            return Err(ResolveError::Invalid(text.into()));
        }
        Ok(Plan {
            id: object.queue_id().into(),
            uid: object.uid().unwrap_or_default(),
            adopts: object.adopts(),
            namespace: self.namespace.clone(),
            name: object.name_any(),
            generation: object.meta().generation.unwrap_or(0),
            wish: Wish::of(object),
            wished: object.meta().generation.unwrap_or(0),
            state_by: state_by(object),
            until_by: until_by(object),
            source_table: (spec.source.table.schema.clone(), spec.source.table.name.clone()),
            mapping: Arc::new(mapping(object)?),
            stamp: serde_json::to_string(&(&spec.fields, &spec.source.filter, errors.max_records))
                .unwrap_or_default(),
            destination: spec.destination.connection_ref.name.clone(),
            destination_settings,
            destination_table: (
                spec.destination.table.schema.clone(),
                spec.destination.table.name.clone(),
            ),
            holds: spec.destination.outage_policy == OutagePolicy::Hold,
            queue_connection: queue_name,
            queue_settings: self.redis(&queue).await?,
            limits: limits(spec.queue.as_ref().and_then(|queue| queue.limits.as_ref())),
            retention: errors.retention_seconds.map_or(RETENTION, seconds),
            most_errors: errors
                .max_records
                .and_then(|most| usize::try_from(most).ok())
                .unwrap_or(MOST_ERRORS),
            cap: spec
                .catch_up
                .as_ref()
                .and_then(|catch_up| catch_up.max_records_per_second)
                .and_then(|cap| u32::try_from(cap).ok()),
            rules: rules::of(spec),
            deletion: object
                .meta()
                .deletion_timestamp
                .is_some()
                .then_some(spec.deletion_policy),
            shown: is_shown(&status),
            said: before(&status, Wish::of(object).paused),
        })
    }

    /// The status of a map whose references cannot be read: nobody works for it.
    #[must_use]
    pub fn unread(&self, object: &TableMap, error: &ResolveError) -> Facts {
        let status = object.status.clone().unwrap_or_default();
        let wish = Wish::of(object);
        let said = before(&status, wish.paused);
        let (state_by, until_by) = (state_by(object), until_by(object));
        let mut pauses = wish.pauses(wish.lasts(clock::now()), state_by.as_ref(), until_by.as_ref());
        pauses.extend(said.pauses.iter().cloned());
        let generation = object.meta().generation.unwrap_or(0);
        let phase = match object.meta().deletion_timestamp {
            Some(_) => Phase::Deleting,
            None => Phase::Starting,
        };
        let message = format!("The map is taken over once what it refers to can be read: {error}");
        let mut facts = Starting {
            namespace: &self.namespace,
            name: &object.name_any(),
            uid: &object.uid().unwrap_or_default(),
            generation,
            wished: generation,
            shown: is_shown(&status),
            pauses,
            said: &said,
            queue_connection: &self.queue_name(object).unwrap_or_default(),
            queue_id: &object.queue_id(),
        }
        .facts(phase, "Starting", &message);
        // Who waits for its clean-up must not forget what that waits for.
        facts.conditions.extend(cleaned_up(&status));
        facts
    }

    fn queue_name(&self, object: &TableMap) -> Option<String> {
        let queue = object.spec.queue.as_ref();
        let given = queue.and_then(|queue| queue.connection_ref.as_ref());
        given
            .map(|reference| reference.name.clone())
            .or_else(|| self.default_queue.clone())
    }

    /// A queue that is adopted serves no other map.
    async fn has_queue(&self, object: &TableMap) -> Result<(), ResolveError> {
        if !object.adopts() {
            return Ok(());
        }
        let id = object.queue_id();
        let maps = self.objects.maps(&self.namespace).await?;
        let others = maps
            .iter()
            .filter(|other| other.name_any() != object.name_any() && other.queue_id() == id);
        match others.min_by_key(|other| other.precedence()) {
            Some(other) if other.precedence() < object.precedence() => {
                Err(ResolveError::QueueInUse(other.name_any()))
            }
            _ => Ok(()),
        }
    }

    /// Whether a Connection and what it refers to can be used.
    ///
    /// # Errors
    /// What is missing.
    pub async fn usable(&self, connection: &Connection) -> Result<(), ResolveError> {
        match connection.spec.postgres {
            Some(_) => self.postgres(connection).await.map(|_| ()),
            None => self.redis(connection).await.map(|_| ()),
        }
    }

    /// How a Connection is reached now.
    ///
    /// # Errors
    /// It cannot be used, or the API server cannot be asked.
    pub async fn reached(&self, name: &str) -> Result<Reached, ResolveError> {
        let connection = self.connection(name).await?;
        match connection.spec.postgres {
            Some(_) => self.postgres(&connection).await.map(Reached::Postgres),
            None => self.redis(&connection).await.map(Reached::Redis),
        }
    }

    /// A Connection of this namespace.
    ///
    /// # Errors
    /// It does not exist, or the API server cannot be asked.
    pub async fn connection(&self, name: &str) -> Result<Connection, ResolveError> {
        self.get(name, CONNECTION).await
    }

    async fn get<K: Object>(&self, name: &str, kind: &str) -> Result<K, ResolveError> {
        self.objects.get(&self.namespace, name, kind).await
    }

    /// How to connect to a Postgres Connection.
    ///
    /// # Errors
    /// It is of another kind, or a Secret is missing.
    pub async fn postgres(&self, connection: &Connection) -> Result<postgres::Settings, ResolveError> {
        let Some(spec) = &connection.spec.postgres else {
            return Err(ResolveError::Invalid(format!(
                "Connection {} is not a `postgres` one",
                connection.name_any()
            )));
        };
        let PostgresSpec {
            hosts,
            database,
            credentials,
            tls,
            connect_timeout_seconds,
            ..
        } = spec;
        let (username, password) = self.login(credentials).await?;
        Ok(postgres::Settings {
            hosts: hosts
                .iter()
                .map(|host| (host.host.clone(), port(host.port, 5432)))
                .collect(),
            database: database.clone(),
            username,
            password,
            tls: self.tls(tls).await?,
            connect_timeout: seconds(*connect_timeout_seconds),
        })
    }

    /// How to connect to a Redis Connection.
    ///
    /// # Errors
    /// It is of another kind, or a Secret is missing.
    pub async fn redis(&self, connection: &Connection) -> Result<redis::Settings, ResolveError> {
        let Some(RedisSpec {
            topology,
            credentials,
            tls,
            connect_timeout_seconds,
        }) = &connection.spec.redis
        else {
            return Err(ResolveError::Invalid(format!(
                "Connection {} is not a `redis` one",
                connection.name_any()
            )));
        };
        let topology = match (&topology.standalone, &topology.sentinel, &topology.cluster) {
            (Some(server), None, None) => redis::Topology::Standalone {
                host: server.host.clone(),
                port: port(Some(server.port), 6379),
            },
            (None, Some(sentinel), None) => redis::Topology::Sentinel {
                master: sentinel.master_name.clone(),
                hosts: sentinel
                    .hosts
                    .iter()
                    .map(|host| (host.host.clone(), port(Some(host.port), 26379)))
                    .collect(),
            },
            (None, None, Some(cluster)) => redis::Topology::Cluster {
                nodes: cluster
                    .nodes
                    .iter()
                    .map(|node| (node.host.clone(), port(Some(node.port), 6379)))
                    .collect(),
            },
            _ => {
                return Err(ResolveError::Invalid(
                    "`spec.redis.topology` must name exactly one of `standalone`, `sentinel` and `cluster`"
                        .into(),
                ));
            }
        };
        let login = match credentials {
            Some(credentials) => Some(self.login(credentials).await?),
            None => None,
        };
        let (username, password) = login.unzip();
        Ok(redis::Settings {
            topology,
            username: username.filter(|name| !name.is_empty()),
            password,
            tls: self.tls(tls).await?,
            connect_timeout: seconds(*connect_timeout_seconds),
        })
    }

    async fn login(&self, credentials: &Credentials) -> Result<(String, String), ResolveError> {
        let name = &credentials.secret_ref.name;
        let secret: Secret = self.get(name, "Secret").await?;
        let read = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            let text = value.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
            text.ok_or_else(|| ResolveError::Missing(format!("Secret {name} has no text under `{key}`")))
        };
        Ok((
            read(&credentials.username_key).or_else(|error| optional(error, credentials))?,
            read(&credentials.password_key)?,
        ))
    }

    async fn tls(&self, spec: &TlsSpec) -> Result<Tls, ResolveError> {
        let mode = match spec.mode {
            TlsVerification::Disable => TlsMode::Disable,
            TlsVerification::Require => TlsMode::Require,
            TlsVerification::VerifyCA => TlsMode::VerifyCa,
            TlsVerification::VerifyFull => TlsMode::VerifyFull,
        };
        let ca = match &spec.ca {
            Some(ca) => Some(self.ca(ca).await?),
            None => None,
        };
        let client = match &spec.client_certificate {
            Some(certificate) => {
                let secret = &certificate.secret_ref.name;
                let key = |key: &str| KeySelector {
                    name: secret.clone(),
                    key: key.into(),
                };
                Some((
                    self.secret_key(&key("tls.crt")).await?,
                    self.secret_key(&key("tls.key")).await?,
                ))
            }
            None => None,
        };
        Ok(Tls { mode, ca, client })
    }

    async fn ca(&self, ca: &CertificateAuthority) -> Result<Vec<u8>, ResolveError> {
        if let Some(selector) = &ca.secret_key_ref {
            return self.secret_key(selector).await;
        }
        let Some(KeySelector { name, key }) = &ca.config_map_key_ref else {
            return Err(ResolveError::Invalid(
                "`tls.ca` names neither a Secret nor a ConfigMap".into(),
            ));
        };
        let map: ConfigMap = self.get(name, "ConfigMap").await?;
        let text = map
            .data
            .as_ref()
            .and_then(|data| data.get(key))
            .map(|text| text.clone().into_bytes());
        text.ok_or_else(|| ResolveError::Missing(format!("ConfigMap {name} has no key {key}")))
    }

    async fn secret_key(&self, KeySelector { name, key }: &KeySelector) -> Result<Vec<u8>, ResolveError> {
        let secret: Secret = self.get(name, "Secret").await?;
        let bytes = secret
            .data
            .as_ref()
            .and_then(|data| data.get(key))
            .map(|bytes| bytes.0.clone());
        bytes.ok_or_else(|| ResolveError::Missing(format!("Secret {name} has no key {key}")))
    }
}

/// Redis may have a password and no user.
fn optional(error: ResolveError, credentials: &Credentials) -> Result<String, ResolveError> {
    if credentials.username_key == "username" {
        Ok(String::new())
    } else {
        Err(error)
    }
}

fn port(port: Option<i32>, default: u16) -> u16 {
    port.and_then(|port| u16::try_from(port).ok()).unwrap_or(default)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

fn is_shown(status: &TableMapStatus) -> bool {
    let mut conditions = status.conditions.iter();
    conditions.any(|said| said.type_ == "Paused" && said.status == "True")
}

fn cleaned_up(status: &TableMapStatus) -> Option<Said> {
    let mut conditions = status.conditions.iter();
    let known = conditions.find(|said| said.type_ == "CleanedUp")?;
    Some(Said {
        type_: "CleanedUp",
        status: Said::read(&known.status),
        reason: known.reason.clone(),
        message: known.message.clone(),
    })
}

fn state_by(object: &TableMap) -> Option<String> {
    actor(object, "/f:spec/f:state")
}

fn until_by(object: &TableMap) -> Option<String> {
    actor(object, "/f:spec/f:pauseUntilTime")
}

fn before(status: &TableMapStatus, joined: bool) -> StatusBefore {
    let count = |value: Option<i64>| value.unwrap_or(0).unsigned_abs();
    let durable = status
        .position
        .as_ref()
        .and_then(|position| position.durable.as_ref()?.parse().ok());
    let ledger = status
        .ledger
        .as_ref()
        .map_or_else(Ledger::default, |ledger| Ledger {
            received: count(ledger.received),
            written: count(ledger.written),
            in_flight: count(ledger.in_flight),
            queued: count(ledger.queued),
            errored: count(ledger.errored),
            superseded: count(ledger.superseded),
            discarded: count(ledger.discarded),
            purged: count(ledger.purged),
            filtered: count(ledger.filtered),
        });
    let queue = status.queue.as_ref();
    let pauses: Vec<PauseFacts> = status.pauses.iter().flatten().filter_map(by_rule).collect();
    StatusBefore {
        durable,
        ledger,
        queued: count(queue.and_then(|queue| queue.records)),
        queue_bytes: count(queue.and_then(|queue| queue.bytes)),
        rules: Ruling::shown(&pauses, joined),
        pauses,
        memory: Arc::new(Memory::of(status)),
    }
}

/// A pause that a rule had begun.
fn by_rule(pause: &Pause) -> Option<PauseFacts> {
    (pause.cause == PauseFacts::RULE).then(|| PauseFacts {
        cause: PauseFacts::RULE,
        name: pause.name.clone(),
        since: pause.since_time.as_ref().map(|since| since.0.as_microsecond()),
        until: None,
        actor: None,
        message: pause.message.clone(),
    })
}

/// `spec.errors`, where the map does not say.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
const MOST_ERRORS: usize = 10_000;

/// What a map may have queued. A soft limit that is not given is four fifths of the hard one, whatever that is by then.
fn limits(given: Option<&QueueLimits>) -> Limits {
    let measures = |bounds: Option<&QueueBounds>| {
        bounds.map_or_else(Measures::default, |bounds| Measures {
            records: bounds.records.map(i64::unsigned_abs),
            bytes: bounds.bytes.as_ref().and_then(Bytes::count),
            age: bounds.age_seconds.map(seconds),
        })
    };
    let hard = measures(given.and_then(|limits| limits.hard.as_ref())).or(Measures::DEFAULT);
    let soft = measures(given.and_then(|limits| limits.soft.as_ref())).or(hard.soft());
    Limits { hard, soft }
}

/// Who wrote a field last, as far as the object says.
fn actor(object: &TableMap, field: &str) -> Option<String> {
    let mut managers: Vec<_> = object
        .meta()
        .managed_fields
        .iter()
        .flatten()
        .filter(|entry| entry.subresource.as_deref() != Some("status"))
        .filter(|entry| {
            entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| fields.0.pointer(field).is_some())
        })
        .collect();
    managers.sort_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    managers
        .last()
        .and_then(|entry| entry.manager.as_ref())
        .map(|manager| format!("fieldManager:{manager}"))
}

/// Compiles a map's fields, key and filter.
///
/// # Errors
/// What is inconsistent, naming the field.
pub fn mapping(object: &TableMap) -> Result<Mapping, ResolveError> {
    let fields = object.spec.fields.iter().map(|field| FieldSpec {
        destination: field.destination.clone(),
        from: match (&field.source, &field.value) {
            (Some(source), _) => From::Source(source.clone()),
            (None, value) => From::Constant(value.clone().unwrap_or_default()),
        },
        transforms: field.transforms.iter().filter_map(transform).collect(),
    });
    if let Some(name) = object
        .spec
        .fields
        .iter()
        .find(|field| field.transforms.iter().any(is_undecided))
    {
        let message = "field `{}`: each entry of `valueMap` must have exactly one of `to` and `toNull: true`";
        return Err(ResolveError::Invalid(message.replace("{}", &name.destination)));
    }
    let filter = object.spec.source.filter.as_ref().map(|filter| FilterSpec {
        expression: filter.expression.clone(),
        on_exit: match filter.on_exit {
            OnExit::Delete => mapping::OnExit::Delete,
            OnExit::Keep => mapping::OnExit::Keep,
        },
    });
    let compiled = Mapping::compile(fields.collect(), &object.spec.integration_key, filter);
    compiled.map_err(|error| ResolveError::Invalid(error.to_string()))
}

fn is_undecided(spec: &TransformSpec) -> bool {
    let entries = spec.value_map.iter().flat_map(|map| &map.entries);
    entries
        .into_iter()
        .any(|entry| entry.to.is_some() == (entry.to_null == Some(true)))
}

fn transform(spec: &TransformSpec) -> Option<Transform> {
    if let Some(default) = &spec.default {
        return Some(Transform::Default(default.value.clone()));
    }
    if let Some(truncate) = &spec.truncate {
        return Some(Transform::Truncate {
            max_characters: u32::try_from(truncate.max_characters).ok()?,
        });
    }
    let map = spec.value_map.as_ref()?;
    let unmatched = map
        .on_unmatched
        .as_ref()
        .map_or(Unmatched::Error, |unmatched| match unmatched.policy {
            UnmatchedPolicy::Keep => Unmatched::Keep,
            UnmatchedPolicy::Null => Unmatched::Null,
            UnmatchedPolicy::Value => Unmatched::Value(unmatched.value.clone().unwrap_or_default()),
            UnmatchedPolicy::Error => Unmatched::Error,
        });
    Some(Transform::ValueMap(ValueMap {
        entries: map
            .entries
            .iter()
            .map(|entry| (entry.from.clone(), entry.to.clone()))
            .collect(),
        on_null: map.on_null.as_ref().map(|on_null| on_null.value.clone()),
        on_unmatched: unmatched,
    }))
}
