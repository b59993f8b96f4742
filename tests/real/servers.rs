//! Servers that are not set up for us: what is wrong is said, and ends by itself once it is mended.

use crate::support::{
    folder::temporary,
    ports::free_port,
    process::{Process, command_as},
    rig::{NAMESPACE, Rig, SOON, Settings, said, same_map},
    timing::timed,
    wait::wait_until,
};
use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const TABLE: &str = "CREATE TABLE items (id bigint PRIMARY KEY, note text)";

/// Waits until a condition has this reason, and its message says what to do.
async fn is_said(rig: &Rig, condition: &str, reason: &str, says: &str) {
    let what = format!("{condition} with {reason}: {says}");
    wait_until(SOON, &what, async || {
        let status = rig.status("items").await;
        let known = said(&status, condition).cloned().unwrap_or_default();
        let text = known["message"].as_str().unwrap_or_default();
        known["reason"] == reason && text.contains(says)
    })
    .await;
    let printed = rig.check(&same_map("items", &["id"], &["id", "note"]), true);
    assert!(
        printed.contains(says),
        "{says:?} is not said by a check: {printed}"
    );
}

async fn arrives(rig: &Rig) {
    rig.condition("items", "CaughtUp", "True").await;
    let insert = "INSERT INTO items SELECT n FROM generate_series(1, 10) n";
    rig.crm().await.batch_execute(insert).await.unwrap();
    rig.equal("items", "id").await;
}

/// A replication session, which holds a WAL sender.
struct WalSender(Child);

impl WalSender {
    fn start(port: u16) -> Self {
        let way = format!("host=127.0.0.1 port={port} user=postgres dbname=crm replication=true");
        let mut psql = Command::new("psql");
        psql.arg(way).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(psql.spawn().unwrap())
    }
}

impl Drop for WalSender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_logical_log_slots_or_wal_senders_is_said() {
    let _time = timed("a_source_without_logical_log_slots_or_wal_senders_is_said");
    let mut rig = Rig::start_with(Settings {
        source: &[
            ("wal_level", "replica"),
            ("max_replication_slots", "1"),
            ("max_wal_senders", "1"),
        ],
        ..Settings::default()
    })
    .await;
    rig.both(TABLE).await;
    rig.crm()
        .await
        .batch_execute("SELECT pg_create_physical_replication_slot('standby')")
        .await
        .unwrap();
    let _operator = rig.operator(&[]);
    rig.api.apply(&same_map("items", &["id"], &["id", "note"]));
    let says = "ALTER SYSTEM SET wal_level = 'logical'";
    is_said(&rig, "SourceConnected", "NotLogical", says).await;
    is_said(&rig, "Ready", "Starting", says).await;

    rig.source.stop().await;
    rig.source.configure("wal_level", "logical");
    rig.source.start_again().await;
    is_said(
        &rig,
        "SourceConnected",
        "NoSlotsLeft",
        "drop one that nobody uses",
    )
    .await;

    let sender = WalSender::start(rig.source.port);
    let crm = rig.crm().await;
    wait_until(SOON, "the WAL sender", async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'";
        crm.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    crm.batch_execute("SELECT pg_drop_replication_slot('standby')")
        .await
        .unwrap();
    is_said(&rig, "SourceConnected", "NoWalSendersLeft", "max_wal_senders").await;
    drop(sender);
    arrives(&rig).await;
}

/// A pooler for both databases.
struct Pooler {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

fn pooler(rig: &Rig, mode: &str) -> Pooler {
    let folder = temporary("postgres");
    let port = free_port();
    let database =
        |name: &str, port: u16| format!("{name} = host=127.0.0.1 port={port} dbname={name} user=postgres\n");
    let settings = format!(
        "[databases]
{}{}[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
ignore_startup_parameters = extra_float_digits
",
        database("crm", rig.source.port),
        database("erp", rig.destination.port)
    );
    let file = folder.path().join("pgbouncer.ini");
    std::fs::write(&file, settings).unwrap();
    let mut command = command_as("postgres", "/usr/sbin/pgbouncer");
    command.arg(&file).current_dir("/");
    Pooler {
        port,
        _process: Process::spawn(&mut command, &folder.path().join("log")),
        _folder: folder,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_mixes_sessions_up_is_said() {
    let _time = timed("a_pooler_that_mixes_sessions_up_is_said");
    let mut rig = Rig::start().await;
    rig.both(TABLE).await;
    let mixing = pooler(&rig, "transaction");
    let keeping = pooler(&rig, "session");
    rig.connect(mixing.port, rig.destination.port, rig.redis.port);
    let _operator = rig.operator(&[]);
    rig.api.apply(&same_map("items", &["id"], &["id", "note"]));
    let says = "a source needs the server itself";
    is_said(&rig, "SourceConnected", "PoolerBetween", says).await;
    rig.connect(rig.source.port, mixing.port, rig.redis.port);
    is_said(
        &rig,
        "DestinationConnected",
        "PoolerBetween",
        "pool_mode = session",
    )
    .await;
    rig.connect(rig.source.port, keeping.port, rig.redis.port);
    arrives(&rig).await;
}

/// A server of version 6.2: none can be installed beside the one that the tests use. It answers what is asked before the
/// first script.
fn old_redis() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    port
}

fn answer(mut stream: TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    loop {
        // An array of texts: its length, then length and text of each.
        let count: usize = lines.next()?.ok()?.strip_prefix('*')?.parse().ok()?;
        let mut words = Vec::new();
        for _ in 0..count {
            lines.next()?.ok()?;
            words.push(lines.next()?.ok()?.to_ascii_uppercase());
        }
        let reply = match words[0].as_str() {
            "PING" => "+PONG\r\n",
            "INFO" => "$22\r\nredis_version:6.2.14\r\n\r\n",
            _ => "+OK\r\n",
        };
        stream.write_all(reply.as_bytes()).ok()?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_too_old_or_keeps_nothing_or_allows_too_little_is_said() {
    let _time = timed("a_queue_that_is_too_old_or_keeps_nothing_or_allows_too_little_is_said");
    let mut rig = Rig::start_with(Settings {
        redis: &[("appendonly", "no"), ("maxmemory-policy", "allkeys-lru")],
        ..Settings::default()
    })
    .await;
    rig.both(TABLE).await;
    let mut redis = rig.redis.client().await;
    let mut run = async |words: &[&str]| {
        let () = redis::cmd(words[0])
            .arg(&words[1..])
            .query_async(&mut redis)
            .await
            .unwrap();
    };
    run(&[
        "ACL", "SETUSER", "clerk", "on", ">secret", "~*", "+@all", "-evalsha",
    ])
    .await;
    rig.arguments.push("--confirm-delay-milliseconds=2000".into());
    rig.queue("queue", old_redis());
    let _operator = rig.operator(&[]);
    rig.api.apply(&same_map("items", &["id"], &["id", "note"]));
    let says = "Redis 6.2.14 is too old: at least 7.0";
    is_said(&rig, "Ready", "QueueUnavailable", says).await;

    rig.api.apply(&format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: clerk, namespace: {NAMESPACE}}}
stringData: {{username: clerk, password: secret}}
---
apiVersion: tablemap.dev/v1alpha1
kind: Connection
metadata: {{name: queue, namespace: {NAMESPACE}}}
spec:
  redis:
    topology: {{standalone: {{host: 127.0.0.1, port: {}}}}}
    tls: {{mode: Disable}}
    credentials: {{secretRef: {{name: clerk}}}}
",
        rig.redis.port
    ));
    is_said(
        &rig,
        "SourceConnected",
        "FirstPositionNotStored",
        "NOPERM: +evalsha",
    )
    .await;
    run(&["ACL", "SETUSER", "clerk", "+evalsha"]).await;

    is_said(&rig, "QueueDurable", "Evicting", "maxmemory-policy noeviction").await;
    run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    is_said(&rig, "QueueDurable", "NotPersistent", "Set appendonly yes").await;
    run(&["CONFIG", "SET", "appendonly", "yes"]).await;
    rig.condition("items", "QueueDurable", "True").await;
    arrives(&rig).await;
}
