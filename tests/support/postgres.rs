//! A Postgres server.

use super::{
    folder::{self, copy, run, temporary},
    ports::free_port,
    process::{Process, command_as, is_alive},
};
use nix::sys::signal::{Signal, kill};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

/// The major that Debian has.
const MAJOR: u32 = 15;
const USER: &str = "postgres";
const START: Duration = Duration::from_secs(60);

const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("wal_level", "logical"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "20"),
    // The tests kill processes, not the machine: what was written to a file survives that without an fsync.
    ("fsync", "off"),
    // In the data folder and not in /dev/shm, where a kill would leave it behind.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_line_prefix", "%m [%p] %a "),
];

pub struct Postgres {
    pub port: u16,
    major: u32,
    settings: Vec<(String, String)>,
    process: Option<Process>,
    folder: TempDir,
}

impl Postgres {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with more settings, or other ones.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_major(MAJOR, settings).await
    }

    /// Starts a server of another major version.
    pub async fn start_major(major: u32, settings: &[(&str, &str)]) -> Self {
        let folder = temporary(USER);
        copy(&template(major).await, &folder.path().join("data"));
        if major != MAJOR {
            // The cache may lie where the server's user must not look.
            copy(&cached(major), &folder.path().join("postgres"));
        }
        let settings = SETTINGS
            .iter()
            .chain(settings)
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let mut server = Self {
            port: free_port(),
            major,
            settings,
            process: None,
            folder,
        };
        server.start_again().await;
        server
    }

    /// Another value for a setting, from the next start on.
    pub fn configure(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// For the settings of a client.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// A new connection. It panics if there is none to be had.
    pub async fn client(&self, database: &str) -> Client {
        self.try_client(database).await.unwrap()
    }

    pub async fn try_client(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        // It ends with an error whenever a test kills the server; the client's next call says so too.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    pub async fn create_database(&self, name: &str) {
        self.client("postgres")
            .await
            .batch_execute(&format!("CREATE DATABASE \"{name}\""))
            .await
            .unwrap();
    }

    /// Starts the server that was stopped or killed, on the same port, with the same data.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "Postgres runs already");
        let mut command = command_as(USER, programs(self.major, self.folder.path()).join("postgres"));
        command
            .arg("-D")
            .arg(self.data())
            .arg("-p")
            .arg(self.port.to_string());
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command
            .env_remove("LANGUAGE")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/");
        let mut process = Process::spawn(&mut command, &self.folder.path().join("log"));
        process
            .ready(START, "Postgres", async || {
                self.try_client("postgres").await.is_ok()
            })
            .await;
        self.process = Some(process);
    }

    /// Ends it in order: open transactions are rolled back, and what replication has left is sent.
    pub async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.signal(Signal::SIGINT);
        process.end(Duration::from_secs(30)).await;
    }

    /// SIGKILL to the server and every process that it started.
    pub fn kill9(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let children = freeze(&mut process);
        process.kill9();
        for child in &children {
            let _ = kill(*child, Signal::SIGKILL);
        }
        // The server does not start again while one of them still has its shared memory.
        for child in children {
            while is_alive(child) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Copies the data as they are at one moment, while the server waits. `to` is then what a crash would leave.
    pub fn copy_to(&mut self, to: &Path) {
        let frozen = self.process.as_mut().map(freeze).unwrap_or_default();
        copy(&self.data(), to);
        // The number in it is that of a server which will not be there when the copy is used.
        let _ = std::fs::remove_file(to.join("postmaster.pid"));
        for child in frozen {
            let _ = kill(child, Signal::SIGCONT);
        }
        if let Some(process) = &mut self.process {
            process.signal(Signal::SIGCONT);
        }
    }

    /// Kills the server and puts its data back to a copy.
    pub fn restore_from(&mut self, from: &Path) {
        self.kill9();
        self.remove_shared_memory();
        copy(from, &self.data());
    }

    /// A killed server leaves a few bytes of System V shared memory, which only itself would remove when it starts again.
    fn remove_shared_memory(&self) {
        let Ok(file) = std::fs::read_to_string(self.data().join("postmaster.pid")) else {
            return;
        };
        // The seventh line: the key and the number of that memory.
        if let Some(number) = file
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1))
        {
            let _ = Command::new("ipcrm").args(["-m", number]).output();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill9();
        self.remove_shared_memory();
    }
}

/// Stops every process of a server, the first one first: it can then neither start another nor react to the end of one.
fn freeze(process: &mut Process) -> Vec<nix::unistd::Pid> {
    process.signal(Signal::SIGSTOP);
    let children = process.children();
    for child in &children {
        let _ = kill(*child, Signal::SIGSTOP);
    }
    children
}

/// Where `make test` has unpacked another major.
fn cached(major: u32) -> PathBuf {
    folder::cache().join(format!("postgres-{major}"))
}

/// The programs of a server whose folder this is.
fn programs(major: u32, folder: &Path) -> PathBuf {
    if major == MAJOR {
        PathBuf::from(format!("/usr/lib/postgresql/{MAJOR}/bin"))
    } else {
        folder.join("postgres/bin")
    }
}

/// A fresh data folder, made once for all test programs: copying it takes a tenth of the time that initdb takes.
async fn template(major: u32) -> PathBuf {
    static ONCE: Mutex<()> = Mutex::const_new(());
    let _one_at_a_time = ONCE.lock().await;
    // Whoever made it owns it, and Postgres refuses the data of another user.
    let owner = std::fs::metadata("/proc/self").unwrap().uid();
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{major}-{owner}"));
    if kept.exists() {
        return kept;
    }
    let folder = temporary(USER);
    let data = folder.path().join("data");
    if major != MAJOR {
        copy(&cached(major), &folder.path().join("postgres"));
    }
    let mut initdb = command_as(USER, programs(major, folder.path()).join("initdb"));
    initdb
        .args([
            "-E",
            "UTF8",
            "--locale",
            "C.UTF-8",
            "-A",
            "trust",
            "-U",
            USER,
            "--no-sync",
            "-D",
        ])
        .arg(&data);
    run(initdb.current_dir("/"));
    let new = kept.with_extension(std::process::id().to_string());
    folder::copy(&data, &new);
    // Another test program may have been faster; its folder is as good as ours.
    if std::fs::rename(&new, &kept).is_err() {
        std::fs::remove_dir_all(&new).unwrap();
    }
    kept
}
