//! A session of the walsender: logging in, commands, and the start of the stream (`PostgreSQL` manual, "Message Flow").

use super::{
    SourceError,
    error::ServerError,
    frame::{Frame, READ_SIZE, split_frame},
};
use crate::{
    connection::postgres::{ConnectError, Settings, Transport, on_first_host},
    record::Lsn,
};
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::frontend,
};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One row of a command's answer, in text form.
pub(super) type AnswerRow = Vec<Option<Bytes>>;

pub(super) struct Session {
    pub(super) transport: Transport,
    /// Received, not yet read.
    pub(super) inbox: BytesMut,
    slot: String,
    publication: String,
    /// `server_version_num`.
    version: i32,
}

impl Session {
    /// Logs in on the first host that takes the session.
    pub(super) async fn open(
        settings: &Settings,
        slot: &str,
        publication: &str,
    ) -> Result<Self, ConnectError> {
        on_first_host(settings, |transport, host, settings| {
            let mut session = Self {
                transport,
                inbox: BytesMut::with_capacity(READ_SIZE),
                slot: slot.to_owned(),
                publication: publication.to_owned(),
                version: 0,
            };
            Box::pin(async move {
                session.log_in(&settings, &host).await?;
                session.is_primary(&host).await?;
                Ok(session)
            })
        })
        .await
    }

    async fn log_in(&mut self, settings: &Settings, host: &str) -> Result<(), ConnectError> {
        let broken = |_| ConnectError::Broken {
            host: host.to_owned(),
        };
        let application = format!("tablemap {}", self.slot);
        let parameters = [
            ("user", settings.username.as_str()),
            ("database", &settings.database),
            ("replication", "database"),
            ("application_name", &application),
            ("client_encoding", "UTF8"),
            // The text form of every value depends on these.
            ("DateStyle", "ISO, YMD"),
            ("TimeZone", "UTC"),
            ("IntervalStyle", "postgres"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "3"),
            ("lc_monetary", "C"),
        ];
        self.send(|out| frontend::startup_message(parameters, out))
            .await
            .map_err(broken)?;
        let mut scram = ScramSha256::new(settings.password.as_bytes(), ChannelBinding::unrequested());
        loop {
            let mut frame = self
                .receive()
                .await
                .map_err(|_| broken(io::ErrorKind::InvalidData.into()))?;
            match frame.tag {
                b'R' => {
                    self.authenticate(&mut frame.body, &mut scram, settings, host)
                        .await?;
                }
                b'E' => {
                    let code = ServerError::parse(&frame.body).code;
                    return Err(match ConnectError::from_code(&code, settings, host) {
                        // An ordinary connection was made just before.
                        ConnectError::TooManyConnections { host } => ConnectError::NoWalSendersLeft { host },
                        error => error,
                    });
                }
                b'Z' => return Ok(()),
                _ => {} // parameters, the cancellation key, notices
            }
        }
    }

    /// A standby takes logins too, and cannot serve the slot.
    async fn is_primary(&mut self, host: &str) -> Result<(), ConnectError> {
        let host = host.to_owned();
        let sql = "SELECT pg_is_in_recovery(), current_setting('server_version_num'), current_setting('server_encoding')";
        let Ok(rows) = self.command(sql).await else {
            return Err(ConnectError::Broken { host });
        };
        let text = |column: usize| rows.first().and_then(|row| row.get(column)?.as_deref());
        if text(0) != Some(b"f") {
            return Err(ConnectError::Standby { host });
        }
        let version = text(1).and_then(|version| std::str::from_utf8(version).ok()?.parse().ok());
        self.version = version.unwrap_or_default();
        // A database without an encoding holds any bytes: its server could not send those that are not UTF-8, and all
        // tables would wait for them. So each comes as it is, and the destination refuses what it cannot read.
        if text(2) == Some(b"SQL_ASCII") && self.command("SET client_encoding = 'SQL_ASCII'").await.is_err() {
            return Err(ConnectError::Broken { host });
        }
        Ok(())
    }

    /// Answers one authentication request.
    async fn authenticate(
        &mut self,
        request: &mut Bytes,
        scram: &mut ScramSha256,
        settings: &Settings,
        host: &str,
    ) -> Result<(), ConnectError> {
        let broken = |_| ConnectError::Broken {
            host: host.to_owned(),
        };
        let rejected = |_| ConnectError::Rejected {
            host: host.to_owned(),
            user: settings.username.clone(),
            code: "28P01".to_owned(),
        };
        match request.try_get_u32().unwrap_or(u32::MAX) {
            0 => Ok(()),
            3 => self
                .send(|out| frontend::password_message(settings.password.as_bytes(), out))
                .await
                .map_err(broken),
            5 => {
                let salt = request.first_chunk::<4>().copied().unwrap_or_default();
                let hash = md5_hash(settings.username.as_bytes(), settings.password.as_bytes(), salt);
                self.send(|out| frontend::password_message(hash.as_bytes(), out))
                    .await
                    .map_err(broken)
            }
            10 => {
                let message = scram.message().to_owned();
                self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, &message, out))
                    .await
                    .map_err(broken)
            }
            11 => {
                scram.update(request).map_err(rejected)?;
                let message = scram.message().to_owned();
                self.send(|out| frontend::sasl_response(&message, out))
                    .await
                    .map_err(broken)
            }
            12 => scram.finish(request).map_err(rejected),
            _ => Err(ConnectError::Method {
                host: host.to_owned(),
            }),
        }
    }

    /// Runs one command and collects its rows.
    pub(super) async fn command(&mut self, text: &str) -> Result<Vec<AnswerRow>, SourceError> {
        self.send(|out| frontend::query(text, out)).await?;
        let mut rows = Vec::new();
        let mut outcome = Ok(());
        loop {
            let frame = self.receive().await?;
            match frame.tag {
                b'D' => rows.push(answer_row(frame.body)?),
                b'E' => outcome = Err(self.judge(&frame.body)),
                b'Z' => return outcome.map(|()| rows),
                _ => {}
            }
        }
    }

    /// Starts the stream: from then on only `CopyData` goes both ways.
    pub(super) async fn start_replication(&mut self, from: Lsn) -> Result<(), SourceError> {
        // The marks of our own workers (rule 16).
        let messages = if self.version >= 140_000 {
            ", messages 'true'"
        } else {
            ""
        };
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names '{}'{messages})",
            quote(&self.slot),
            quote(&self.publication).replace('\'', "''"),
        );
        self.send(|out| frontend::query(&command, out)).await?;
        loop {
            let frame = self.receive().await?;
            match frame.tag {
                b'W' => return Ok(()),
                b'E' => return Err(self.judge(&frame.body)),
                _ => {}
            }
        }
    }

    /// What an `ErrorResponse` on this session means.
    pub(super) fn judge(&self, fields: &[u8]) -> SourceError {
        ServerError::parse(fields).judge(&self.slot, &self.publication)
    }

    pub(super) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut out = BytesMut::new();
        write(&mut out)?;
        self.transport.write_all(&out).await?;
        self.transport.flush().await
    }

    async fn receive(&mut self) -> Result<Frame, SourceError> {
        loop {
            if let Some(frame) = split_frame(&mut self.inbox)? {
                return Ok(frame);
            }
            self.read().await?;
        }
    }

    /// Reads what is there. Cancel safe: bytes are taken only when it returns.
    pub(super) async fn read(&mut self) -> Result<usize, SourceError> {
        if self.inbox.capacity() - self.inbox.len() < READ_SIZE / 2 {
            self.inbox.reserve(READ_SIZE);
        }
        match self.transport.read_buf(&mut self.inbox).await? {
            0 => Err(SourceError::Unreachable("the server closed it".to_owned())),
            read => Ok(read),
        }
    }
}

/// A quoted identifier, which is also how the replication commands take names.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn answer_row(mut body: Bytes) -> Result<AnswerRow, SourceError> {
    let malformed = || SourceError::Protocol("a malformed row".to_owned());
    let count = body.try_get_u16().map_err(|_| malformed())?;
    let mut row = Vec::new();
    for _ in 0..count {
        let length = body.try_get_i32().map_err(|_| malformed())?;
        row.push(match usize::try_from(length) {
            Err(_) => None, // -1 stands for NULL
            Ok(length) if length <= body.len() => Some(body.split_to(length)),
            Ok(_) => return Err(malformed()),
        });
    }
    Ok(row)
}
