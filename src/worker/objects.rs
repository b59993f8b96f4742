//! Where the objects that a map refers to are read: from the cluster, or from manifests that are not applied yet.

use super::resolve::ResolveError;
use crate::{
    api::{Connection, TableMap},
    apiserver,
};
use k8s_openapi::{
    ByteString, NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    any::Any,
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(10);

/// What can be read: an object of a namespace.
pub trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType: Default>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl Object for Connection {}
impl Object for ConfigMap {}
impl Object for Secret {}

/// Manifests, and the cluster for what is not among them, if it can be asked.
#[derive(Clone)]
pub enum Objects {
    Cluster(Cluster),
    Files {
        files: Arc<Vec<Value>>,
        cluster: Option<Client>,
    },
}

impl Objects {
    /// One object.
    ///
    /// # Errors
    /// It does not exist, cannot be read, or the API server cannot be asked.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str, kind: &str) -> Result<K, ResolveError> {
        let missing = |more: &str| {
            ResolveError::Missing(format!(
                "there is no {kind} {name} in namespace {namespace}{more}"
            ))
        };
        match self {
            Self::Cluster(cluster) => cluster
                .get(namespace, name, kind)
                .await?
                .ok_or_else(|| missing("")),
            Self::Files { files, cluster } => match (find(files, namespace, name, kind), cluster) {
                (Some(found), _) => serde_json::from_value(found)
                    .map_err(|error| ResolveError::Invalid(format!("{kind} {name}: {error}"))),
                (None, Some(client)) => ask(client, namespace, name)
                    .await?
                    .ok_or_else(|| missing(", nor in the files")),
                (None, None) => Err(missing(" of the files, and no cluster is configured")),
            },
        }
    }
}

impl Objects {
    /// Every `TableMap` of a namespace.
    ///
    /// # Errors
    /// The API server cannot be asked.
    pub async fn maps(&self, namespace: &str) -> Result<Vec<TableMap>, ResolveError> {
        let (files, cluster) = match self {
            Self::Cluster(cluster) => (None, Some(&cluster.client)),
            Self::Files { files, cluster } => (Some(files), cluster.as_ref()),
        };
        let here = |file: &&Value| file["kind"] == "TableMap" && file["metadata"]["namespace"] == namespace;
        let files = files.into_iter().flat_map(|files| files.iter().filter(here));
        let mut maps: Vec<TableMap> = files
            .filter_map(|file| serde_json::from_value(file.clone()).ok())
            .collect();
        if let Some(client) = cluster {
            let api: Api<TableMap> = Api::namespaced(client.clone(), namespace);
            let all = ListParams::default();
            maps.extend(apiserver::within(DEADLINE, api.list(&all)).await?.items);
        }
        Ok(maps)
    }
}

/// What is read of the cluster serves for a moment: the maps of a worker name the same few objects.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    recent: Arc<Mutex<HashMap<Name, Recent>>>,
}

/// Kind, namespace and name.
type Name = (String, String, String);

/// When an object was read, and what was found.
type Recent = (Instant, Arc<dyn Any + Send + Sync>);

const MOMENT: Duration = Duration::from_secs(1);

impl Cluster {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            recent: Arc::default(),
        }
    }

    fn recent(&self) -> MutexGuard<'_, HashMap<Name, Recent>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None: there is none.
    ///
    /// # Errors
    /// The API server cannot be asked.
    async fn get<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
    ) -> Result<Option<K>, ResolveError> {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        let known = self.recent().get(&key).cloned();
        if let Some((at, known)) = known
            && at.elapsed() < MOMENT
            && let Some(known) = known.downcast_ref::<K>()
        {
            return Ok(Some(known.clone()));
        }
        let found: Option<K> = ask(&self.client, namespace, name).await?;
        let mut recent = self.recent();
        recent.retain(|_, (at, _)| at.elapsed() < MOMENT);
        // What is missing is waited for.
        if let Some(found) = &found {
            recent.insert(key, (Instant::now(), Arc::new(found.clone())));
        }
        Ok(found)
    }
}

async fn ask<K: Object>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, ResolveError> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    Ok(apiserver::within(DEADLINE, api.get_opt(name)).await?)
}

/// A manifest, as the API server would keep it.
fn find(files: &[Value], namespace: &str, name: &str, kind: &str) -> Option<Value> {
    let is_meant = |file: &&Value| {
        let metadata = &file["metadata"];
        file["kind"] == kind && metadata["name"] == name && metadata["namespace"] == namespace
    };
    let mut found = files.iter().find(is_meant)?.clone();
    let texts = found["stringData"].as_object().cloned().unwrap_or_default();
    for (key, text) in texts {
        let bytes = text.as_str().unwrap_or_default().as_bytes().to_vec();
        found["data"][key] = json!(ByteString(bytes));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_of_a_file_reads_as_the_cluster_would_keep_it() {
        let file = json!({
            "kind": "Secret", "metadata": {"name": "login", "namespace": "a"}, "stringData": {"password": "p"},
        });
        let found = find(&[file], "a", "login", "Secret").unwrap();
        let secret: Secret = serde_json::from_value(found).unwrap();
        assert_eq!(secret.data.unwrap()["password"], ByteString(b"p".to_vec()));
    }
}
