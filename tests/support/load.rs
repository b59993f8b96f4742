//! Steady writes at the source: inserts, updates, deletes and key changes, many keys often.

use super::{
    audit::{install_audit, install_writelog},
    rig::Rig,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

/// Does `n` random things to a table in one transaction. What meets a key that is taken is left out.
const CHURN: &str = r"
CREATE SEQUENCE versions;
CREATE FUNCTION churn(t text, n int, keys int) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE
  k bigint;
  r float;
BEGIN
  FOR i IN 1..n LOOP
    k := 1 + floor(random() * keys);
    r := random();
    IF r < 0.6 THEN
      EXECUTE format('INSERT INTO %I (id, version, note) VALUES ($1, nextval(''versions''), $2)
        ON CONFLICT (id) DO UPDATE SET version = nextval(''versions''), note = EXCLUDED.note', t)
        USING k, repeat(md5(random()::text), 3);
    ELSIF r < 0.8 THEN
      EXECUTE format('UPDATE %I SET version = nextval(''versions'') WHERE id = $1', t) USING k;
    ELSIF r < 0.9 THEN
      EXECUTE format('DELETE FROM %I WHERE id = $1', t) USING k;
    ELSE
      EXECUTE format('UPDATE %I SET id = $2, version = nextval(''versions'') WHERE id = $1
        AND NOT EXISTS (SELECT FROM %I WHERE id = $2)', t, t) USING k, 1 + floor(random() * keys)::bigint;
    END IF;
  END LOOP;
END $f$;";

/// Columns of the tables that the load writes.
pub const COLUMNS: &[&str] = &["id", "version", "note"];

/// Makes these tables on both sides, with their logs, and what the load needs.
pub async fn prepare(rig: &Rig, tables: &[&str]) {
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    crm.batch_execute(CHURN).await.unwrap();
    for table in tables {
        let sql = format!("CREATE TABLE {table} (id bigint PRIMARY KEY, version bigint, note text)");
        crm.batch_execute(&sql).await.unwrap();
        erp.batch_execute(&sql).await.unwrap();
        install_audit(&crm, table, &["id"], &[]).await;
        install_writelog(&erp, table, &["id"], &[]).await;
    }
}

/// Writes until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    writers: JoinSet<()>,
}

/// How hard to write.
#[derive(Clone, Copy)]
pub struct Rate {
    pub connections: usize,
    /// Changes of one transaction.
    pub rows: i32,
    /// Between two transactions of one connection.
    pub pause: Duration,
    pub keys: i32,
}

impl Load {
    pub fn start(rig: &Rig, tables: &[&str], rate: Rate) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writers = JoinSet::new();
        for number in 0..rate.connections {
            let (url, stop, written) = (rig.source.url("crm"), stop.clone(), written.clone());
            let tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
            writers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // The source may be killed by the test: then it is tried again.
                    let _ = write(&url, &tables, rate, number, &stop, &written).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
        Self {
            stop,
            written,
            writers,
        }
    }

    /// Changes so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Stops, and returns how many changes there were.
    pub async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.writers.join_next().await {
            ended.unwrap();
        }
        self.written()
    }
}

async fn write(
    url: &str,
    tables: &[String],
    rate: Rate,
    number: usize,
    stop: &AtomicBool,
    written: &AtomicU64,
) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    client.batch_execute("SET synchronous_commit = on").await?;
    let statement = client.prepare("SELECT churn($1, $2, $3)").await?;
    for turn in number.. {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let table = &tables[turn % tables.len()];
        // Two writers may meet on two keys: one of them then does nothing.
        if client
            .execute(&statement, &[table, &rate.rows, &rate.keys])
            .await
            .is_ok()
        {
            written.fetch_add(rate.rows.unsigned_abs().into(), Ordering::Relaxed);
        } else if client.is_closed() {
            return Ok(());
        }
        tokio::time::sleep(rate.pause).await;
    }
    Ok(())
}
