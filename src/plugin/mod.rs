//! `kubectl tablemap`: what people do with maps, by their own kubeconfig alone.

mod args;
mod choices;
mod cluster;
mod complete;
mod discard;
mod list;
mod operate;
mod pause;
mod pending;
mod pick;
mod print;
mod recent;
mod records;
mod screen;
mod show;
mod skip;
mod status;
mod wait;

use args::{Arguments, Command, Output};
use clap::Parser as _;
use cluster::Cluster;
use std::process::ExitCode;

/// How a command ended that has not done what was asked: the table of exit codes.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// 1
    #[error("{0}")]
    Failed(String),
    /// 1: the API server said no, with this code, and did nothing.
    #[error("{message}")]
    Refused { code: u16, message: String },
    /// 1: the API server has not answered, so it is not known what it did.
    #[error("the cluster cannot be reached: {0}")]
    Unreachable(String),
    /// 2, as for arguments that cannot be read.
    #[error("{0}")]
    Usage(String),
    /// 3
    #[error("{0}")]
    TimedOut(String),
}

impl Ended {
    const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Refused { .. } | Self::Unreachable(_) => 1,
            Self::Usage(_) => 2,
            Self::TimedOut(_) => 3,
        }
    }

    /// The same, which names the cluster where that is what is wrong.
    fn at(self, url: &str) -> Self {
        match self {
            Self::Unreachable(why) => Self::Failed(format!("the cluster at {url} cannot be reached: {why}")),
            Self::Refused { code: 401, .. } => Self::Failed(format!(
                "the cluster at {url} does not accept the credentials of the kubeconfig"
            )),
            other => other,
        }
    }
}

/// Runs the program to its end.
#[must_use]
pub fn main() -> ExitCode {
    if complete::is_asked() {
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ended) => {
            eprintln!("error: {ended}");
            ExitCode::from(ended.code())
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Ended> {
    let output = arguments.global.output;
    if output != Output::Table && !arguments.command.prints_objects() {
        return Err(Ended::Usage(
            "-o json and -o yaml go with list, status, queued, errors, show and operations".into(),
        ));
    }
    if let Command::Completion { shell } = arguments.command {
        complete::script(shell);
        return Ok(());
    }
    // Another provider is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Ended::Failed(error.to_string()))?;
    runtime.block_on(async {
        let cluster = Cluster::connect(&arguments.global).await?;
        let done = carry_out(&cluster, arguments.command, output).await;
        done.map_err(|ended| ended.at(&cluster.url))
    })
}

async fn carry_out(cluster: &Cluster, command: Command, output: Output) -> Result<(), Ended> {
    match command {
        Command::List(pick) => list::list(cluster, &pick, output).await,
        Command::Status(wanted) => status::status(cluster, &wanted, output).await,
        Command::Pause(wanted) => pause::pause(cluster, &wanted).await,
        Command::Resume(wanted) => pause::resume(cluster, &wanted).await,
        Command::Queued(wanted) => records::queued(cluster, &wanted, output).await,
        Command::Errors(wanted) => records::errors(cluster, &wanted, output).await,
        Command::Show { id } => show::show(cluster, &id, output).await,
        Command::Retry(wanted) => operate::retry(cluster, &wanted).await,
        Command::Discard(wanted) => discard::discard(cluster, &wanted).await,
        Command::Operations { map } => list::operations(cluster, map.as_deref(), output).await,
        Command::Completion { .. } => Ok(()),
    }
}
