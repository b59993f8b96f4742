//! A Redis Sentinel.

use super::{
    folder::temporary,
    ports::free_port,
    process::{Process, command_as},
};
use std::{io::Write, process::Stdio};
use tempfile::TempDir;

const USER: &str = "nobody";

pub struct Sentinel {
    pub port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Sentinel {
    /// Watches the master of the group `name`. Two sentinels must agree that it is gone.
    pub fn start(name: &str, master: u16) -> Self {
        let (folder, port) = (temporary(USER), free_port());
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor {name} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 5000\n"
        );
        // It writes what it learns into its own configuration.
        let file = folder.path().join("sentinel.conf");
        let mut write = command_as(USER, "tee");
        let mut writing = write
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        writing
            .stdin
            .take()
            .unwrap()
            .write_all(settings.as_bytes())
            .unwrap();
        assert!(writing.wait().unwrap().success());
        let mut command = command_as(USER, "redis-server");
        command.arg(&file).arg("--sentinel").current_dir("/");
        let process = Process::spawn(&mut command, &folder.path().join("log"));
        Self {
            port,
            _process: process,
            _folder: folder,
        }
    }
}
