//! Everything that one test needs: two databases, Redis, a Kubernetes API, and our own program.

use super::{
    apiserver::ApiServer,
    postgres::Postgres,
    process::Process,
    redis::Redis,
    wait::{wait_for, wait_until},
};
use kube::Api;
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path, time::Duration};
use tablemap::api::TableMap;
use tempfile::TempDir;

/// The program with failpoints.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tablemap-testing");
pub const NAMESPACE: &str = "default";
/// For whatever has to come about on two busy cores.
pub const SOON: Duration = Duration::from_secs(60);

pub struct Rig {
    pub source: Postgres,
    pub destination: Postgres,
    pub redis: Redis,
    pub api: ApiServer,
    pub maps: Api<TableMap>,
    /// Arguments of every worker that is started from now on.
    pub arguments: Vec<String>,
    folder: TempDir,
    started: usize,
}

/// How a rig differs from the usual one.
#[derive(Default)]
pub struct Settings<'a> {
    pub source: &'a [(&'a str, &'a str)],
    pub destination: &'a [(&'a str, &'a str)],
    pub redis: &'a [(&'a str, &'a str)],
    /// Majors of source and destination.
    pub majors: Majors,
}

/// Which versions of Postgres.
#[derive(Clone, Copy, Debug)]
pub struct Majors {
    pub source: u32,
    pub destination: u32,
}

impl Default for Majors {
    fn default() -> Self {
        Self {
            source: 15,
            destination: 15,
        }
    }
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub async fn start_with(settings: Settings<'_>) -> Self {
        let (source, destination, redis, api) = tokio::join!(
            Postgres::start_major(settings.majors.source, settings.source),
            Postgres::start_major(settings.majors.destination, settings.destination),
            Redis::start_with(settings.redis),
            ApiServer::start(),
        );
        source.create_database("crm").await;
        destination.create_database("erp").await;
        let maps = Api::namespaced(api.client().await, NAMESPACE);
        let rig = Self {
            source,
            destination,
            redis,
            api,
            maps,
            arguments: vec!["--counters-seconds=1".into()],
            folder: tempfile::Builder::new().prefix("tablemap-").tempdir().unwrap(),
            started: 0,
        };
        rig.connect(rig.source.port, rig.destination.port, rig.redis.port);
        rig
    }

    /// Applies the three Connections, by way of these ports.
    pub fn connect(&self, source: u16, destination: u16, redis: u16) {
        self.api.apply(&connections(source, destination, redis));
    }

    /// Manifests of the three Connections and their Secret.
    pub fn connections(&self) -> String {
        connections(self.source.port, self.destination.port, self.redis.port)
    }

    /// Applies a Connection to a Redis.
    pub fn queue(&self, name: &str, port: u16) {
        self.api.apply(&queue(name, port));
    }

    /// Replaces the queue's Connection by one to servers that stand to each other like this.
    pub fn queue_at(&self, topology: &str) {
        self.api.kubectl(&["delete", "connection", "queue"]);
        self.api.apply(&redis("queue", topology));
    }

    /// What `tablemap check` prints for these manifests. What is not among them it reads from the cluster, or nowhere.
    pub fn check(&self, manifests: &str, with_cluster: bool) -> String {
        let file = self.folder.path().join("manifests.yaml");
        std::fs::write(&file, manifests).unwrap();
        let kubeconfig = if with_cluster {
            self.api.kubeconfig()
        } else {
            self.folder.path().to_owned()
        };
        let output = std::process::Command::new(PROGRAM)
            .args(["check", "--filename"])
            .arg(&file)
            .env("KUBECONFIG", kubeconfig)
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.success(), !printed.contains("FAIL"), "{printed}");
        printed
    }

    pub async fn crm(&self) -> tokio_postgres::Client {
        self.source.client("crm").await
    }

    pub async fn erp(&self) -> tokio_postgres::Client {
        self.destination.client("erp").await
    }

    /// Runs the same SQL in both databases.
    pub async fn both(&self, sql: &str) {
        self.crm().await.batch_execute(sql).await.unwrap();
        self.erp().await.batch_execute(sql).await.unwrap();
    }

    /// Starts a worker of its own for the source `crm`. `environment` holds failpoints and the like.
    pub fn worker(&mut self, environment: &[(&str, &str)]) -> Process {
        self.run(
            &["worker", "--namespace", NAMESPACE, "--connection", "crm"],
            environment,
        )
    }

    /// Starts the operator, with embedded workers.
    pub fn operator(&mut self, environment: &[(&str, &str)]) -> Process {
        self.run(&["operator"], environment)
    }

    /// Starts the operator without workers: it guards the objects and sums their status up.
    pub fn controllers(&mut self) -> Process {
        self.run(&["operator", "--workers", "none"], &[])
    }

    /// The same, by way of another port to the API server.
    pub fn controllers_by(&mut self, port: u16) -> Process {
        let kubeconfig = self.api.kubeconfig_by(port);
        let own = self.arguments.clone();
        let own = own.iter().map(String::as_str);
        let arguments: Vec<&str> = ["operator", "--workers", "none"].into_iter().chain(own).collect();
        self.run_as(&kubeconfig, &arguments)
    }

    /// Starts an operator that makes workers of this image as pods.
    pub fn operator_with_pods(&mut self, image: &str) -> Process {
        self.run(&["operator", "--workers=pods", "--worker-image", image], &[])
    }

    /// Runs the program with just these arguments, as whoever a kubeconfig names.
    pub fn run_as(&mut self, kubeconfig: &Path, arguments: &[&str]) -> Process {
        self.spawn(kubeconfig, arguments, &[])
    }

    fn run(&mut self, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        let own = self.arguments.clone();
        let own = own.iter().map(String::as_str);
        let arguments: Vec<&str> = arguments.iter().copied().chain(own).collect();
        self.spawn(&self.api.kubeconfig(), &arguments, environment)
    }

    fn spawn(&mut self, kubeconfig: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        self.started += 1;
        let log = format!("{}-{}", self.started, arguments[0]);
        let log = self.folder.path().join(log);
        let kubeconfig = kubeconfig.display().to_string();
        let mut all = vec![
            ("KUBECONFIG", kubeconfig.as_str()),
            ("TABLEMAP_LOG", "info,tablemap=debug,kube=warn"),
        ];
        all.extend(environment);
        Process::spawn_binary(PROGRAM, arguments, &all, &log)
    }

    /// Asks for a pause, or for its end.
    pub fn set_state(&self, map: &str, state: &str) {
        self.api.merge(NAMESPACE, map, &json!({"spec": {"state": state}}));
    }

    pub fn pause(&self, map: &str) {
        self.set_state(map, "Paused");
    }

    pub fn resume(&self, map: &str) {
        self.set_state(map, "Running");
    }

    pub async fn status(&self, map: &str) -> Value {
        let object = self.maps.get(map).await.unwrap();
        serde_json::to_value(object.status).unwrap()
    }

    /// Waits for a condition's status (`Paused`, `True`), and returns the whole status.
    pub async fn condition(&self, map: &str, type_: &str, status: &str) -> Value {
        self.condition_where(map, type_, |said| said["status"] == status)
            .await
    }

    /// Waits until the worker has acted on what the spec says now.
    pub async fn observed(&self, map: &str) {
        wait_until(SOON, &format!("{map} as it is specified now"), async || {
            let object = self.maps.get(map).await.unwrap();
            let seen = object.status.and_then(|status| status.observed_generation);
            seen == object.metadata.generation
        })
        .await;
    }

    /// Waits for a condition's reason.
    pub async fn reason(&self, map: &str, type_: &str, reason: &str) -> Value {
        self.condition_where(map, type_, |said| said["reason"] == reason)
            .await
    }

    async fn condition_where(&self, map: &str, type_: &str, is_met: impl Fn(&Value) -> bool) -> Value {
        let started = std::time::Instant::now();
        loop {
            let status = self.status(map).await;
            if said(&status, type_).is_some_and(&is_met) {
                return status;
            }
            assert!(
                started.elapsed() < SOON,
                "condition {type_} of {map} not met: {status:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn phase(&self, map: &str, phase: &str) -> Value {
        let what = format!("phase {phase} of {map}");
        wait_for(SOON, &what, async || {
            let status = self.status(map).await;
            (status["phase"] == phase).then_some(status)
        })
        .await
    }

    /// Waits until all maps are direct and the destination's table equals the source's.
    pub async fn equal(&self, table: &str, order: &str) {
        let (crm, erp) = (self.crm().await, self.erp().await);
        let started = std::time::Instant::now();
        loop {
            let (left, right) = (
                content(&crm, table, order).await,
                content(&erp, table, order).await,
            );
            if left == right {
                return;
            }
            assert!(
                started.elapsed() < SOON,
                "{table}: {left:?} at the source, {right:?} at the destination"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until nothing is in flight or queued, and asserts that the books balance then (I5).
    pub async fn settled(&self, map: &str) -> Value {
        let what = format!("{map} at rest");
        let status = wait_for(Duration::from_secs(90), &what, async || {
            let status = self.status(map).await;
            let ledger = &status["ledger"];
            let is_zero = |name: &str| ledger[name].as_u64() == Some(0);
            (is_zero("inFlight") && is_zero("queued") && status["phase"] == "Running").then_some(status)
        })
        .await;
        assert_balanced(&status);
        status
    }

    /// How many writes of a table were logged at the destination.
    pub async fn writes(&self, table: &str) -> i64 {
        let sql = "SELECT count(*) FROM writelog.writes WHERE tbl = $1";
        self.erp().await.query_one(sql, &[&table]).await.unwrap().get(0)
    }

    /// Waits for so many more writes of a table: its map is at work.
    pub async fn more_writes(&self, table: &str, more: i64, within: Duration) {
        let before = self.writes(table).await;
        let what = format!("{more} more writes of {table}");
        wait_until(within, &what, async || self.writes(table).await >= before + more).await;
    }

    /// Waits until the destination's table has at least so many rows.
    pub async fn more_rows(&self, table: &str, rows: i64) {
        let sql = format!("SELECT count(*) >= $1 FROM {table}");
        let erp = self.erp().await;
        let what = format!("{rows} rows of {table}");
        wait_until(SOON, &what, async || {
            erp.query_one(&sql, &[&rows]).await.unwrap().get(0)
        })
        .await;
    }

    /// The end of the source's log.
    pub async fn end_of_log(&self) -> u64 {
        let sql = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
        let end: i64 = self.crm().await.query_one(sql, &[]).await.unwrap().get(0);
        end.cast_unsigned()
    }

    /// Waits until the source has forgotten all that there is now: what it still has it would send again.
    pub async fn all_confirmed(&self) {
        let now = self.end_of_log().await;
        wait_until(SOON, "the source is confirmed", async || {
            self.confirmed().await >= now
        })
        .await;
    }

    /// Has the only record parked that `items` gets: its destination refuses the note `bad`.
    pub async fn park_one(&self) {
        let sql = "INSERT INTO items (note) VALUES ('bad')";
        self.crm().await.batch_execute(sql).await.unwrap();
        wait_until(SOON, "a parked record", async || {
            self.status("items").await["errors"]["count"] == 1
        })
        .await;
    }

    /// The position that the source may forget.
    pub async fn confirmed(&self) -> u64 {
        let sql = "SELECT coalesce(max(confirmed_flush_lsn - '0/0'), 0)::bigint FROM pg_replication_slots";
        self.crm()
            .await
            .query_one(sql, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            .cast_unsigned()
    }
}

/// Number of rows and a hash over all of them.
async fn content(client: &tokio_postgres::Client, table: &str, order: &str) -> (i64, Option<String>) {
    let sql = format!("SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY {order})) FROM {table} t");
    let row = client.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// A condition of a status.
pub fn said<'a>(status: &'a Value, type_: &str) -> Option<&'a Value> {
    status["conditions"]
        .as_array()?
        .iter()
        .find(|said| said["type"] == type_)
}

/// Asserts that the books balance, at rest (I5).
pub fn assert_balanced(status: &Value) {
    let ledger: BTreeMap<String, u64> = status["ledger"]
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)))
        .collect();
    let count = |name: &str| ledger.get(name).copied().unwrap_or(0);
    let parts = [
        "written",
        "inFlight",
        "queued",
        "errored",
        "superseded",
        "discarded",
        "purged",
        "filtered",
    ];
    let sum: u64 = parts.iter().map(|name| count(name)).sum();
    assert_eq!(count("received"), sum, "{ledger:?}");
}

/// The three Connections, by way of these ports, and their Secret.
pub fn connections(source: u16, destination: u16, redis: u16) -> String {
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: login, namespace: {NAMESPACE}}}
stringData: {{username: postgres, password: unused}}
---
{}---
{}---
{}---
",
        postgres("crm", source),
        postgres("erp", destination),
        queue("queue", redis),
    )
}

fn queue(name: &str, port: u16) -> String {
    redis(
        name,
        &format!("{{standalone: {{host: 127.0.0.1, port: {port}}}}}"),
    )
}

fn redis(name: &str, topology: &str) -> String {
    format!(
        "apiVersion: tablemap.dev/v1alpha1
kind: Connection
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  redis:
    topology: {topology}
    tls: {{mode: Disable}}
    connectTimeoutSeconds: 3
"
    )
}

/// A Connection to a database, by its name.
pub fn postgres(database: &str, port: u16) -> String {
    format!(
        "apiVersion: tablemap.dev/v1alpha1
kind: Connection
metadata: {{name: {database}, namespace: {NAMESPACE}}}
spec:
  postgres:
    hosts: [{{host: 127.0.0.1, port: {port}}}]
    database: {database}
    credentials: {{secretRef: {{name: login}}}}
    tls: {{mode: Disable}}
    connectTimeoutSeconds: 3
"
    )
}

/// A map whose table and columns have the same names on both sides.
pub fn same_map(table: &str, key: &[&str], columns: &[&str]) -> String {
    let fields: Vec<String> = columns
        .iter()
        .map(|column| format!("  - {{destination: {column}, source: {column}}}\n"))
        .collect();
    let fields = fields.concat();
    format!(
        "apiVersion: tablemap.dev/v1alpha1
kind: TableMap
metadata: {{name: {}, namespace: {NAMESPACE}}}
spec:
  source: {{connectionRef: {{name: crm}}, table: {{schema: public, name: {table}}}}}
  destination: {{connectionRef: {{name: erp}}, table: {{schema: public, name: {table}}}}}
  integrationKey: [{}]
  fields:
{fields}  queue: {{connectionRef: {{name: queue}}}}
---
",
        table.replace('_', "-"),
        key.join(", "),
    )
}

impl Drop for Rig {
    /// A test that fails shows what our programs said last.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in std::fs::read_dir(self.folder.path()).unwrap().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(80);
            println!("--- {}\n{}", entry.path().display(), lines[tail..].join("\n"));
        }
    }
}
