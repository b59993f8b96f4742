//! The command line: operator, worker, check, crds.

use crate::{api, check, controller, lease, log, readiness, records, serve, trace, worker};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{process::ExitCode, time::Duration};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Keeps tables in step, and lets you pause without losing a change.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Log lines as JSON.
    #[arg(long, global = true, env = log::JSON)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the controllers, and the workers beside them if they are embedded.
    Operator(Operator),
    /// Runs the worker of one source Connection and worker group.
    Worker(Worker),
    /// Checks manifests before they are applied: connects to the servers that they name, and changes nothing.
    Check(Check),
    /// Prints the `CustomResourceDefinitions`.
    Crds,
}

impl Command {
    /// How traces name this process, unless the environment says otherwise.
    const fn service(&self) -> &'static str {
        match self {
            Self::Operator(_) => "tablemap-operator",
            Self::Worker(_) => "tablemap-worker",
            Self::Check(_) | Self::Crds => "tablemap",
        }
    }
}

/// Where workers run.
#[derive(Clone, Copy, ValueEnum)]
enum Workers {
    /// As tasks of the operator.
    Embedded,
    /// As pods: a Deployment for each source Connection and worker group.
    Pods,
    /// Somewhere else: each is started as `tablemap worker`.
    None,
}

#[derive(Args)]
struct Operator {
    #[arg(long, value_enum, default_value = "embedded")]
    workers: Workers,
    /// The image of worker pods: the operator's own.
    #[arg(long, required_if_eq("workers", "pods"))]
    worker_image: Option<String>,
    #[arg(long, default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    worker_image_pull_policy: String,
    /// A Secret in the namespace of a worker with which its image is pulled. May be given more than once.
    #[arg(long)]
    worker_image_pull_secret: Vec<String>,
    /// Only this namespace. May be given more than once. Default: all.
    #[arg(long = "namespace")]
    namespaces: Vec<String>,
    /// Where the records API is served, an aggregated API of queued records and errors. Default: nowhere.
    #[arg(long, requires = "certificates")]
    records_api_address: Option<std::net::SocketAddr>,
    /// A folder with `tls.crt` and `tls.key` of the records API; they are read again when they change.
    #[arg(long, group = "certificates")]
    records_api_certificates: Option<std::path::PathBuf>,
    /// NAMESPACE/NAME of the Service of the records API: its certificate is made, kept in the Secret NAME-tls beside it, told
    /// the `APIService`, and renewed.
    #[arg(long, group = "certificates", value_parser = service)]
    records_api_service: Option<records::SelfMade>,
    /// Of several operators only one runs the controllers: the one that holds the Lease `tablemap-operator` in this namespace.
    /// All of them serve the records API. Default: no Lease, for one operator.
    #[arg(long)]
    leader_election_namespace: Option<String>,
    /// Whole seconds after which another may lead, if the one that leads cannot renew its Lease.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(4..=60))]
    leader_election_seconds: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Worker {
    #[arg(long)]
    namespace: String,
    /// The source Connection.
    #[arg(long)]
    connection: String,
    #[arg(long, default_value = "default")]
    #[allow(clippy::struct_field_names, reason = "the flag is called --worker-group")]
    worker_group: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Check {
    /// A manifest, or `-` for standard input. May be given more than once. Connections, Secrets and `ConfigMaps` that are
    /// in none of them are read from the cluster, if one is configured.
    #[arg(short, long = "filename", required = true)]
    files: Vec<std::path::PathBuf>,
    /// The namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// As for the operator.
    #[arg(long)]
    default_queue: Option<String>,
}

#[derive(Args)]
struct Common {
    /// The Redis Connection of maps that name none, in their own namespace.
    #[arg(long)]
    default_queue: Option<String>,
    /// Where /metrics, /healthz and /readyz are served. Default: nowhere.
    #[arg(long)]
    bind_address: Option<std::net::SocketAddr>,
    /// How long a worker's Lease lasts, in seconds.
    #[arg(long, default_value_t = 4)]
    lease_seconds: u64,
    /// How far the source is confirmed behind queued positions, in milliseconds. Less than the default gives up
    /// healing from a Redis failover that loses its last seconds.
    #[arg(long, default_value_t = 10_000, hide = true)]
    confirm_delay_milliseconds: u64,
    /// How often counters in the status of an idle map are written, in seconds; a transition is written at once.
    #[arg(long, default_value_t = 60, hide = true)]
    counters_seconds: u64,
    /// A deletion gives up what it cannot reach after this many seconds, and says what it has left behind.
    #[arg(long, default_value_t = 300)]
    clean_up_seconds: u64,
    /// A map that takes no changes for so long gets a replication slot of its own, in seconds.
    #[arg(long, default_value_t = 60)]
    side_slot_seconds: u64,
    /// No map may have more records queued than this, whatever its limits say; no map of a namespace, with
    /// NAMESPACE=NUMBER. May be given more than once.
    #[arg(long)]
    max_queue_records: Vec<worker::Bound>,
    /// Nor more bytes in Redis.
    #[arg(long)]
    max_queue_bytes: Vec<worker::Bound>,
    /// Nor records that wait for longer, in seconds.
    #[arg(long)]
    max_queue_age_seconds: Vec<worker::Bound>,
    /// How often what is due by time is looked for, in milliseconds.
    #[arg(long, default_value_t = 100, hide = true)]
    clock_milliseconds: u64,
    /// How long a statement may take at a destination, in milliseconds.
    #[arg(long, default_value_t = 30_000, hide = true)]
    statement_timeout_milliseconds: u64,
}

impl Common {
    /// What a worker's pod is told, as its operator was; the limits of its namespace come beside.
    fn for_pods(&self) -> Vec<String> {
        let number = |name: &str, value: u64| format!("--{name}={value}");
        let mut arguments = vec![
            number("lease-seconds", self.lease_seconds),
            number("confirm-delay-milliseconds", self.confirm_delay_milliseconds),
            number("clock-milliseconds", self.clock_milliseconds),
            number("counters-seconds", self.counters_seconds),
            number("clean-up-seconds", self.clean_up_seconds),
            number("side-slot-seconds", self.side_slot_seconds),
            number(
                "statement-timeout-milliseconds",
                self.statement_timeout_milliseconds,
            ),
        ];
        let queue = self.default_queue.as_ref();
        arguments.extend(queue.map(|queue| format!("--default-queue={queue}")));
        arguments
    }

    fn pace(&self) -> worker::Pace {
        let delay = Duration::from_millis(self.confirm_delay_milliseconds);
        let mut pace = worker::Pace::default();
        pace.tick = pace.tick.min(delay);
        pace.confirm_delay = delay;
        pace.clock = Duration::from_millis(self.clock_milliseconds.max(1));
        pace.counters = Duration::from_secs(self.counters_seconds);
        pace.side_slot = Duration::from_secs(self.side_slot_seconds);
        pace.clean_up = Duration::from_secs(self.clean_up_seconds);
        pace.timeouts.statement = Duration::from_millis(self.statement_timeout_milliseconds);
        pace
    }

    fn ceilings(&self) -> worker::Ceilings {
        worker::Ceilings::new(
            &self.max_queue_records,
            &self.max_queue_bytes,
            &self.max_queue_age_seconds,
        )
    }
}

fn service(text: &str) -> Result<records::SelfMade, String> {
    let (namespace, name) = text.split_once('/').ok_or("it must be NAMESPACE/NAME")?;
    Ok(records::SelfMade {
        namespace: namespace.to_owned(),
        service: name.to_owned(),
        secret: format!("{name}-tls"),
    })
}

/// Runs the program to its end.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tablemap: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Command::Crds = arguments.command {
        print!("{}", api::yaml().context("the manifests cannot be written")?);
        return Ok(());
    }
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider was installed before"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime")?;
    let done = runtime.block_on(async {
        log::begin(arguments.log_json, arguments.command.service());
        let shutdown = CancellationToken::new();
        tokio::spawn(end_on_signal(shutdown.clone()));
        match arguments.command {
            Command::Operator(options) => operate(options, arguments.log_json, shutdown).await,
            Command::Worker(options) => work(options, shutdown).await,
            Command::Check(options) => check(options).await,
            Command::Crds => Ok(()),
        }
    });
    trace::end();
    done
}

/// The Lease of the operator that leads.
const LEADER: &str = "tablemap-operator";

/// SIGTERM and Ctrl-C end the process in order.
async fn end_on_signal(shutdown: CancellationToken) {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    shutdown.cancel();
}

/// Names this process: the pod, or the host and process id.
fn identity() -> String {
    let host = std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "local".into());
    format!("{host}-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple())
}

/// The files' objects, each with what was found; it fails if one cannot be used.
async fn check(options: Check) -> anyhow::Result<()> {
    let options = check::Options {
        files: options.files,
        namespace: options.namespace,
        default_queue: options.default_queue,
    };
    let cluster = kube::Client::try_default().await.ok();
    let findings = check::check(&options, cluster, |finding| println!("{finding}")).await?;
    anyhow::ensure!(
        !findings.is_empty(),
        "there is no Connection and no TableMap in these files"
    );
    let bad = findings.iter().filter(|finding| finding.is_bad()).count();
    anyhow::ensure!(bad == 0, "{bad} of {} findings must be mended", findings.len());
    Ok(())
}

async fn operate(options: Operator, log_json: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = kube::Client::try_default()
        .await
        .context("no Kubernetes configuration was found")?;
    let Operator {
        workers,
        worker_image,
        worker_image_pull_policy,
        worker_image_pull_secret,
        namespaces,
        records_api_address,
        records_api_certificates,
        records_api_service,
        leader_election_namespace,
        leader_election_seconds,
        common,
    } = options;
    let identity = identity();
    let candidate = leader_election_namespace.map(|namespace| lease::Candidate {
        namespace,
        name: LEADER.into(),
        identity: identity.clone(),
        duration: Duration::from_secs(leader_election_seconds),
    });
    if let Some(address) = common.bind_address {
        tokio::spawn(serve::serve(address, shutdown.clone()));
    }
    let made = |made| records::Source::SelfMade(records::Authority::new(client.clone(), made));
    let certificate = records_api_certificates
        .map(records::Source::Folder)
        .or_else(|| records_api_service.map(made));
    let api = records_api_address
        .zip(certificate)
        .map(|(address, certificate)| {
            let options = records::Options {
                address,
                certificate,
                namespaces: namespaces.clone(),
                default_queue: common.default_queue.clone(),
            };
            AbortOnDropHandle::new(tokio::spawn(records::serve(
                client.clone(),
                options,
                shutdown.clone(),
            )))
        });
    let options = controller::Options {
        namespaces,
        default_queue: common.default_queue.clone(),
        workers: match workers {
            Workers::Embedded => controller::Wanted::Embedded,
            Workers::Pods => controller::Wanted::Pods(controller::PodSettings {
                image: worker_image.unwrap_or_default(),
                pull_policy: worker_image_pull_policy,
                pull_secrets: worker_image_pull_secret,
                arguments: common.for_pods(),
                environment: log::environment(log_json),
            }),
            Workers::None => controller::Wanted::Elsewhere,
        },
        identity,
        lease_duration: Duration::from_secs(common.lease_seconds),
        pace: common.pace(),
        ceilings: common.ceilings(),
    };
    let controllers = Box::pin(async {
        let controllers = controller::run(client.clone(), options, shutdown.clone());
        let Some(candidate) = &candidate else {
            controllers.await;
            return Ok(());
        };
        Ok(lease::lead(client, candidate, &shutdown, controllers).await?)
    });
    let Some(api) = api else {
        return controllers.await;
    };
    // Whoever asks for the API and cannot have it is told at once.
    let api = async { api.await.context("the records API ended")? };
    tokio::try_join!(controllers, api).map(|_| ())
}

async fn work(options: Worker, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = kube::Client::try_default()
        .await
        .context("no Kubernetes configuration was found")?;
    let Worker {
        namespace,
        connection,
        worker_group,
        common,
    } = options;
    let started = CancellationToken::new();
    readiness::lacks("worker", "waiting for its Lease, and for the list of its maps");
    if let Some(address) = common.bind_address {
        tokio::spawn(serve::serve(address, shutdown.clone()));
    }
    let ready = started.clone();
    tokio::spawn(async move {
        ready.cancelled().await;
        readiness::has("worker");
    });
    let context = worker::Context {
        client,
        started,
        connection,
        group: worker_group,
        identity: identity(),
        default_queue: common.default_queue.clone(),
        lease_duration: Duration::from_secs(common.lease_seconds),
        pace: worker::Pace {
            ceiling: common.ceilings().of(&namespace),
            ..common.pace()
        },
        namespace,
    };
    // Beside the tasks that it talks to, not on the thread that waits for it.
    let running = AbortOnDropHandle::new(tokio::spawn(worker::run(context, shutdown)));
    running.await?.context("the worker ended")
}
