//! Connecting to Postgres.

mod error;
mod tls;
mod transport;

pub use error::ConnectError;
pub use transport::Transport;

use futures::future::BoxFuture;
use std::{fmt, future::poll_fn, time::Duration};
use tokio::{sync::mpsc, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, config::SslMode, error::DbError,
};
use tokio_util::task::AbortOnDropHandle;

/// How much of the server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    Require,
    VerifyCa,
    VerifyFull,
}

/// TLS with its PEM texts, as read from Secrets and `ConfigMaps`.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    pub mode: TlsMode,
    /// None: the system's roots.
    pub ca: Option<Vec<u8>>,
    /// Certificate chain and private key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Everything needed to connect. Its Debug form shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Tried in order.
    pub hosts: Vec<(String, u16)>,
    pub database: String,
    pub username: String,
    pub password: String,
    pub tls: Tls,
    pub connect_timeout: Duration,
}

impl Settings {
    /// Another server or database, not only another way to prove who is who.
    #[must_use]
    pub fn leads_elsewhere(&self, other: &Self) -> bool {
        (&self.hosts, &self.database) != (&other.hosts, &other.database)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("hosts", &self.hosts)
            .field("database", &self.database)
            .field("username", &self.username)
            .field("tls", &self.tls.mode)
            .finish_non_exhaustive()
    }
}

/// An open session. Dropping it ends the connection.
#[derive(Debug)]
pub struct Connected {
    pub client: Client,
    /// The host that answered.
    pub host: String,
    /// Warnings and notices of the server, as they come: a warning at a COMMIT means *not durable* (rule 2).
    /// Their texts may quote rows.
    pub notices: mpsc::UnboundedReceiver<DbError>,
    pub driver: AbortOnDropHandle<()>,
}

/// Opens a session on the first host that takes one, trying them in order, each for at most
/// `settings.connect_timeout`. `application` is its `application_name`.
///
/// # Errors
/// Why the last host was of no use.
pub async fn connect(settings: &Settings, application: &str) -> Result<Connected, ConnectError> {
    let mut config = Config::new();
    config
        .user(&settings.username)
        .password(&settings.password)
        .dbname(&settings.database)
        .application_name(application)
        // The transport below has its own TLS.
        .ssl_mode(SslMode::Disable);
    on_first_host(settings, |transport, host, settings| {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = config
                .connect_raw(transport, NoTls)
                .await
                .map_err(|error| ConnectError::from_start(&error, &settings, &host))?;
            let (sender, notices) = mpsc::unbounded_channel();
            let driver = AbortOnDropHandle::new(tokio::spawn(drive(connection, sender)));
            is_primary(&client, &host).await?;
            Ok(Connected {
                client,
                host,
                notices,
                driver,
            })
        })
    })
    .await
}

/// A standby takes logins too, and nothing can be written there: the next host may be the primary.
async fn is_primary(client: &Client, host: &str) -> Result<(), ConnectError> {
    let host = host.to_owned();
    match ask(client, "SELECT pg_is_in_recovery()").await.as_deref() {
        Some("f") => Ok(()),
        Some(_) => Err(ConnectError::Standby { host }),
        None => Err(ConnectError::Broken { host }),
    }
}

/// Without a prepared statement, which a pooler might send to another server process.
async fn ask(client: &Client, sql: &str) -> Option<String> {
    let answer = client.simple_query(sql).await.ok()?;
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
        _ => None,
    })
}

/// A pooler in transaction mode lets sessions share a server process: their settings, prepared statements and temporary
/// tables get mixed up. While one session is open, a second one must have another process.
///
/// # Errors
/// The two share one, or no second one is to be had.
pub async fn keeps_sessions_apart(settings: &Settings, first: &Connected) -> Result<(), ConnectError> {
    let second = connect(settings, "tablemap-second").await?;
    let sql = "SELECT pg_backend_pid()";
    let (one, other) = (ask(&first.client, sql).await, ask(&second.client, sql).await);
    let host = second.host;
    match (one, other) {
        (Some(one), Some(other)) if first.host == host && one == other => Err(ConnectError::Pooler { host }),
        (Some(_), Some(_)) => Ok(()),
        _ => Err(ConnectError::Broken { host }),
    }
}

/// Opens a transport to each host in order, until `start` makes a session on one.
///
/// # Errors
/// Why the last host was of no use.
pub(crate) async fn on_first_host<T>(
    settings: &Settings,
    start: impl Fn(Transport, String, Settings) -> BoxFuture<'static, Result<T, ConnectError>> + Send + Sync,
) -> Result<T, ConnectError> {
    let mut outcome = Err(ConnectError::NoHosts);
    for (host, port) in &settings.hosts {
        let attempt = async {
            let transport = transport::open(settings, host, *port).await?;
            start(transport, host.clone(), settings.clone()).await
        };
        outcome = timeout(settings.connect_timeout, attempt)
            .await
            .unwrap_or_else(|_| {
                Err(ConnectError::Timeout {
                    host: host.clone(),
                    port: *port,
                    limit: settings.connect_timeout,
                })
            });
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Moves the session's bytes, and hands its notices on.
async fn drive(
    mut connection: tokio_postgres::Connection<Transport, tokio_postgres::tls::NoTlsStream>,
    notices: mpsc::UnboundedSender<DbError>,
) {
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message {
            // Nobody may be listening: then nobody needs it.
            let _ = notices.send(notice);
        }
    }
}
