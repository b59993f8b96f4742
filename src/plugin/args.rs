//! What can be asked.

use super::choices::{Class, RetryStatus, duration, map_name};
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use clap_complete::Shell;

/// Pause table maps, watch them catch up, and mend what was refused.
#[derive(Parser)]
#[command(name = "kubectl-tablemap", bin_name = "kubectl tablemap", version)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed or refused, 2 wrong arguments, 3 not done within --timeout."
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Args)]
pub struct Global {
    /// The namespace. Default: that of the kubeconfig's context.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The context of the kubeconfig.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// How lists, status and show are printed.
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Yaml,
}

#[derive(Subcommand)]
pub enum Command {
    /// Lists maps: phase, queue, errors.
    List(Pick),
    /// Shows maps in full: who wants a pause, the queue against its limit, the catch-up, errors by class.
    Status(Status),
    /// Pauses maps: from then on their changes are queued. All of them, or none if one cannot be.
    Pause(Pause),
    /// Resumes maps: what is queued is written, or skipped.
    Resume(Resume),
    /// Lists what waits in a map's queue.
    Queued(Queued),
    /// Lists catch-up errors.
    Errors(Errors),
    /// Shows one queued record or error: its row, and how the destination's row differs.
    Show {
        /// Its name, as the lists show it.
        id: String,
    },
    /// Writes errors of a map again.
    Retry(Retry),
    /// Gives errors of a map up, or what waits in its queue.
    Discard(Discard),
    /// Lists operations: what was retried, discarded, skipped or accepted.
    Operations {
        /// Of this map alone.
        #[arg(value_parser = map_name)]
        map: Option<String>,
    },
    /// Prints a completion script for a shell.
    Completion { shell: Shell },
}

impl Command {
    /// Whether it prints objects, which can be had as JSON or YAML.
    pub const fn prints_objects(&self) -> bool {
        matches!(
            self,
            Self::List(_)
                | Self::Status(_)
                | Self::Queued(_)
                | Self::Errors(_)
                | Self::Show { .. }
                | Self::Operations { .. }
        )
    }
}

/// Which maps.
#[derive(Args, Clone, Debug, Default)]
pub struct Pick {
    /// Their names; `tm/NAME` is as good.
    #[arg(value_parser = map_name)]
    pub names: Vec<String>,
    /// Those with these labels.
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Those that write to this Connection.
    #[arg(long)]
    pub destination: Option<String>,
    /// All of the namespace.
    #[arg(long, conflicts_with_all = ["names", "selector", "destination"])]
    pub all: bool,
}

#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    pub pick: Pick,
    /// Goes on showing it.
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Args)]
pub struct Pause {
    #[command(flatten)]
    pub pick: Pick,
    #[command(flatten)]
    pub patience: Patience,
    /// Only checks that it could be done.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct Patience {
    /// Waits until it is done.
    #[arg(long)]
    pub wait: bool,
    /// How long: 90s, 5m, 2h.
    #[arg(long, value_parser = duration, default_value = "5m")]
    pub timeout: std::time::Duration,
}

#[derive(Args)]
pub struct Resume {
    #[command(flatten)]
    pub pause: Pause,
    /// What waits in the queue now is not written: `preserve` keeps it as errors, `discard` gives it up.
    #[arg(long, value_enum)]
    pub skip: Option<Skip>,
    /// Does not ask before it discards.
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Skip {
    Preserve,
    Discard,
}

#[derive(Args)]
pub struct Queued {
    #[arg(value_parser = map_name)]
    pub map: String,
    /// Records of this integration key: its columns joined by commas.
    #[arg(long)]
    pub key: Option<String>,
    /// No more than these.
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    pub limit: u32,
}

#[derive(Args)]
pub struct Errors {
    /// Default: those of all maps.
    #[arg(value_parser = map_name)]
    pub map: Option<String>,
    /// Errors of this integration key: its columns joined by commas.
    #[arg(long)]
    pub key: Option<String>,
    /// Of this class.
    #[arg(long, value_enum, ignore_case = true)]
    pub class: Option<Class>,
    /// With this retry status. Default: all that wait (Pending, `InProgress`, Failed).
    #[arg(long, value_enum, ignore_case = true)]
    pub retry_status: Option<RetryStatus>,
    /// Also those that wait no more: they were written, or replaced by a newer record.
    #[arg(long, conflicts_with = "retry_status")]
    pub settled: bool,
    /// No more than these.
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// Which records. One of them must be said, so that nothing can mean all by mistake.
#[derive(Args, Debug, Default)]
#[group(required = true, multiple = false)]
pub struct Selection {
    /// Everything that waits now.
    #[arg(long)]
    pub all: bool,
    /// These errors, or queued records.
    #[arg(long, value_delimiter = ',')]
    pub id: Vec<String>,
    /// Those of this integration key: its columns joined by commas. May be given more than once.
    #[arg(long)]
    pub key: Vec<String>,
    /// Those that a CEL expression over `error` and `row` takes; of queued records, over `record` and `row`.
    #[arg(long = "match")]
    pub expression: Option<String>,
}

#[derive(Args)]
pub struct Retry {
    #[arg(value_parser = map_name)]
    pub map: String,
    #[command(flatten)]
    pub selection: Selection,
    #[command(flatten)]
    pub patience: Patience,
    /// Only counts what is selected.
    #[arg(long)]
    pub dry_run: bool,
    /// No more records than these in a second.
    #[arg(long, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub max_records_per_second: Option<u32>,
}

#[derive(Args)]
pub struct Discard {
    #[arg(value_parser = map_name)]
    pub map: String,
    #[command(flatten)]
    pub selection: Selection,
    /// From where: what is chosen of `queue` is not written.
    #[arg(long, value_enum, default_value = "errors")]
    pub from: From,
    #[command(flatten)]
    pub patience: Patience,
    /// Only counts what is selected.
    #[arg(long)]
    pub dry_run: bool,
    /// Does not ask before.
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum From {
    Errors,
    Queue,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn arguments_are_sound() {
        Arguments::command().debug_assert();
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("x retry customers --all --wait --timeout 2h -n sales").is_ok());
        assert!(parse("x retry customers").is_err(), "nothing selected");
        assert!(parse("x retry customers --all --id a").is_err());
        assert!(parse("x pause --all a").is_err());
        assert!(parse("x pause a --timeout 5").is_err());
        assert!(parse("x errors tm/a --class badrequest --retry-status Failed").is_ok());
        assert!(parse("x errors --class Bad").is_err());
        assert!(parse("x errors --settled --retry-status Failed").is_err());
        assert!(parse("x queued a --limit 0").is_err());
        assert!(parse("x retry a --all --max-records-per-second 0").is_err());
        assert!(parse("x queued pod/a").is_err());
    }
}
