//! Connecting to Postgres.

use std::{fmt, time::Duration};

/// How much of the server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Disable,
    Require,
    VerifyCa,
    VerifyFull,
}

/// TLS with its PEM texts, as read from Secrets and ConfigMaps.
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
