//! Catch-up errors, read from a map's error store as it is at this moment.

use super::{
    answer::{Known, Origin, Part, Place, SEARCH, Source},
    fault::Fault,
    object::{Key, Object, RecordError},
    request::List,
    store::Opened,
};
use crate::{
    clock,
    queue::Listed,
    record::{Has, ParkedRecord},
};
use std::time::Instant;

/// So many are read at once: each may be as large as a row.
const CHUNK: usize = 32;

impl Source for RecordError {
    async fn list(
        opened: &Opened,
        known: Known,
        list: &List,
        limit: usize,
        after: Place,
    ) -> Result<Part<Self>, Fault> {
        let mut errors = opened.queue.errors_after(after.position, CHUNK).await?;
        let mut part = Part::after(after);
        let until = Instant::now() + SEARCH;
        let mut is_first = true;
        loop {
            if !std::mem::take(&mut is_first) && Instant::now() >= until && errors.left() > 0 {
                part.more = true;
                part.remaining = errors.left();
                return Ok(part);
            }
            let Some(records) = errors.next().await? else {
                return Ok(part);
            };
            let count = records.len();
            for (index, Listed { record, .. }) in records.into_iter().enumerate() {
                // What the destination has not kept yet will come again (rule 3).
                if record.change.position > known.has.position {
                    return Ok(part);
                }
                let position = record.change.position;
                let object = object(opened, known.has, &record);
                if list.selector.takes(&object) {
                    if part.objects.len() == limit {
                        part.more = true;
                        part.remaining = errors.left() + (count - index) as u64;
                        return Ok(part);
                    }
                    part.objects.push(object);
                }
                part.end.position = position;
            }
            part.end.position = errors.reached();
        }
    }

    async fn get(opened: &Opened, known: Known, name: &str) -> Result<Option<(Object<Self>, Origin)>, Fault> {
        let record = opened.queue.error_named(name).await?;
        let holds = |record: &ParkedRecord| record.change.position <= known.has.position;
        Ok(record.filter(holds).map(|record| {
            let object = object(opened, known.has, &record);
            let origin = Origin {
                change: record.change,
                server_text: record.refusal.server_text,
            };
            (object, origin)
        }))
    }
}

fn object(opened: &Opened, has: Has, record: &ParkedRecord) -> Object<RecordError> {
    let plan = &opened.plan;
    let (old, key) = match record.keys.as_slice() {
        [] => (None, Key::default()),
        [key] => (None, Key::of(key)),
        [old, .., key] => (Some(Key::of(old)), Key::of(key)),
    };
    let refusal = &record.refusal;
    let body = RecordError {
        table_map: plan.name.clone(),
        key,
        old_key: old,
        operation: format!("{:?}", record.change.operation),
        class: refusal.class.to_string(),
        code: refusal.code.clone(),
        object: refusal.object.clone(),
        remedy: refusal.remedy.clone(),
        attempts: record.attempts,
        retry_status: record.retry_status(has).as_str().into(),
        first_time: clock::text(record.first_time),
        last_time: clock::text(record.last_time),
        position: record.change.position.commit.to_string(),
    };
    Object::new(
        &plan.namespace,
        &plan.uid,
        record.id.clone(),
        record.first_time,
        body,
    )
}
