//! Whether the maps' source tables are still there, and published: else nothing comes, and that looks like nothing to do.

use super::{Engine, Event};
use crate::{
    connection::postgres::Settings,
    record::Lsn,
    source::postgres::{Admin, JoinError, TableState, WantedTable},
    worker::{
        map::{Blocked, Map, MapId},
        plan::TableName,
    },
};
use std::time::{Duration, Instant};

/// A source that did not say which columns a new map's table has is asked again after this.
const UNKNOWN: Duration = Duration::from_secs(1);

/// What was found of one map's table.
#[derive(Debug)]
pub struct TableSeen {
    pub map: MapId,
    pub state: TableState,
    /// The end of the source's log then.
    pub end: Lsn,
}

/// Whether a source table has the columns that the mapping of this stamp reads.
#[derive(Debug)]
pub struct ColumnsSeen {
    pub map: MapId,
    pub stamp: String,
    pub found: Result<(), String>,
}

/// A map's columns at the source, which are not known to be there.
#[derive(Debug)]
struct Columns {
    map: MapId,
    stamp: String,
    table: TableName,
    read: Vec<String>,
}

impl Columns {
    fn of(map: &Map) -> Self {
        let read = map.plan.mapping.source_columns();
        Self {
            map: map.id.clone(),
            stamp: map.plan.stamp.clone(),
            table: map.plan.source_table.clone(),
            read: read.map(ToOwned::to_owned).collect(),
        }
    }

    fn seen(self, found: Result<(), String>) -> ColumnsSeen {
        ColumnsSeen {
            map: self.map,
            stamp: self.stamp,
            found,
        }
    }
}

impl Engine {
    /// Asks the source for the tables of all maps that have joined.
    pub(super) fn look_at_tables(&mut self) {
        let Some((_, publication)) = self.link.era_and_publication() else {
            return;
        };
        if !self.link.is_streaming() || self.looking_at_tables {
            return;
        }
        let wanted: Vec<(MapId, WantedTable)> = self
            .maps
            .values()
            .filter(|map| map.has_joined() && !map.cleaning)
            .filter_map(|map| {
                let (schema, name) = map.plan.source_table.clone();
                let oid = map.table?;
                Some((map.id.clone(), WantedTable { schema, name, oid }))
            })
            .collect();
        let maps = self.maps.values();
        let unknown = maps.filter(|map| is_unknown(map));
        let unknown: Vec<Columns> = unknown.map(Columns::of).collect();
        if wanted.is_empty() && unknown.is_empty() {
            return;
        }
        self.looking_at_tables = true;
        let settings = self.source.settings.clone();
        self.spawn(async move {
            // A source that cannot be asked is asked again.
            let seen = look(&settings, &publication, wanted, unknown).await;
            let (tables, columns) = seen.unwrap_or_default();
            Event::TablesSeen { tables, columns }
        });
    }

    /// A map that is new here, or whose mapping is, is not kept waiting for the next look.
    pub(super) fn look_at_columns(&mut self, now: Instant) {
        let never = |map: &Map| map.has_joined() && map.looked.source.is_none();
        if now.duration_since(self.columns_asked) >= UNKNOWN && self.maps.values().any(never) {
            self.columns_asked = now;
            self.look_at_tables();
        }
    }

    pub(super) fn tables_seen(&mut self, tables: Vec<TableSeen>) {
        self.looking_at_tables = false;
        for TableSeen { map: id, state, end } in tables {
            let confirmed = self.link.confirmed();
            let Some(map) = self
                .maps
                .get_mut(&id)
                .filter(|map| map.has_joined() && !map.cleaning)
            else {
                continue;
            };
            let gone = matches!(map.blocked, Some(Blocked::TableGone { .. }));
            let (schema, name) = &map.plan.source_table;
            let table = format!("{schema}.{name}");
            match state {
                TableState::Published if gone => {
                    map.unfit_until = self.link.through(end);
                    self.unblock(&id, confirmed);
                }
                TableState::Published => {}
                TableState::Gone if gone => {}
                TableState::Gone => {
                    let message = format!(
                        "The source table {table} was renamed, dropped or made anew: rename it back, or delete the \
                         TableMap and make it anew."
                    );
                    self.block(&id, Blocked::TableGone { message });
                }
                TableState::NotPublished => {
                    map.unpublished = true;
                    self.expel(&id);
                    self.block_unpublished(&id);
                    self.remember_unpublished(&id);
                }
            }
        }
    }

    /// Of a table that is gone nobody needs to hear that its columns are.
    pub(super) fn columns_seen(&mut self, columns: Vec<ColumnsSeen>) {
        for ColumnsSeen {
            map: id,
            stamp,
            found,
        } in columns
        {
            let is_asked = |map: &&mut Map| {
                map.plan.stamp == stamp && !matches!(map.blocked, Some(Blocked::TableGone { .. }))
            };
            if let Some(map) = self.maps.get_mut(&id).filter(is_asked) {
                map.looked.source = Some(found);
                self.report(&id);
            }
        }
    }

    /// That its table is back does not bring what changed meanwhile.
    pub(super) fn block_unpublished(&mut self, id: &MapId) {
        if let Some(map) = self.maps.get(id).filter(|map| map.unpublished) {
            let blocked = Blocked::not_published(&map.plan.source_table, &self.publication());
            self.block(id, blocked);
        }
    }

    /// Redis is told, for the next worker. If it does not hear of that, it is told again when it is read back.
    pub(super) fn remember_unpublished(&mut self, id: &MapId) {
        let Some(map) = self.maps.get(id) else { return };
        let (queue, name) = (map.queue.clone(), map.plan.name.clone());
        self.tasks.spawn(async move {
            if let Err(error) = queue.set_unpublished().await {
                tracing::info!(map = %name, %error, "that its table is not published could not be stored; trying again");
            }
        });
    }

    /// Asks the source whether a table has its key again.
    pub(super) fn look_at_key(&mut self, id: &MapId) {
        let Some(map) = self.maps.get(id) else { return };
        let settings = self.source.settings.clone();
        let table = map.plan.source_table.clone();
        let key = map.plan.mapping.key_source_columns();
        let filter: Vec<String> = map.plan.mapping.filter_columns().map(ToOwned::to_owned).collect();
        let map = id.clone();
        self.spawn(async move {
            let asked = async {
                let admin = Admin::connect(&settings).await.map_err(JoinError::from)?;
                admin.has_key((&table.0, &table.1), &key, &filter).await
            };
            let result = asked.await;
            Event::KeySeen { map, result }
        });
    }

    /// Changes are taken again. Those from before, whose key nobody can tell, are refused where they are written.
    pub(super) fn key_seen(&mut self, id: &MapId, result: Result<Lsn, JoinError>) {
        let confirmed = self.link.confirmed();
        let Some(map) = self.maps.get_mut(id) else { return };
        if let (Ok(end), Some(Blocked::KeyColumnsGone { .. })) = (result, &map.blocked) {
            map.unfit_until = self.link.through(end);
            self.unblock(id, confirmed);
        }
    }
}

fn is_unknown(map: &Map) -> bool {
    map.has_joined() && !matches!(map.looked.source, Some(Ok(())))
}

async fn look(
    settings: &Settings,
    publication: &str,
    wanted: Vec<(MapId, WantedTable)>,
    unknown: Vec<Columns>,
) -> Result<(Vec<TableSeen>, Vec<ColumnsSeen>), JoinError> {
    let (maps, tables): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    let admin = Admin::connect(settings).await.map_err(JoinError::from)?;
    let (states, end) = admin.tables(publication, &tables).await?;
    let asked: Vec<_> = unknown.iter().map(|of| (&of.table, of.read.as_slice())).collect();
    // What is known of the tables is told, though their columns are not.
    let missing = admin.missing_columns(&asked).await.unwrap_or_default();
    let columns = unknown.into_iter().zip(missing);
    let columns = columns.map(|(asked, found)| asked.seen(found)).collect();
    let seen = maps.into_iter().zip(states);
    let seen = seen.map(|(map, state)| TableSeen { map, state, end });
    Ok((seen.collect(), columns))
}
