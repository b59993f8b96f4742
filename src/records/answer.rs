//! Answers requests for records: one, its payload, or a page of a list, which goes from map to map.

use super::{
    GROUP, VERSION,
    fault::Fault,
    object::{Body, Object, QueuedRecord, RecordError},
    page::After,
    payload,
    request::{List, Records, Wanted},
    resource::Resource,
    store::{Opened, Store, everything},
    table::table,
};
use crate::{
    api::TableMap,
    record::{Change, Has, Position},
};
use futures::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::time::Duration;

/// What is sent.
pub struct Answer {
    pub value: Value,
    /// Sentences that kubectl prints before it.
    pub warnings: Vec<String>,
}

impl Answer {
    pub const fn of(value: Value) -> Self {
        Self {
            value,
            warnings: Vec::new(),
        }
    }
}

/// How far the map's destination is, as far as that is known.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub has: Has,
    pub sure: bool,
}

/// Where a page ends: the position of its last record, and the entry that has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub position: Position,
    pub seq: u64,
}

/// Records of one map, and where the search has ended.
pub struct Part<B> {
    pub objects: Vec<Object<B>>,
    pub end: Place,
    /// The map has more.
    pub more: bool,
    /// So many more, if nothing else is selected by.
    pub remaining: u64,
}

impl<B> Part<B> {
    /// Nothing after `after` yet.
    pub const fn after(after: Place) -> Self {
        Self {
            objects: Vec::new(),
            end: after,
            more: false,
            remaining: 0,
        }
    }
}

/// What a payload is made of.
pub struct Origin {
    pub change: Change,
    /// What the destination said, if it refused it.
    pub server_text: String,
}

/// A search that takes longer ends its page, which may be empty then.
pub const SEARCH: Duration = Duration::from_secs(3);

/// A kind of record.
pub trait Source: Body + Send + Sync + Sized {
    /// The first records of a map after `after`, at most `limit`.
    fn list(
        opened: &Opened,
        known: Known,
        list: &List,
        limit: usize,
        after: Place,
    ) -> impl Future<Output = Result<Part<Self>, Fault>> + Send;

    /// One record, and where it comes from.
    fn get(
        opened: &Opened,
        known: Known,
        name: &str,
    ) -> impl Future<Output = Result<Option<(Object<Self>, Origin)>, Fault>> + Send;
}

/// Boxed: the compiler follows a future only so deep.
///
/// # Errors
/// There is no such record, or it cannot be read now.
pub fn answer<'a>(store: &'a Store, records: &'a Records) -> BoxFuture<'a, Result<Answer, Fault>> {
    match records.resource {
        Resource::QueuedRecords => answer_of::<QueuedRecord>(store, records).boxed(),
        Resource::RecordErrors => answer_of::<RecordError>(store, records).boxed(),
    }
}

async fn answer_of<B: Source>(store: &Store, records: &Records) -> Result<Answer, Fault> {
    match &records.wanted {
        Wanted::List(wanted) => list::<B>(store, records, wanted).await,
        Wanted::One(name) => {
            let Found { object, warning, .. } = one::<B>(store, records, name).await?;
            let value = match records.table {
                Some(include) => table(&[object], json!({}), include, Timestamp::now()),
                None => json!(object),
            };
            let warnings = warning.into_iter().collect();
            Ok(Answer { value, warnings })
        }
        Wanted::Payload(name) => {
            let found = one::<B>(store, records, name).await?;
            let body = payload::payload(&found.opened, &found.origin).await;
            Ok(Answer {
                value: json!(Object::payload_of(found.object.metadata, body)),
                warnings: found.warning.into_iter().collect(),
            })
        }
    }
}

async fn one<B: Source>(store: &Store, records: &Records, name: &str) -> Result<Found<B>, Fault> {
    let gone = || {
        let more = match records.resource {
            Resource::QueuedRecords => ": it has been written, or given up",
            Resource::RecordErrors => ": it was given up, or its time was over",
        };
        Fault::NotFound(format!(
            "{}.{GROUP} {name:?} not found{more}",
            records.resource.plural()
        ))
    };
    let namespace = records.namespace.as_deref().ok_or(Fault::NoSuchPath)?;
    let (map, _) = name.rsplit_once(records.resource.infix()).ok_or_else(gone)?;
    let named = store.map(namespace, map).await?;
    if let Some(map) = named
        && let Some(found) = find(store, &map, name).await?
    {
        return Ok(found);
    }
    // Errors of a queue that was adopted keep the name of the map that had it.
    let mut failed = None;
    if records.resource == Resource::RecordErrors {
        for map in store.maps(Some(namespace)).await? {
            if !map.adopts() {
                continue;
            }
            match find(store, &map, name).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(fault) => failed = Some(fault),
            }
        }
    }
    Err(failed.unwrap_or_else(gone))
}

/// A record of this name in a map.
async fn find<B: Source>(store: &Store, map: &TableMap, name: &str) -> Result<Option<Found<B>>, Fault> {
    let opened = store.open(map).await?;
    let (known, warning) = known(store, &opened).await;
    let found = B::get(&opened, known, name).await?;
    let same = |(object, _): &(Object<B>, _)| object.metadata.name == name;
    Ok(found.filter(same).map(|(object, origin)| Found {
        object,
        origin,
        opened,
        warning,
    }))
}

/// One record, and where it comes from.
struct Found<B> {
    object: Object<B>,
    origin: Origin,
    opened: Opened,
    warning: Option<String>,
}

async fn known(store: &Store, opened: &Opened) -> (Known, Option<String>) {
    match store.has(opened).await {
        Ok(has) => (Known { has, sure: true }, None),
        Err(warning) => {
            let has = everything();
            (Known { has, sure: false }, Some(warning))
        }
    }
}

/// The maps that a list is about, in its order.
async fn maps(
    store: &Store,
    records: &Records,
    wanted: &List,
    warnings: &mut Vec<String>,
) -> Result<Vec<TableMap>, Fault> {
    let named = wanted.selector.only("tableMap");
    if records.resource == Resource::QueuedRecords && named.is_none() {
        return Err(Fault::BadRequest(
            "the queues of all maps are not listed together: name one with --field-selector tableMap=NAME; `kubectl get tm` \
             shows how many records wait in each"
                .into(),
        ));
    }
    let mut maps = match (records.namespace.as_deref(), named) {
        (Some(namespace), Some(name)) => store.map(namespace, name).await?.into_iter().collect(),
        (namespace, _) => store.maps(namespace).await?,
    };
    maps.retain(|map| {
        let namespace = map.namespace().unwrap_or_default();
        wanted.selector.may_concern(&map.name_any(), &namespace)
    });
    if let Some(name) = named.filter(|_| maps.is_empty()) {
        warnings.push(format!("There is no TableMap {name} here."));
    }
    if let Some(after) = &wanted.page.after {
        let before = (after.namespace.as_str(), after.map.as_str());
        let place = |map: &TableMap| (map.namespace().unwrap_or_default(), map.name_any());
        maps.retain(|map| {
            let (namespace, name) = place(map);
            (namespace.as_str(), name.as_str()) >= before
        });
        let same = |map: &&TableMap| place(map) == (after.namespace.clone(), after.map.clone());
        if let Some(map) = maps.first().filter(same)
            && map.uid().unwrap_or_default() != after.uid
        {
            return Err(Fault::Expired(format!(
                "TableMap {} is another one than when this list was begun: begin it anew",
                after.map
            )));
        }
    }
    Ok(maps)
}

async fn list<B: Source>(store: &Store, records: &Records, wanted: &List) -> Result<Answer, Fault> {
    let mut warnings = Vec::new();
    let maps = maps(store, records, wanted, &mut warnings).await?;
    let mut objects: Vec<Object<B>> = Vec::new();
    let (mut next, mut remaining) = (None, None);
    let count = maps.len();
    for (index, map) in maps.into_iter().enumerate() {
        let limit = wanted.page.limit - objects.len();
        let part = match part::<B>(store, &map, wanted, limit, &mut warnings).await {
            Ok(part) => part,
            // One bad map does not hide the others.
            Err(fault @ Fault::Unavailable(_)) if count > 1 => {
                warnings.push(fault.to_string());
                continue;
            }
            Err(fault) => return Err(fault),
        };
        objects.extend(part.objects);
        let full = objects.len() >= wanted.page.limit && index + 1 < count;
        if part.more || full {
            let mut after = After::new(records.resource, &wanted.selectors);
            after.namespace = map.namespace().unwrap_or_default();
            after.map = map.name_any();
            after.uid = map.uid().unwrap_or_default();
            after.position = part.end.position.to_string();
            after.seq = part.end.seq;
            next = Some(after);
            let counts = count == 1 && wanted.selector.is_whole_map();
            remaining = counts.then_some(part.remaining);
            break;
        }
    }
    let mut metadata = json!({"resourceVersion": "1"});
    if let Some(next) = next {
        metadata["continue"] = json!(next.token());
        if !wanted.page.is_asked {
            warnings.push(format!(
                "Only the first {} records are listed: ask with a limit, and go on with `continue`.",
                wanted.page.limit
            ));
        }
    }
    if let Some(remaining) = remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    let value = match records.table {
        Some(include) => table(&objects, metadata, include, Timestamp::now()),
        None => json!({
            "kind": format!("{}List", records.resource.kind()),
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "metadata": metadata,
            "items": objects,
        }),
    };
    Ok(Answer { value, warnings })
}

/// The part of a page that one map has.
async fn part<B: Source>(
    store: &Store,
    map: &TableMap,
    wanted: &List,
    limit: usize,
    warnings: &mut Vec<String>,
) -> Result<Part<B>, Fault> {
    let opened = store.open(map).await?;
    let (known, warning) = known(store, &opened).await;
    warnings.extend(warning);
    let begin = begin(wanted, map)?;
    B::list(&opened, known, wanted, limit, begin).await
}

/// Where the page begins in a map.
fn begin(wanted: &List, map: &TableMap) -> Result<Place, Fault> {
    let here = |after: &&After| {
        (map.namespace().as_deref(), map.name_any().as_str())
            == (Some(after.namespace.as_str()), after.map.as_str())
    };
    let Some(after) = wanted.page.after.as_ref().filter(here) else {
        return Ok(Place::default());
    };
    let position = after
        .position
        .parse()
        .map_err(|_| Fault::BadRequest("the continue token cannot be read: begin the list anew".into()))?;
    Ok(Place {
        position,
        seq: after.seq,
    })
}
