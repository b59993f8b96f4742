//! TLS to all three servers, verified both ways; and a Redis user that may reach one namespace only.

use crate::support::{
    certificates::Authority,
    ports::free_port,
    rig::{NAMESPACE, Rig, SOON, Settings, assert_balanced, said, same_map},
    timing::timed,
    wait::wait_until,
};

/// As docs/operate.md has it.
const RIGHTS: &str = "+@read +@write +@scripting +@connection";

fn connection(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: tablemap.dev/v1alpha1
kind: Connection
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
{spec}    connectTimeoutSeconds: 3
    tls:
      mode: VerifyFull
      ca: {{configMapKeyRef: {{name: authority, key: ca.crt}}}}
      clientCertificate: {{secretRef: {{name: own}}}}
"
    )
}

fn postgres(database: &str, port: u16) -> String {
    let spec = format!(
        "  postgres:
    hosts: [{{host: 127.0.0.1, port: {port}}}]
    database: {database}
    credentials: {{secretRef: {{name: login}}}}
"
    );
    connection(database, &spec)
}

fn redis(port: u16) -> String {
    let spec = format!(
        "  redis:
    topology: {{standalone: {{host: 127.0.0.1, port: {port}}}}}
    credentials: {{secretRef: {{name: queue-user}}}}
"
    );
    connection("queue", &spec)
}

fn login(password: &str) -> String {
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: queue-user, namespace: {NAMESPACE}}}
stringData: {{username: tables, password: {password}}}
"
    )
}

/// A PEM text as a YAML block.
fn block(pem: &str) -> String {
    format!("    {}\n", pem.trim_end().replace('\n', "\n    "))
}

fn trust(authority: &Authority) -> String {
    let own = authority.sign("tablemap");
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: authority, namespace: {NAMESPACE}}}
data:
  ca.crt: |
{}---
apiVersion: v1
kind: Secret
metadata: {{name: own, namespace: {NAMESPACE}}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{}  tls.key: |
{}",
        block(&authority.certificate),
        block(&own.certificate),
        block(&own.key)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_are_encrypted_and_verified() {
    let _time = timed("all_connections_are_encrypted_and_verified");
    let authority = Authority::new();
    let (databases, queue) = (authority.server("postgres"), authority.server("nobody"));
    let file = |folder: &tempfile::TempDir, name: &str| folder.path().join(name).display().to_string();
    let port = free_port();
    let (ca, certificate, key) = (
        file(&databases, "ca.crt"),
        file(&databases, "server.crt"),
        file(&databases, "server.key"),
    );
    let database = [
        ("ssl", "on"),
        ("ssl_ca_file", ca.as_str()),
        ("ssl_cert_file", certificate.as_str()),
        ("ssl_key_file", key.as_str()),
    ];
    let mut rig = Rig::start_with(Settings {
        source: &database,
        destination: &database,
        redis: &[
            ("tls-port", &port.to_string()),
            ("tls-ca-cert-file", &file(&queue, "ca.crt")),
            ("tls-cert-file", &file(&queue, "server.crt")),
            ("tls-key-file", &file(&queue, "server.key")),
            ("tls-auth-clients", "yes"),
        ],
        ..Settings::default()
    })
    .await;
    let mut admin = rig.redis.client().await;
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("tables").arg("on").arg(">right");
    user.arg(format!("~{{tm:{NAMESPACE}:*"));
    for right in RIGHTS.split(' ') {
        user.arg(right);
    }
    let () = user.query_async(&mut admin).await.unwrap();
    rig.both("CREATE TABLE items (id bigint PRIMARY KEY, note text)")
        .await;
    rig.api.apply(&trust(&authority));
    rig.api.apply(&login("wrong"));
    for connection in [
        postgres("crm", rig.source.port),
        postgres("erp", rig.destination.port),
        redis(port),
    ] {
        rig.api.apply(&connection);
    }
    rig.api.apply(&same_map("items", &["id"], &["id", "note"]));
    let _operator = rig.operator(&[]);

    let refused = || async {
        let status = rig.status("items").await;
        let message = said(&status, "CaughtUp").map(|said| said["message"].to_string());
        message.is_some_and(|message| message.contains("Redis refuses this user"))
    };
    wait_until(SOON, "the wrong password is said", refused).await;

    // A Secret that is corrected is read again by itself.
    rig.api.apply(&login("right"));
    rig.condition("items", "CaughtUp", "True").await;
    let (crm, erp) = (rig.crm().await, rig.erp().await);
    let plain = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
        WHERE a.application_name LIKE 'tablemap%' AND (NOT s.ssl OR s.client_dn IS NULL)";
    let secured = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
        WHERE a.application_name LIKE 'tablemap%' AND s.ssl AND s.client_dn = '/CN=tablemap'";
    for client in [&crm, &erp] {
        let count = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
        assert!(count(secured).await > 0);
        assert_eq!(count(plain).await, 0);
    }
    // So is one that is rotated, whatever comes first: the Secret, the server, or the end of the open connections.
    let () = redis::cmd("ACL")
        .arg(&["SETUSER", "tables", "resetpass", ">newer"])
        .query_async(&mut admin)
        .await
        .unwrap();
    let _killed: i64 = redis::cmd("CLIENT")
        .arg(&["KILL", "USER", "tables"])
        .query_async(&mut admin)
        .await
        .unwrap();
    rig.api.apply(&login("newer"));
    rig.pause("items");
    rig.condition("items", "Paused", "True").await;
    let insert = "INSERT INTO items SELECT n, md5(n::text) FROM generate_series(1, 1000) n";
    crm.batch_execute(insert).await.unwrap();
    wait_until(SOON, "1000 are queued", async || {
        rig.status("items").await["queue"]["records"] == 1000
    })
    .await;
    rig.resume("items");
    rig.equal("items", "id").await;
    assert_balanced(&rig.settled("items").await);
}
