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

/// Customers, their orders and the lines of these, with foreign keys on both sides.
pub const TREES: &[&str] = &["customers", "orders", "lines"];
/// Key, foreign key and one more column of each of them.
pub const TREE_COLUMNS: &[&[&str]] = &[
    &["id", "note"],
    &["id", "customer_id", "note"],
    &["id", "order_id", "note"],
];

const TREE_TABLES: &str = r"
CREATE TABLE customers (id bigint PRIMARY KEY, note text);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers, note text);
CREATE TABLE lines (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, note text);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON lines (order_id);";

/// `grow`: one transaction with a whole tree, a part of one that a neighbouring transaction has begun, or the end of
/// one. `renew`: one transaction with a whole new tree and the end of an old order, so that each table needs the other.
/// Each writer has trees of its own, so that none waits for another.
const GROW: &str = r"
CREATE SEQUENCE ids;
CREATE FUNCTION fresh_id(writer int) RETURNS bigint LANGUAGE sql AS $f$ SELECT nextval('ids') * 16 + writer $f$;
CREATE FUNCTION own_id(t text, writer int) RETURNS bigint LANGUAGE plpgsql AS $f$
DECLARE found bigint;
BEGIN
  EXECUTE format('SELECT id FROM %I WHERE id %% 16 = $1 ORDER BY id DESC OFFSET floor(random() * 8) LIMIT 1', t)
    INTO found USING writer;
  RETURN found;
END $f$;
CREATE FUNCTION grow(writer int, fell bool) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE
  r float := random();
  customer bigint := own_id('customers', writer);
  an_order bigint := own_id('orders', writer);
  words text := md5(random()::text);
BEGIN
  IF customer IS NULL OR r < 0.35 THEN
    customer := fresh_id(writer);
    INSERT INTO customers VALUES (customer, words);
    -- Sometimes the children come with the next transactions.
    IF r > 0.25 THEN RETURN; END IF;
    an_order := NULL;
  END IF;
  IF an_order IS NULL OR r < 0.55 THEN
    an_order := fresh_id(writer);
    INSERT INTO orders VALUES (an_order, customer, words);
    IF r > 0.45 THEN RETURN; END IF;
  END IF;
  IF r < 0.75 THEN
    INSERT INTO lines SELECT fresh_id(writer), an_order, words FROM generate_series(1, 3);
  ELSIF r < 0.85 THEN
    UPDATE orders SET customer_id = customer, note = words WHERE id = an_order;
    UPDATE lines SET note = words WHERE order_id = an_order;
  ELSIF r < 0.9 THEN
    UPDATE customers SET note = words WHERE id = customer;
  ELSIF NOT fell THEN
    DELETE FROM lines WHERE order_id = an_order;
  ELSE
    DELETE FROM lines l USING orders o WHERE o.id = l.order_id AND o.customer_id = customer;
    DELETE FROM orders WHERE customer_id = customer;
    DELETE FROM customers WHERE id = customer;
  END IF;
END $f$;
CREATE FUNCTION renew(writer int, fell bool) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE
  customer bigint := fresh_id(writer);
  an_order bigint := fresh_id(writer);
  old_order bigint := (SELECT id FROM orders WHERE id % 16 = writer ORDER BY id DESC OFFSET 9 LIMIT 1);
  words text := md5(random()::text);
BEGIN
  INSERT INTO customers VALUES (customer, words);
  INSERT INTO orders VALUES (an_order, customer, words);
  INSERT INTO lines SELECT fresh_id(writer), an_order, words FROM generate_series(1, 3);
  DELETE FROM lines WHERE order_id = old_order;
  DELETE FROM orders WHERE id = old_order;
END $f$;";

/// Makes the trees' tables on both sides, with their logs.
pub async fn prepare_trees(rig: &Rig) {
    rig.both(TREE_TABLES).await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    crm.batch_execute(GROW).await.unwrap();
    for table in TREES {
        install_audit(&crm, table, &["id"], &[]).await;
        install_writelog(&erp, table, &["id"], &[]).await;
    }
}

/// Writes `n` rows of a table in one transaction, and deletes one now and then. It takes much less of the machine than
/// `churn`, here and at the destination.
const FILL: &str = r"
CREATE FUNCTION fill(t text, n int, keys int) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
  EXECUTE format('INSERT INTO %I (id, version, note)
    SELECT k, nextval(''versions''), md5(random()::text)
    FROM (SELECT DISTINCT 1 + floor(random() * $1)::bigint AS k FROM generate_series(1, $2) ORDER BY k) keys
    ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, note = EXCLUDED.note', t) USING keys, n;
  IF random() < 0.1 THEN
    EXECUTE format('DELETE FROM %I WHERE id = $1', t) USING 1 + floor(random() * keys)::bigint;
  END IF;
END $f$;";

/// Columns of the tables that the load writes.
pub const COLUMNS: &[&str] = &["id", "version", "note"];

/// Makes these tables on both sides, with their logs, and what the load needs.
pub async fn prepare(rig: &Rig, tables: &[&str]) {
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    crm.batch_execute(CHURN).await.unwrap();
    crm.batch_execute(FILL).await.unwrap();
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
    /// Every kind of change.
    pub fn start(rig: &Rig, tables: &[&str], rate: Rate) -> Self {
        Self::run(rig, tables, rate, "SELECT churn($1, $2, $3)")
    }

    /// Many changes of the simple kinds.
    pub fn fill(rig: &Rig, tables: &[&str], rate: Rate) -> Self {
        Self::run(rig, tables, rate, "SELECT fill($1, $2, $3)")
    }

    fn run(rig: &Rig, tables: &[&str], rate: Rate, sql: &'static str) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut writers = JoinSet::new();
        for number in 0..rate.connections {
            let (url, stop, written) = (rig.source.url("crm"), stop.clone(), written.clone());
            let tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
            writers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // The source may be killed by the test: then it is tried again.
                    let _ = write(&url, &tables, rate, sql, number, &stop, &written).await;
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

    /// Grows trees, and fells whole ones if `fell` says so. Each transaction counts as one change.
    pub fn trees(rig: &Rig, writers: usize, pause: Duration, fell: bool) -> Self {
        Self::on_trees(rig, writers, pause, fell, "SELECT grow($1, $2)")
    }

    /// Grows a whole tree and fells an old order in each transaction, which counts as one change.
    pub fn renewed_trees(rig: &Rig, writers: usize, pause: Duration) -> Self {
        Self::on_trees(rig, writers, pause, true, "SELECT renew($1, $2)")
    }

    fn on_trees(rig: &Rig, writers: usize, pause: Duration, fell: bool, sql: &'static str) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for number in 0..writers {
            let (url, stop, written) = (rig.source.url("crm"), stop.clone(), written.clone());
            tasks.spawn(async move {
                grow(&url, sql, (number, pause, fell), &stop, &written)
                    .await
                    .unwrap();
            });
        }
        Self {
            stop,
            written,
            writers: tasks,
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
    sql: &str,
    number: usize,
    stop: &AtomicBool,
    written: &AtomicU64,
) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    client.batch_execute("SET synchronous_commit = on").await?;
    let statement = client.prepare(sql).await?;
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

async fn grow(
    url: &str,
    sql: &str,
    (number, pause, fell): (usize, Duration, bool),
    stop: &AtomicBool,
    written: &AtomicU64,
) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    let statement = client.prepare(sql).await?;
    let number = i32::try_from(number).unwrap();
    while !stop.load(Ordering::Relaxed) {
        client.execute(&statement, &[&number, &fell]).await?;
        written.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
    }
    Ok(())
}
