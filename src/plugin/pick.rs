//! Which maps are meant.

use super::{
    Ended,
    args::Pick,
    cluster::{Cluster, within},
    print::counted,
};
use crate::{
    api::{Connection, TableMap},
    mapping::key_columns,
};
use kube::{ResourceExt as _, api::ListParams};

impl Pick {
    fn says_nothing(&self) -> bool {
        self.names.is_empty() && self.selector.is_none() && self.destination.is_none() && !self.all
    }

    /// The maps, by namespace and name. Nothing said means all of them.
    ///
    /// # Errors
    /// A map or Connection that is named is not there.
    pub async fn maps(&self, cluster: &Cluster) -> Result<Vec<TableMap>, Ended> {
        let mut params = ListParams::default();
        if let Some(selector) = &self.selector {
            params = params.labels(selector);
        }
        if let Some(destination) = &self.destination {
            params = params.fields(&format!("spec.destination.connectionRef.name={destination}"));
        }
        let mut maps = within(cluster.scope::<TableMap>().list(&params)).await?.items;
        if !self.names.is_empty() {
            let is_missing = |name: &&String| !maps.iter().any(|map| map.name_any() == **name);
            if let Some(name) = self.names.iter().find(is_missing) {
                return Err(missing(cluster, "TableMap", name));
            }
            maps.retain(|map| self.names.contains(&map.name_any()));
        }
        if let Some(destination) = self.destination.as_ref().filter(|_| maps.is_empty()) {
            is_there(cluster, destination).await?;
        }
        maps.sort_by_key(|map| (map.namespace(), map.name_any()));
        Ok(maps)
    }

    /// The same, for what changes them: it must be said which, and there must be one.
    ///
    /// # Errors
    /// As above; or nothing is said, or nothing found.
    pub async fn chosen(&self, cluster: &Cluster) -> Result<Vec<TableMap>, Ended> {
        if self.says_nothing() {
            return Err(Ended::Usage(
                "say which maps: by name, -l LABELS, --destination CONNECTION, or --all".into(),
            ));
        }
        let maps = self.maps(cluster).await?;
        if maps.is_empty() {
            return Err(Ended::Failed(format!(
                "there is no such TableMap {}",
                place(cluster)
            )));
        }
        Ok(maps)
    }
}

/// The one map of the namespace that has this name.
///
/// # Errors
/// It is not there.
pub async fn one(cluster: &Cluster, name: &str) -> Result<TableMap, Ended> {
    match within(cluster.maps(&cluster.namespace).get_opt(name)).await? {
        Some(map) => Ok(map),
        None => Err(Ended::Failed(format!(
            "there is no TableMap {name} in namespace {}",
            cluster.namespace
        ))),
    }
}

/// The maps of this name: with all namespaces, there may be several.
///
/// # Errors
/// There is none.
pub async fn named(cluster: &Cluster, name: &str) -> Result<Vec<TableMap>, Ended> {
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let maps = within(cluster.scope::<TableMap>().list(&params)).await?.items;
    if maps.is_empty() {
        return Err(missing(cluster, "TableMap", name));
    }
    Ok(maps)
}

/// Keys have as many columns as those of the map, or nothing would ever be found.
///
/// # Errors
/// One has not.
pub fn check_keys<'a>(map: &TableMap, keys: impl IntoIterator<Item = &'a String>) -> Result<(), Ended> {
    let columns = &map.spec.integration_key;
    let fits = |key: &&String| key_columns(key.as_bytes()).len() == columns.len();
    match keys.into_iter().find(|key| !fits(key)) {
        None => Ok(()),
        Some(key) => Err(Ended::Usage(format!(
            "the key {key} has {}, but that of {} has {}: {}. A comma or backslash within one has a backslash before it.",
            counted(
                i64::try_from(key_columns(key.as_bytes()).len()).unwrap_or(i64::MAX),
                "column"
            ),
            map.name_any(),
            columns.len(),
            columns.join(", ")
        ))),
    }
}

async fn is_there(cluster: &Cluster, connection: &str) -> Result<(), Ended> {
    let params = ListParams::default().fields(&format!("metadata.name={connection}"));
    let found = within(cluster.scope::<Connection>().list(&params)).await?.items;
    if found.is_empty() {
        return Err(missing(cluster, "Connection", connection));
    }
    Ok(())
}

fn missing(cluster: &Cluster, kind: &str, name: &str) -> Ended {
    Ended::Failed(format!("there is no {kind} {name} {}", place(cluster)))
}

fn place(cluster: &Cluster) -> String {
    if cluster.all_namespaces {
        "in any namespace".into()
    } else {
        format!("in namespace {}", cluster.namespace)
    }
}
