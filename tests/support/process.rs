//! A program that a test runs: a server, or our own binary.

use super::{folder::is_root, wait::wait_until};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use std::{
    ffi::OsStr,
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// Ends, with all of its process group, when it is dropped.
pub struct Process {
    child: Child,
    guard: Child,
    log: PathBuf,
}

/// A command that runs as `user` if we are root: initdb refuses root, and the other servers need no rights either.
pub fn command_as(user: &str, program: impl AsRef<OsStr>) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let group = super::folder::run(Command::new("id").args(["-gn", user]));
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", user, "--regid", group.trim(), "--clear-groups", "--"])
        .arg(program);
    command
}

impl Process {
    /// Starts a command in a process group of its own. What it prints is added to the file `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Self {
        Self::spawn_with(command, log, None)
    }

    /// The same; if we end without dropping anything, this folder goes too.
    pub fn spawn_with(command: &mut Command, log: &Path, folder: Option<&Path>) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let guard = guard(child.id(), folder);
        Self {
            child,
            guard,
            log: log.to_owned(),
        }
    }

    /// Starts one of this package's programs, with its own environment added to ours.
    pub fn spawn_binary(program: &str, args: &[&str], env: &[(&str, &str)], log: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(args).envs(env.iter().copied());
        Self::spawn(&mut command, log)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, or nothing while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub async fn end(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of process {}", self.pid());
        super::wait::wait_for(within, &what, async || self.ended()).await
    }

    /// Waits for a line in its log that contains `text`.
    pub async fn line(&self, text: &str, within: Duration) -> String {
        let what = format!("'{text}' in {}", self.log.display());
        super::wait::wait_for(within, &what, async || {
            self.log()
                .lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        })
        .await
    }

    /// Waits until `ready` says yes, and panics with the log if the program ends before.
    pub async fn ready(&mut self, within: Duration, what: &str, mut ready: impl AsyncFnMut() -> bool) {
        wait_until(within, what, async || {
            if let Some(status) = self.ended() {
                panic!("{what}: ended with {status}\n{}", self.log());
            }
            ready().await
        })
        .await;
    }

    /// Whether a signal has stopped it, as SIGSTOP does.
    pub fn is_stopped(&self) -> bool {
        stat(self.child.id(), 0).as_deref() == Some("T")
    }

    /// Sends a signal to the process alone.
    pub fn signal(&mut self, signal: Signal) {
        // Only a process that we have not waited for yet still owns its number.
        if self.ended().is_none() {
            kill(self.pid(), signal).unwrap();
        }
    }

    /// Sends a signal to the process and all of its group.
    pub fn signal_group(&mut self, signal: Signal) {
        if self.ended().is_none() {
            killpg(self.pid(), signal).unwrap();
        }
    }

    /// SIGKILL to all of the group. When this returns the process is gone.
    pub fn kill9(&mut self) {
        self.signal_group(Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    /// The most memory it ever had in use, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The processes that it started itself.
    pub fn children(&self) -> Vec<Pid> {
        let parent = self.child.id().to_string();
        let all = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(|pid: &i32| parent_of(*pid).as_deref() == Some(&parent))
            .map(Pid::from_raw)
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        let _ = self.guard.kill();
        let _ = self.guard.wait();
    }
}

/// Ends the process group when we end without dropping anything (Ctrl-C, an abort): its input is then closed.
fn guard(group: u32, folder: Option<&Path>) -> Child {
    let script =
        format!("read -r _; kill -s KILL -- -{group}; [ -z \"$1\" ] || {{ sleep 1; rm -rf \"$1\"; }}");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, "guard"])
        .args(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.process_group(0).spawn().unwrap()
}

/// Whether a process is there, and has not only still to be waited for.
pub fn is_alive(pid: Pid) -> bool {
    stat(pid, 0).is_some_and(|state| state != "Z")
}

fn parent_of(pid: i32) -> Option<String> {
    stat(pid, 1)
}

/// A field of what the kernel says of a process: 0 is its state, 1 its parent.
fn stat(pid: impl std::fmt::Display, field: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may itself contain spaces and brackets; the state and the parent follow it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(field).map(str::to_owned)
}
