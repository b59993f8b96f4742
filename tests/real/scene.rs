//! Tables at both sides with a map each, and an operator that runs them.

use crate::support::{
    process::Process,
    rig::{Rig, SOON, same_map},
    wait::{wait_for, wait_until},
};
use serde_json::Value;
use tokio_postgres::Client;

pub const ITEMS: &str = "CREATE TABLE items (id bigint PRIMARY KEY, kind text, note text)";
/// At the destination: which notes it refuses is told by a table.
pub const REFUSES: &str = "
    CREATE TABLE refused (note text);
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
      IF EXISTS (SELECT FROM refused WHERE NEW.note LIKE note) THEN
        RAISE EXCEPTION 'no %', NEW.note USING ERRCODE = 'P0001';
      END IF;
      RETURN NEW;
    END $f$;";
pub const ON_ITEMS: &str =
    "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION refuse();";

/// See the module.
pub struct Scene {
    pub rig: Rig,
    pub crm: Client,
    pub erp: Client,
    /// A map has its table's name.
    pub maps: Vec<String>,
    pub operator: Process,
}

impl Scene {
    /// Tables at both sides, those of the destination alone, and a map for each line of `tables`: name and columns, the
    /// first of which is the key.
    pub async fn start(both: &str, destination: &str, tables: &[&[&str]], arguments: &[&str]) -> Self {
        let mut rig = Rig::start().await;
        rig.both(both).await;
        let (crm, erp) = (rig.crm().await, rig.erp().await);
        erp.batch_execute(destination).await.unwrap();
        rig.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let operator = rig.operator(&[]);
        for table in tables {
            rig.api.apply(&same_map(table[0], &table[1..2], &table[1..]));
        }
        let scene = Self {
            rig,
            crm,
            erp,
            maps: tables.iter().map(|table| table[0].to_owned()).collect(),
            operator,
        };
        scene.all("CaughtUp").await;
        scene
    }

    pub async fn all(&self, condition: &str) {
        for map in &self.maps {
            self.rig.condition(map, condition, "True").await;
        }
    }

    pub async fn pause(&self) {
        for map in &self.maps {
            self.rig.pause(map);
        }
        self.all("Paused").await;
    }

    pub async fn resume(&self) {
        for map in &self.maps {
            self.rig.resume(map);
        }
        self.all("CaughtUp").await;
    }

    pub async fn at_source(&self, sql: &str) {
        self.crm.batch_execute(sql).await.unwrap();
    }

    /// Waits until every table is the same at both sides, and the books balance without an error.
    pub async fn same(&self) {
        for table in &self.maps {
            self.rig.equal(table, "t").await;
            // The counts are told a moment after the end of an operation.
            self.errors(table, 0).await;
            self.rig.settled(table).await;
        }
    }

    pub async fn text(&self, sql: &str) -> String {
        let row = self.erp.query_opt(sql, &[]).await.unwrap();
        row.and_then(|row| row.get::<_, Option<String>>(0))
            .unwrap_or_default()
    }

    /// Waits until a query at the destination says this.
    pub async fn says(&self, sql: &str, text: &str) {
        wait_until(SOON, &format!("{text} by {sql}"), async || {
            self.text(sql).await == text
        })
        .await;
    }

    /// Waits until the status counts so many changes.
    pub async fn received(&self, map: &str, count: u64) {
        wait_until(SOON, &format!("{count} changes of {map}"), async || {
            self.rig.status(map).await["ledger"]["received"] == count
        })
        .await;
    }

    /// Waits until the status counts so many queued records.
    pub async fn queued(&self, map: &str, records: u64) {
        wait_until(SOON, &format!("{records} queued records of {map}"), async || {
            self.rig.status(map).await["queue"]["records"] == records
        })
        .await;
    }

    /// Waits until so many records wait and were given up; the books balance then.
    pub async fn books(&self, map: &str, errored: u64, discarded: u64) {
        let what = format!("{errored} errors and {discarded} discarded");
        wait_until(SOON, &what, async || {
            let status = self.rig.status(map).await;
            let ledger = &status["ledger"];
            ledger["errored"] == errored && ledger["discarded"] == discarded
        })
        .await;
        self.rig.settled(map).await;
    }

    pub async fn errors(&self, map: &str, count: u64) {
        wait_until(SOON, &format!("{count} errors of {map}"), async || {
            self.rig.status(map).await["errors"]["count"] == count
        })
        .await;
    }

    /// The ids of these newest errors, oldest first: they are told a moment after their count.
    pub async fn recent(&self, map: &str, count: usize) -> Vec<String> {
        wait_for(SOON, &format!("{count} recent errors of {map}"), async || {
            Some(ids(&self.rig.status(map).await)).filter(|ids| ids.len() == count)
        })
        .await
    }
}

/// The ids of the newest errors, oldest first.
pub fn ids(status: &Value) -> Vec<String> {
    let recent = status["errors"]["recent"].as_array().unwrap();
    let mut ids: Vec<String> = recent
        .iter()
        .map(|error| error["id"].as_str().unwrap().to_owned())
        .collect();
    ids.sort_unstable();
    ids
}
