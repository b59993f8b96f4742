//! What of a watch is more than a status.

use futures::{Stream, TryStreamExt};
use kube::{Resource, runtime::watcher};
use std::collections::HashMap;

/// Generation, and whether it is being deleted.
type Seen = (Option<i64>, bool);

/// Objects that are new, gone, or changed in more than their status; after they are in the store.
pub fn changes<K: Resource + Clone>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
) -> impl Stream<Item = Result<K, watcher::Error>> {
    let mut seen: HashMap<Option<String>, Seen> = HashMap::new();
    events.try_filter_map(move |event| {
        let changed = match event {
            watcher::Event::Delete(object) => {
                seen.remove(&object.meta().uid);
                Some(object)
            }
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                let meta = object.meta();
                let now = (meta.generation, meta.deletion_timestamp.is_some());
                let is_new = seen.insert(meta.uid.clone(), now) != Some(now);
                is_new.then_some(object)
            }
            watcher::Event::Init | watcher::Event::InitDone => None,
        };
        std::future::ready(Ok(changed))
    })
}
