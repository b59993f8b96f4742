//! The way to one host: TCP, with TLS over it where asked.

use super::{ConnectError, Settings, TlsMode, tls};
use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A dead peer is noticed after 15 s + 3 probes of 5 s when idle, and after 30 s with bytes on the way.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Anything that bytes go both ways through.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A plain or encrypted connection to a server.
pub type Transport = Box<dyn Duplex>;

/// Connects to one host. The caller sets the deadline.
pub(super) async fn open(settings: &Settings, host: &str, port: u16) -> Result<Transport, ConnectError> {
    let stream = dial(host, port).await?;
    match settings.tls.mode {
        TlsMode::Disable => Ok(Box::new(stream)),
        _ => encrypt(settings, stream, host).await,
    }
}

/// Connects to the first of the host's addresses that answers.
async fn dial(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let unknown = || ConnectError::UnknownHost {
        host: host.to_owned(),
    };
    let mut outcome = Err(unknown());
    for address in lookup_host((host, port)).await.map_err(|_| unknown())? {
        outcome = TcpStream::connect(address)
            .await
            .map_err(|error| unreachable(host, port, &error));
        if outcome.is_ok() {
            break;
        }
    }
    let stream = outcome?;
    tune(&stream).map_err(|error| unreachable(host, port, &error))?;
    Ok(stream)
}

fn unreachable(host: &str, port: u16, error: &io::Error) -> ConnectError {
    let host = host.to_owned();
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused { host, port },
        kind => ConnectError::Unreachable {
            host,
            port,
            cause: kind.to_string(),
        },
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

/// Asks the server for TLS and shakes hands (`PostgreSQL` manual, "SSL Session Encryption").
async fn encrypt(settings: &Settings, mut stream: TcpStream, host: &str) -> Result<Transport, ConnectError> {
    let failed = |cause: String| ConnectError::Tls {
        host: host.to_owned(),
        cause,
    };
    let broken = |_: io::Error| ConnectError::Broken {
        host: host.to_owned(),
    };
    let config = tls::client_config(&settings.tls)?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(broken)?;
    if stream.read_u8().await.map_err(broken)? != b'S' {
        return Err(ConnectError::TlsNotOffered {
            host: host.to_owned(),
        });
    }
    ServerName::try_from(host).map_err(|error| failed(error.to_string()))?;
    let mut maker = MakeRustlsConnect::new(config);
    let connect = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, host)
        .map_err(|error| failed(error.to_string()))?;
    let stream = connect
        .connect(stream)
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok(Box::new(stream))
}
