//! Temporary folders that belong to the user a server runs as.

use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Where the set-up keeps what it has built or fetched.
pub fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
        PathBuf::from,
    );
    cache.join("tablemap")
}

/// A new folder for `user`, or for us where we are not root and servers run as us.
pub fn temporary(user: &str) -> TempDir {
    let folder = tempfile::Builder::new().prefix("tablemap-").tempdir().unwrap();
    if is_root() {
        run(Command::new("chown").arg(format!("{user}:")).arg(folder.path()));
    }
    folder
}

/// Makes `to` the same as `from`: owners, modes and times too.
pub fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// Runs a command to its end. Panics with what it printed if it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{printed}{errors}",
        output.status
    );
    printed
}
