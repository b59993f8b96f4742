//! Why a connection could not be made, in words fit for a condition: no secret and no server text.

use super::Settings;
use crate::failure::Class;
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// Why a connection could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("the Connection names no host: add one to spec.postgres.hosts")]
    NoHosts,
    #[error("host {host:?} is unknown: check its name, or the cluster's DNS")]
    UnknownHost { host: String },
    #[error("{host}:{port} refuses connections: check that Postgres runs there and listens on this port")]
    Refused { host: String, port: u16 },
    #[error("{host}:{port} cannot be reached ({cause}): check the network and its policies")]
    Unreachable { host: String, port: u16, cause: String },
    #[error("{host}:{port} gave no answer within {limit:?}: check the network and its policies")]
    Timeout {
        host: String,
        port: u16,
        limit: Duration,
    },
    #[error("{host} does not offer TLS: set ssl = on there, or the Connection's TLS mode to Disable")]
    TlsNotOffered { host: String },
    #[error("TLS with {host} failed ({cause}): check the CA, the server's certificate and its names")]
    Tls { host: String, cause: String },
    #[error("the TLS settings cannot be used: {cause}")]
    TlsSettings { cause: String },
    #[error("{host} rejects user {user:?} (SQLSTATE {code}): check user name, password and pg_hba.conf")]
    Rejected {
        host: String,
        user: String,
        code: String,
    },
    #[error("{host} asks for a way to log in that is not supported: use scram-sha-256 in pg_hba.conf")]
    Method { host: String },
    #[error("{host} has no database {database:?}: create it, or correct the Connection")]
    NoDatabase { host: String, database: String },
    #[error("{host} has no connection left (SQLSTATE 53300): raise max_connections or the role's limit")]
    TooManyConnections { host: String },
    #[error(
        "{host} has no WAL sender left (SQLSTATE 53300): end a replication session that is not needed (SELECT * FROM \
         pg_stat_replication), or raise max_wal_senders and restart it"
    )]
    NoWalSendersLeft { host: String },
    #[error("{host} is starting, stopping or recovering (SQLSTATE 57P03)")]
    NotReady { host: String },
    #[error("{host} is a standby: name the primary in the Connection's hosts")]
    Standby { host: String },
    #[error(
        "{host} is a pooler that does not keep sessions apart: name the server itself in the Connection's hosts, or set \
         pool_mode = session"
    )]
    Pooler { host: String },
    #[error(
        "{host} refused the session as a pooler does (SQLSTATE 08P01): a source needs the server itself in the \
         Connection's hosts; else see the pooler's log"
    )]
    PoolerRefuses { host: String },
    #[error("{host} refused the session (SQLSTATE {code}): see the server's log")]
    Server { host: String, code: String },
    #[error("{host} ended the connection while it was being made")]
    Broken { host: String },
}

impl ConnectError {
    /// The condition's reason.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoHosts | Self::TlsSettings { .. } => "InvalidConnection",
            Self::UnknownHost { .. } => "UnknownHost",
            Self::Refused { .. } => "ConnectionRefused",
            Self::Unreachable { .. } | Self::Broken { .. } => "Unreachable",
            Self::Timeout { .. } => "ConnectTimeout",
            Self::TlsNotOffered { .. } | Self::Tls { .. } => "TLSFailed",
            Self::Rejected { .. } | Self::Method { .. } => "AuthenticationFailed",
            Self::NoDatabase { .. } => "DatabaseNotFound",
            Self::TooManyConnections { .. } => "TooManyConnections",
            Self::NoWalSendersLeft { .. } => "NoWalSendersLeft",
            Self::NotReady { .. } => "ServerNotReady",
            Self::Standby { .. } => "Standby",
            Self::Pooler { .. } | Self::PoolerRefuses { .. } => "PoolerBetween",
            Self::Server { .. } => "ServerRefused",
        }
    }

    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Rejected { .. } | Self::Method { .. } | Self::Tls { .. } | Self::TlsNotOffered { .. } => {
                Class::Unauthorized
            }
            Self::NoHosts | Self::TlsSettings { .. } | Self::Pooler { .. } | Self::PoolerRefuses { .. } => {
                Class::BadRequest
            }
            Self::NoDatabase { .. } => Class::Schema,
            Self::TooManyConnections { .. } | Self::NoWalSendersLeft { .. } => Class::Throttled,
            Self::Timeout { .. } => Class::Timeout,
            _ => Class::Unavailable,
        }
    }

    /// What the server's refusal of a new session means.
    pub(crate) fn from_code(code: &str, settings: &Settings, host: &str) -> Self {
        let host = host.to_owned();
        match code {
            "28P01" | "28000" => Self::Rejected {
                host,
                user: settings.username.clone(),
                code: code.to_owned(),
            },
            "3D000" => Self::NoDatabase {
                host,
                database: settings.database.clone(),
            },
            "53300" => Self::TooManyConnections { host },
            "57P03" => Self::NotReady { host },
            "08P01" => Self::PoolerRefuses { host },
            _ => Self::Server {
                host,
                code: code.to_owned(),
            },
        }
    }

    /// What tokio-postgres says of a session that could not be started.
    pub(super) fn from_start(error: &tokio_postgres::Error, settings: &Settings, host: &str) -> Self {
        match error.code() {
            Some(code) => Self::from_code(SqlState::code(code), settings, host),
            // No SQLSTATE and no closed socket: the two could not agree on a way to log in.
            None if !error.is_closed()
                && std::error::Error::source(error).is_none_or(|cause| !cause.is::<std::io::Error>()) =>
            {
                Self::Method {
                    host: host.to_owned(),
                }
            }
            None => Self::Broken {
                host: host.to_owned(),
            },
        }
    }
}
