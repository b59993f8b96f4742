//! Opening a connection to one server.

use super::{RedisConnectError, Settings};
use crate::{connection::postgres::TlsMode, queue::QueueError};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates, aio::MultiplexedConnection,
};

pub(super) fn check_tls(settings: &Settings) -> Result<(), RedisConnectError> {
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

pub(super) async fn open(
    settings: &Settings,
    address: (&str, u16),
    logs_in: bool,
) -> Result<MultiplexedConnection, QueueError> {
    let client =
        client(settings, address, logs_in).map_err(|error| QueueError::Unavailable(error.to_string()))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(super::ANSWER));
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}
