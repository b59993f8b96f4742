//! Checks manifests before they are applied: what a worker would find at source, destination and Redis, it finds now.
//! Nothing is changed anywhere.

mod manifest;
mod servers;

use crate::{
    api::{Connection, Management, TableMap},
    source::postgres::Admin,
    worker::{Objects, ResolveError, Resolver},
};
use kube::{Client, ResourceExt};
use serde_json::Value;
use std::{fmt, path::PathBuf, sync::Arc};

pub use manifest::ManifestError;

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Options {
    /// `-` is standard input.
    pub files: Vec<PathBuf>,
    /// Of objects that name none.
    pub namespace: String,
    pub default_queue: Option<String>,
}

/// What was found of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `TableMap sales/customers`.
    pub object: String,
    pub verdict: Verdict,
}

/// Reasons are those of the conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good(String),
    /// It works, but not as it should.
    Doubtful {
        reason: &'static str,
        message: String,
    },
    Bad {
        reason: &'static str,
        message: String,
    },
}

impl Finding {
    #[must_use]
    pub const fn is_bad(&self) -> bool {
        matches!(self.verdict, Verdict::Bad { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Good(message) => write!(f, "ok    {}: {message}", self.object),
            Verdict::Doubtful { reason, message } => write!(f, "warn  {}: {reason}: {message}", self.object),
            Verdict::Bad { reason, message } => write!(f, "FAIL  {}: {reason}: {message}", self.object),
        }
    }
}

/// Why a check ended early.
type Bad = (&'static str, String);

/// Checks all Connections and `TableMaps` of the files, in their order. `tell` is given each finding at once.
///
/// # Errors
/// A file cannot be read.
pub async fn check(
    options: &Options,
    cluster: Option<Client>,
    mut tell: impl FnMut(&Finding),
) -> Result<Vec<Finding>, ManifestError> {
    let manifests = manifest::read(&options.files, &options.namespace)?;
    let checker = Checker {
        files: Arc::new(manifests.clone()),
        cluster,
        default_queue: options.default_queue.clone(),
    };
    let mut findings = Vec::new();
    for manifest in &manifests {
        let verdicts = match manifest["kind"].as_str() {
            Some("Connection") => checker.connection(manifest).await,
            Some("TableMap") => checker.map(manifest).await,
            _ => continue,
        };
        for verdict in verdicts {
            let object = manifest::name(manifest);
            let finding = Finding { object, verdict };
            tell(&finding);
            findings.push(finding);
        }
    }
    Ok(findings)
}

struct Checker {
    files: Arc<Vec<Value>>,
    cluster: Option<Client>,
    default_queue: Option<String>,
}

impl Checker {
    fn resolver(&self, namespace: &str) -> Resolver {
        let objects = Objects::Files {
            files: self.files.clone(),
            cluster: self.cluster.clone(),
        };
        Resolver::of(objects, namespace, self.default_queue.clone())
    }

    async fn connection(&self, manifest: &Value) -> Vec<Verdict> {
        let connection: Connection = match manifest::typed(manifest) {
            Ok(connection) => connection,
            Err(message) => return vec![invalid(message)],
        };
        let resolver = self.resolver(&connection.namespace().unwrap_or_default());
        let found = match connection.spec.postgres {
            Some(_) => match resolver.postgres(&connection).await {
                Ok(settings) => servers::postgres(&settings).await,
                Err(error) => Err(unresolved(&error)),
            },
            None => match resolver.redis(&connection).await {
                Ok(settings) => return servers::redis(&settings).await,
                Err(error) => Err(unresolved(&error)),
            },
        };
        vec![found.map_or_else(bad, Verdict::Good)]
    }

    async fn map(&self, manifest: &Value) -> Vec<Verdict> {
        let map: TableMap = match manifest::typed(manifest) {
            Ok(map) => map,
            Err(message) => return vec![invalid(message)],
        };
        let resolver = self.resolver(&map.namespace().unwrap_or_default());
        match self.fits(&resolver, &map).await {
            Ok(doubts) if doubts.is_empty() => {
                vec![Verdict::Good("source, destination and queue fit.".into())]
            }
            Ok(doubts) => doubts,
            Err(error) => vec![bad(error)],
        }
    }

    async fn fits(&self, resolver: &Resolver, map: &TableMap) -> Result<Vec<Verdict>, Bad> {
        let plan = resolver.plan(map).await.map_err(|error| unresolved(&error))?;
        let name = &map.spec.source.connection_ref.name;
        let source = resolver
            .connection(name)
            .await
            .map_err(|error| unresolved(&error))?;
        let settings = resolver
            .postgres(&source)
            .await
            .map_err(|error| unresolved(&error))?;
        let admin = Admin::connect(&settings)
            .await
            .map_err(|error| (error.reason(), error.to_string()))?;
        let doubts = servers::source(&admin, &settings, given(&source, map)?).await?;
        servers::tables(&plan, &admin, given(&source, map)?).await?;
        let queue = servers::redis(&plan.queue_settings).await;
        Ok(queue
            .into_iter()
            .filter(|verdict| !matches!(verdict, Verdict::Good(_)))
            .chain(doubts)
            .collect())
    }
}

/// Slot and publication, with `management: External`.
fn given<'a>(source: &'a Connection, map: &TableMap) -> Result<Option<(&'a str, &'a str)>, Bad> {
    let Some(replication) = source.spec.postgres.as_ref().map(|spec| &spec.replication) else {
        return Ok(None);
    };
    if replication.management == Management::Managed {
        return Ok(None);
    }
    let group = &map.spec.worker_group;
    let slot = replication.slots.iter().find(|slot| slot.worker_group == *group);
    slot.map(|slot| Some((slot.slot_name.as_str(), slot.publication_name.as_str())))
        .ok_or_else(|| {
            let message = format!(
                "Connection {} names no slot for worker group {group}",
                source.name_any()
            );
            ("ConnectionUnfit", message)
        })
}

fn unresolved(error: &ResolveError) -> Bad {
    (error.reason(), error.to_string())
}

fn invalid(message: String) -> Verdict {
    Verdict::Bad {
        reason: "MappingInvalid",
        message,
    }
}

fn bad((reason, message): Bad) -> Verdict {
    Verdict::Bad { reason, message }
}
