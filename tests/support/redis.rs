//! A Redis server with an append-only file.

use super::{
    folder::{copy, temporary},
    ports::free_port,
    process::{Process, command_as},
};
use nix::sys::signal::Signal;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const USER: &str = "nobody";
const START: Duration = Duration::from_secs(60);

const SETTINGS: &[(&str, &str)] = &[
    ("bind", "127.0.0.1"),
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("maxmemory-policy", "noeviction"),
    // The append-only file is what a start reads; snapshots would only cost time.
    ("save", ""),
];

pub struct Redis {
    pub port: u16,
    settings: Vec<(String, String)>,
    process: Option<Process>,
    folder: TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with more settings, or other ones: `("maxmemory", "64mb")`, `("requirepass", "secret")`.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = temporary(USER);
        let data = folder.path().join("data");
        super::folder::run(command_as(USER, "mkdir").arg(&data));
        let settings = SETTINGS
            .iter()
            .chain(settings)
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let mut server = Self {
            port: free_port(),
            settings,
            process: None,
            folder,
        };
        server.start_again().await;
        server
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The file to which commands are appended.
    pub fn append_only_file(&self) -> PathBuf {
        let folder = self.data().join("appendonlydir");
        let mut files = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        files
            .find(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .unwrap()
    }

    /// For the settings of a client, without a password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// A connection without a password. It waits for answers for as long as a busy disk may need.
    pub async fn client(&self) -> redis::aio::MultiplexedConnection {
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(START))
            .set_response_timeout(Some(START));
        redis::Client::open(self.url())
            .unwrap()
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap()
    }

    /// Starts the server that was killed, on the same port, with the same data.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "Redis runs already");
        let mut command = command_as(USER, "redis-server");
        command
            .arg("--port")
            .arg(self.port.to_string())
            .arg("--dir")
            .arg(self.data());
        for (name, value) in &self.settings {
            command.arg(format!("--{name}")).arg(value);
        }
        let mut process = Process::spawn(command.current_dir("/"), &self.folder.path().join("log"));
        process
            .ready(START, "Redis", async || answers(self.port).await.unwrap_or(false))
            .await;
        self.process = Some(process);
    }

    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// Copies the data as they are at one moment, while the server waits.
    pub fn copy_to(&mut self, to: &Path) {
        self.signal(Signal::SIGSTOP);
        copy(&self.data(), to);
        self.signal(Signal::SIGCONT);
    }

    /// Kills the server and puts its data back to a copy.
    pub fn restore_from(&mut self, from: &Path) {
        self.kill9();
        copy(from, &self.data());
    }

    /// It stands still, with its connections open, until it is woken.
    pub fn hang(&mut self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn wake(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal_group(signal);
        }
    }
}

/// Asks a server, without a password.
pub async fn ask<T: redis::FromRedisValue>(port: u16, words: &[&str]) -> redis::RedisResult<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query_async(&mut connection).await
}

/// Whether it has read its data and answers. That it wants a password is an answer too.
async fn answers(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut reply = [0; 64];
    let length = stream.read(&mut reply).await?;
    let reply = &reply[..length];
    Ok(reply.starts_with(b"+PONG") || reply.starts_with(b"-NOAUTH"))
}
