//! Connecting to Redis or Valkey.

mod cluster;
mod durability;
mod open;
mod replication;
mod sentinel;

use super::postgres::Tls;
use crate::queue::QueueError;
pub use durability::Durability;
use open::{check_tls, open};
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ScriptInvocation, ServerErrorKind,
    aio::MultiplexedConnection,
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};

/// How long Redis may take over one command: large entries and an fsync included.
const ANSWER: Duration = Duration::from_secs(10);

/// A server that is asked where another is, and does not answer, is passed over after this: all nine sentinels that a
/// Connection may name fit into one command's deadline.
const ASKED: Duration = Duration::from_secs(1);

/// How long a command waits before it is sent again that Redis did not run, since the key is being moved.
const MOVING: Duration = Duration::from_millis(50);

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
        hosts: Vec<Address>,
    },
    /// The node of a cluster that serves the slot of the map's keys; some of its nodes are asked at each connect.
    Cluster {
        nodes: Vec<Address>,
    },
}

/// Host and port.
pub type Address = (String, u16);

/// The server that has a key.
struct Found {
    address: Address,
    /// Most of those who must know agree.
    is_sure: bool,
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
    /// Decides which node of a cluster serves this link.
    key: String,
    /// With a number that rises when they lead elsewhere.
    settings: watch::Sender<(u64, Settings)>,
    connection: Mutex<Option<Known>>,
}

/// An open connection.
struct Known {
    /// Of which settings.
    number: u64,
    connection: MultiplexedConnection,
    /// Where it leads, and since when: no two connections have been opened at the same time.
    address: Address,
    opened: Instant,
    /// When it was last asked whether it is still the one, and when that was last said.
    named: Instant,
    vouched: Option<Instant>,
    looks: replication::Looks,
}

/// So often it is asked whether the server is the master still: one that is cut off from the others takes writes that are
/// lost with it. Less than the ten seconds by which the source is confirmed behind the queue (rule 7).
const NAMED: Duration = Duration::from_secs(4);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("settings", &self.shared.settings.borrow().1)
            .finish_non_exhaustive()
    }
}

/// Connects to the server that has `key`, and sees that it answers.
///
/// # Errors
/// A sentence fit for a condition, without secrets.
pub async fn connect(settings: &Settings, key: &str) -> Result<Link, RedisConnectError> {
    check_tls(settings)?;
    let link = Link {
        shared: Arc::new(Shared {
            key: key.to_owned(),
            settings: watch::Sender::new((0, settings.clone())),
            connection: Mutex::new(None),
        }),
    };
    link.query::<String>(&redis::cmd("PING")).await?;
    link.check_version().await?;
    Ok(link)
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
        let is_fixed = matches!(settings.topology, Topology::Standalone { .. });
        if let Some(current) = &current
            && (is_fixed || current.named.elapsed() < NAMED)
        {
            return Ok(current.connection.clone());
        }
        let Found { address, is_sure } = match (self.find(&settings).await, current) {
            (Ok(found), Some(current)) if found.address != current.address => found,
            (Ok(found), None) => found,
            // When nobody can be asked, the server is as good as before.
            (found, Some(current)) => {
                current.named = Instant::now();
                if found.is_ok_and(|found| found.is_sure) {
                    current.vouched = Some(current.named);
                }
                return Ok(current.connection.clone());
            }
            (Err(error), None) => return Err(error),
        };
        let connection = open(&settings, (&address.0, address.1), true).await?;
        *known = Some(Known {
            number,
            connection: connection.clone(),
            address,
            opened: Instant::now(),
            named: Instant::now(),
            vouched: is_sure.then(Instant::now),
            looks: replication::Looks::default(),
        });
        Ok(connection)
    }

    /// The server that has the key now.
    async fn find(&self, settings: &Settings) -> Result<Found, QueueError> {
        match &settings.topology {
            Topology::Standalone { host, port } => Ok(Found {
                address: (host.clone(), *port),
                is_sure: true,
            }),
            Topology::Sentinel { master, hosts } => sentinel::find_master(settings, master, hosts).await,
            Topology::Cluster { nodes } => cluster::find_owner(settings, &self.shared.key, nodes).await,
        }
    }

    /// One deadline for all: waiting for whoever connects, connecting, and the answer. A connection that fails is made anew
    /// the next time.
    async fn ask<T, A>(&self, ask: impl Fn(MultiplexedConnection) -> A) -> Result<T, QueueError>
    where
        A: Future<Output = Result<T, RedisError>>,
    {
        let mut moving = None;
        let answer = timeout(ANSWER, self.ask_owner(&ask, &mut moving)).await;
        let answer = answer.unwrap_or_else(|_| {
            let text = moving.unwrap_or_else(|| "no answer in time".into());
            Err(QueueError::Unavailable(text))
        });
        if answer.as_ref().is_err_and(QueueError::is_away) {
            // Whoever connects now makes a new one anyway.
            if let Ok(mut known) = self.shared.connection.try_lock() {
                *known = None;
            }
        }
        answer
    }

    /// Asks the node of a cluster that has the key. One that has it no more, or not whole, runs nothing, so that the command
    /// can be sent again (Redis cluster specification, "Redirection and resharding").
    async fn ask_owner<T, A>(
        &self,
        ask: &impl Fn(MultiplexedConnection) -> A,
        moving: &mut Option<String>,
    ) -> Result<T, QueueError>
    where
        A: Future<Output = Result<T, RedisError>>,
    {
        let mut pause = MOVING;
        loop {
            let connection = self.connection().await?;
            let error = match ask(connection).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let is_cluster = matches!(self.shared.settings.borrow().1.topology, Topology::Cluster { .. });
            match error.kind() {
                ErrorKind::Server(ServerErrorKind::Moved) if is_cluster => {
                    *self.shared.connection.lock().await = None;
                }
                ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain) if is_cluster => {}
                _ => return Err(error.into()),
            }
            let code = error.code().unwrap_or_default();
            *moving = Some(format!(
                "{code}: the cluster is moving the slot of this map's queue"
            ));
            sleep(pause).await;
            pause = (pause * 2).min(ASKED);
        }
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
}
