//! Connecting to Redis or Valkey.

use super::postgres::{Tls, TlsMode};
use crate::queue::QueueError;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo,
    Pipeline, RedisConnectionInfo, ScriptInvocation, TlsCertificates, aio::MultiplexedConnection,
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, watch};

/// How long Redis may take over one command: large entries and an fsync included.
const ANSWER: Duration = Duration::from_secs(10);

/// How the servers stand to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    Standalone {
        host: String,
        port: u16,
    },
    /// The server that sentinels name, which are asked at each connect.
    Sentinel {
        master: String,
        hosts: Vec<(String, u16)>,
    },
}

/// Everything needed to connect. Its Debug form shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    pub topology: Topology,
    pub username: Option<String>,
    pub password: Option<String>,
    pub tls: Tls,
    pub connect_timeout: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("topology", &self.topology)
            .field("username", &self.username)
            .field("tls", &self.tls.mode)
            .finish_non_exhaustive()
    }
}

/// Redis could not be connected to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisConnectError {
    #[error("the TLS settings of the queue's Connection cannot be used: {0}")]
    Tls(String),
    #[error("Redis {0} is too old: at least 7.0 is needed, or Valkey. Use another queue.")]
    TooOld(String),
    #[error("{0}")]
    Failed(#[from] QueueError),
}

/// The first version with script flags, by which a full Redis can be drained (Redis manual, "Scripting with Lua").
const OLDEST: u32 = 7;

/// A connection that is shared by the maps of a worker, and made anew when it broke: the caller sees the failed
/// command, and looks at what Redis holds before it goes on.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    /// With a number that rises when they lead elsewhere.
    settings: watch::Sender<(u64, Settings)>,
    connection: Mutex<Option<Known>>,
}

/// An open connection.
struct Known {
    /// Of which settings.
    number: u64,
    connection: MultiplexedConnection,
    /// Where it leads, and when sentinels last named this server.
    address: (String, u16),
    named: Instant,
}

/// So often the sentinels are asked whether the server is the master still: one that is cut off from them takes writes that
/// are lost with it. Less than the ten seconds by which the source is confirmed behind the queue (rule 7).
const NAMED: Duration = Duration::from_secs(4);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("settings", &self.shared.settings.borrow().1)
            .finish_non_exhaustive()
    }
}

/// Connects, and sees that Redis answers.
///
/// # Errors
/// A sentence fit for a condition, without secrets.
pub async fn connect(settings: &Settings) -> Result<Link, RedisConnectError> {
    check_tls(settings)?;
    let link = Link {
        shared: Arc::new(Shared {
            settings: watch::Sender::new((0, settings.clone())),
            connection: Mutex::new(None),
        }),
    };
    link.query::<String>(&redis::cmd("PING")).await?;
    link.check_version().await?;
    Ok(link)
}

fn check_tls(settings: &Settings) -> Result<(), RedisConnectError> {
    client(settings, ("localhost", 6379), true).map(|_| ())
}

/// A client of one server, with the login or without.
fn client(
    settings: &Settings,
    (host, port): (&str, u16),
    logs_in: bool,
) -> Result<Client, RedisConnectError> {
    if settings.tls.mode == TlsMode::VerifyCa {
        return Err(RedisConnectError::Tls(
            "mode VerifyCA is not supported for Redis: use VerifyFull".into(),
        ));
    }
    let insecure = settings.tls.mode == TlsMode::Require;
    let address = match settings.tls.mode {
        TlsMode::Disable => ConnectionAddr::Tcp(host.to_owned(), port),
        _ => ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure,
            tls_params: None,
        },
    };
    let mut login = RedisConnectionInfo::default();
    if let Some(username) = settings.username.as_ref().filter(|_| logs_in) {
        login = login.set_username(username);
    }
    if let Some(password) = settings.password.as_ref().filter(|_| logs_in) {
        login = login.set_password(password);
    }
    let tls = |error: redis::RedisError| RedisConnectError::Tls(error.category().to_owned());
    let info = address
        .into_connection_info()
        .map_err(tls)?
        .set_redis_settings(login);
    if settings.tls.mode == TlsMode::Disable {
        return Client::open(info).map_err(tls);
    }
    let client_tls = settings
        .tls
        .client
        .clone()
        .map(|(client_cert, client_key)| ClientTlsConfig {
            client_cert,
            client_key,
        });
    Client::build_with_tls(
        info,
        TlsCertificates {
            client_tls,
            root_cert: settings.tls.ca.clone(),
        },
    )
    .map_err(tls)
}

async fn open(
    settings: &Settings,
    address: (&str, u16),
    logs_in: bool,
) -> Result<MultiplexedConnection, QueueError> {
    let client =
        client(settings, address, logs_in).map_err(|error| QueueError::Unavailable(error.to_string()))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(ANSWER));
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

/// A sentinel that does not answer is passed over after this: all nine that a Connection may name fit into one command's
/// deadline.
const SENTINEL: Duration = Duration::from_secs(1);

/// Asks the sentinels in order which server is the master now (Redis manual, "Guidelines for Redis clients with support
/// for Redis Sentinel"). A sentinel may have another login than the servers: then it is asked without one.
async fn find_master(
    settings: &Settings,
    name: &str,
    sentinels: &[(String, u16)],
) -> Result<(String, u16), QueueError> {
    for (host, port) in sentinels {
        for logs_in in [true, false] {
            let asked = tokio::time::timeout(SENTINEL, ask_sentinel(settings, (host, *port), logs_in, name));
            match asked.await {
                Ok(Ok(Some(master))) => return Ok(master),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    Err(QueueError::Unavailable(format!(
        "no sentinel names a master {name:?}"
    )))
}

async fn ask_sentinel(
    settings: &Settings,
    sentinel: (&str, u16),
    logs_in: bool,
    name: &str,
) -> Result<Option<(String, u16)>, QueueError> {
    let mut connection = open(settings, sentinel, logs_in).await?;
    let mut ask = redis::cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    Ok(ask.query_async(&mut connection).await?)
}

impl Link {
    /// From now on Redis is reached like this. An open connection goes on, unless it led elsewhere.
    pub fn reach(&self, settings: &Settings) {
        self.shared.settings.send_modify(|(number, known)| {
            *number += u64::from(known.topology != settings.topology);
            known.clone_from(settings);
        });
    }

    /// A user who may not ask is told by the scripts.
    async fn check_version(&self) -> Result<(), RedisConnectError> {
        let info: String = match self.query(redis::cmd("INFO").arg("server")).await {
            Ok(info) => info,
            Err(QueueError::Refused(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let version = info
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"))
            .unwrap_or_default();
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok());
        match major {
            Some(major) if major < OLDEST => Err(RedisConnectError::TooOld(version.to_owned())),
            _ => Ok(()),
        }
    }

    async fn connection(&self) -> Result<MultiplexedConnection, QueueError> {
        let mut known = self.shared.connection.lock().await;
        let (number, settings) = self.shared.settings.borrow().clone();
        let current = known.as_mut().filter(|known| known.number == number);
        let address = match (&settings.topology, current) {
            (Topology::Standalone { .. }, Some(current)) => return Ok(current.connection.clone()),
            (Topology::Sentinel { .. }, Some(current)) if current.named.elapsed() < NAMED => {
                return Ok(current.connection.clone());
            }
            (Topology::Sentinel { master, hosts }, Some(current)) => {
                current.named = Instant::now();
                match find_master(&settings, master, hosts).await {
                    Ok(address) if address != current.address => address,
                    // Without a sentinel the server is as good as before.
                    _ => return Ok(current.connection.clone()),
                }
            }
            (Topology::Standalone { host, port }, None) => (host.clone(), *port),
            (Topology::Sentinel { master, hosts }, None) => find_master(&settings, master, hosts).await?,
        };
        let connection = open(&settings, (&address.0, address.1), true).await?;
        *known = Some(Known {
            number,
            connection: connection.clone(),
            address,
            named: Instant::now(),
        });
        Ok(connection)
    }

    /// One deadline for all: waiting for whoever connects, connecting, and the answer. A connection that fails is made anew
    /// the next time.
    async fn ask<T, A>(&self, ask: impl FnOnce(MultiplexedConnection) -> A) -> Result<T, QueueError>
    where
        A: Future<Output = Result<T, redis::RedisError>>,
    {
        let asked = async {
            let connection = self.connection().await?;
            ask(connection).await.map_err(QueueError::from)
        };
        let answer = match tokio::time::timeout(ANSWER, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(QueueError::Unavailable("no answer in time".into())),
        };
        if answer.as_ref().is_err_and(QueueError::is_away) {
            // Whoever connects now makes a new one anyway.
            if let Ok(mut known) = self.shared.connection.try_lock() {
                *known = None;
            }
        }
        answer
    }

    /// One command.
    ///
    /// # Errors
    /// Redis refuses, or does not answer in time.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, QueueError> {
        self.ask(async |mut connection| command.query_async(&mut connection).await)
            .await
    }

    /// Several commands in one round trip.
    ///
    /// # Errors
    /// As [`Link::query`].
    pub async fn pipe<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, QueueError> {
        self.ask(async |mut connection| pipeline.query_async(&mut connection).await)
            .await
    }

    /// One script.
    ///
    /// # Errors
    /// As [`Link::query`], and what the script refuses.
    pub async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, QueueError> {
        self.ask(async |mut connection| script.invoke_async(&mut connection).await)
            .await
    }

    /// How durable this Redis is.
    ///
    /// # Errors
    /// As [`Link::query`].
    pub async fn durability(&self) -> Result<Durability, QueueError> {
        let mut ask = redis::pipe();
        for name in [
            "appendonly",
            "appendfsync",
            "no-appendfsync-on-rewrite",
            "maxmemory-policy",
        ] {
            ask.cmd("CONFIG").arg("GET").arg(name);
        }
        let answers: Result<Vec<Vec<String>>, QueueError> = self.pipe(&ask).await;
        match answers {
            Ok(answers) => {
                let value = |index: usize| answers.get(index).and_then(|pair| pair.get(1)).cloned();
                Ok(Durability {
                    asked: true,
                    append: value(0),
                    fsync: value(1),
                    no_fsync: value(2),
                    policy: value(3),
                })
            }
            Err(QueueError::Refused(_)) => Ok(Durability::default()),
            Err(error) => Err(error),
        }
    }
}

/// The settings of a Redis that decide whether what it has said is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    asked: bool,
    append: Option<String>,
    fsync: Option<String>,
    no_fsync: Option<String>,
    policy: Option<String>,
}

impl Durability {
    /// Status, reason and message of the condition `QueueDurable`.
    #[must_use]
    pub fn condition(&self) -> (Option<bool>, &'static str, String) {
        let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        let told = format!(
            "appendonly {}, appendfsync {}, maxmemory-policy {}.",
            said(&self.append),
            said(&self.fsync),
            said(&self.policy)
        );
        let evicts = self
            .policy
            .as_deref()
            .is_some_and(|policy| policy != "noeviction");
        match (
            self.asked,
            self.append.as_deref(),
            self.fsync.as_deref(),
            self.no_fsync.as_deref(),
        ) {
            (false, ..) => (
                None,
                "NotAllowedToAsk",
                "This Redis user may not use CONFIG GET: whether the queue is durable is not known.".into(),
            ),
            _ if evicts => (
                Some(false),
                "Evicting",
                format!("{told} Set maxmemory-policy noeviction: else Redis drops records."),
            ),
            (_, Some("yes"), Some("always"), Some("no")) => (Some(true), "FsyncAlways", told),
            (_, Some("yes"), ..) => (
                Some(true),
                "Likely",
                format!("{told} A crash may lose the last second; the source is confirmed later than that."),
            ),
            _ => (
                Some(false),
                "NotPersistent",
                format!("{told} Set appendonly yes: else a restart loses the queue."),
            ),
        }
    }
}
