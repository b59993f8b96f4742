//! A Kubernetes API with its etcd, and our custom resources in it.

use super::{certificates::Authority, folder::run, ports::free_port, process::Process};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    fs::write,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};
use tempfile::TempDir;

const START: Duration = Duration::from_secs(60);

/// Users without any right, but what a test gives them: each has the token `<name>-token`.
pub const USERS: [&str; 4] = ["viewer", "owner", "engineer", "stranger"];
/// The name in the certificate by which it shows itself to aggregated APIs.
pub const FRONT: &str = "front-proxy";

pub struct ApiServer {
    folder: TempDir,
    /// Of the certificate by which it shows itself to aggregated APIs.
    pub front: Authority,
    pub port: u16,
    _etcd: Process,
    _api: Process,
}

/// Where hack/build-kubernetes.sh puts the programs.
pub fn program(name: &str) -> PathBuf {
    super::folder::cache().join("kubernetes-v1.36.3/bin").join(name)
}

/// The one that the next test will have: it takes seconds to start, in which the test before has other things to wait for.
static NEXT: Mutex<Option<JoinHandle<ApiServer>>> = Mutex::new(None);

/// Set where many tests are run, one after the other.
const AHEAD: &str = "TABLEMAP_TESTS_AHEAD";

impl ApiServer {
    pub async fn start() -> Self {
        let next = || NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let started = next().take();
        let server = match started {
            Some(started) => tokio::task::spawn_blocking(|| started.join()).await.unwrap(),
            None => Ok(Self::start_now().await),
        };
        if std::env::var_os(AHEAD).is_some() && next().is_none() {
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
            let start = move || runtime().unwrap().block_on(Self::start_now());
            *next() = Some(std::thread::spawn(start));
        }
        server.expect("an API server")
    }

    async fn start_now() -> Self {
        let folder = tempfile::Builder::new().prefix("tablemap-").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (clients, peers, port) = (free_port(), free_port(), free_port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let mut etcd = Command::new(program("etcd"));
        etcd.args([
            "--data-dir",
            &path("etcd"),
            "--unsafe-no-fsync",
            "--log-level",
            "error",
        ])
        .args([
            "--listen-client-urls",
            &url(clients),
            "--advertise-client-urls",
            &url(clients),
        ])
        .args([
            "--listen-peer-urls",
            &url(peers),
            "--initial-advertise-peer-urls",
            &url(peers),
        ])
        .args(["--initial-cluster", &format!("default={}", url(peers))]);
        let etcd = Process::spawn_with(&mut etcd, &folder.path().join("etcd.log"), Some(folder.path()));
        let key = rcgen::KeyPair::generate().unwrap();
        write(path("sa.key"), key.serialize_pem()).unwrap();
        write(path("sa.pub"), key.public_key_pem()).unwrap();
        let users = USERS.map(|user| format!("{user}-token,{user},{user}\n"));
        let tokens = format!("admin-token,admin,admin,\"system:masters\"\n{}", users.concat());
        write(path("tokens"), tokens).unwrap();
        let front = Authority::new();
        let mut api = Command::new(program("kube-apiserver"));
        api.args([
            "--etcd-servers",
            &url(clients),
            "--bind-address",
            "127.0.0.1",
            "--secure-port",
            &port.to_string(),
        ])
        .args([
            "--cert-dir",
            &path("certs"),
            "--token-auth-file",
            &path("tokens"),
            "--authorization-mode",
            "RBAC",
        ])
        .args([
            "--service-cluster-ip-range",
            "10.0.0.0/24",
            "--disable-admission-plugins",
            "ServiceAccount",
        ])
        .args([
            "--service-account-key-file",
            &path("sa.pub"),
            "--service-account-signing-key-file",
            &path("sa.key"),
        ])
        .args(["--service-account-issuer", "https://kubernetes.default.svc"])
        .args(aggregation(folder.path(), &front));
        let mut api = Process::spawn(&mut api, &folder.path().join("api.log"));
        write(path("kubeconfig"), kubeconfig(port, &path("certs/apiserver.crt"))).unwrap();
        let ready = || {
            Command::new(program("kubectl"))
                .args(["--kubeconfig", &path("kubeconfig"), "get", "--raw", "/readyz"])
                .output()
                .is_ok_and(|output| output.status.success())
        };
        api.ready(START, "the API server", async || ready()).await;
        let server = Self {
            folder,
            front,
            port,
            _etcd: etcd,
            _api: api,
        };
        server.kubectl(&[
            "apply",
            "--server-side",
            "-f",
            concat!(env!("CARGO_MANIFEST_DIR"), "/crds"),
        ]);
        server.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
            "--all",
        ]);
        server
    }

    /// Starts what empties namespaces that are deleted.
    pub fn namespace_controller(&self) -> Process {
        let mut command = Command::new(program("kube-controller-manager"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args([
            "--controllers=namespace-controller",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--secure-port=0",
        ]);
        Process::spawn(&mut command, &self.folder.path().join("controllers.log"))
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// That of one of the [`USERS`].
    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.other_kubeconfig(user, "admin-token", &format!("{user}-token"))
    }

    /// That of a service account.
    pub fn kubeconfig_of_account(&self, account: &str) -> PathBuf {
        let token = self.kubectl(&["create", "token", account]);
        self.other_kubeconfig(account, "admin-token", token.trim())
    }

    /// That of the admin, by way of another port.
    pub fn kubeconfig_by(&self, port: u16) -> PathBuf {
        let by = format!("https://127.0.0.1:{port}");
        self.other_kubeconfig(&port.to_string(), &self.url(), &by)
    }

    fn other_kubeconfig(&self, name: &str, from: &str, to: &str) -> PathBuf {
        let own = std::fs::read_to_string(self.kubeconfig()).unwrap();
        let path = self.folder.path().join(format!("kubeconfig-{name}"));
        write(&path, own.replace(from, to)).unwrap();
        path
    }

    /// Runs kubectl to its end. Panics if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        run(self.command().args(arguments))
    }

    /// The same, while the test's other tasks go on.
    pub async fn kubectl_aside(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.args(arguments);
        tokio::task::spawn_blocking(move || run(&mut command))
            .await
            .unwrap()
    }

    /// kubectl with its configuration.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) {
        let file = self.folder.path().join(format!("manifests-{}", free_port()));
        write(&file, manifests).unwrap();
        self.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]);
    }

    pub async fn client(&self) -> Client {
        // The test's program may have been first to need TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }
}

/// By what it shows itself to aggregated APIs, and how it tells on whose behalf it asks.
fn aggregation(folder: &Path, front: &Authority) -> Vec<String> {
    let signed = front.sign(FRONT);
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        write(&path, text).unwrap();
        path.display().to_string()
    };
    vec![
        format!(
            "--requestheader-client-ca-file={}",
            file("front-ca.crt", &front.certificate)
        ),
        format!("--requestheader-allowed-names={FRONT}"),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!(
            "--proxy-client-cert-file={}",
            file("front.crt", &signed.certificate)
        ),
        format!("--proxy-client-key-file={}", file("front.key", &signed.key)),
    ]
}

fn kubeconfig(port: u16, authority: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {authority}, tls-server-name: kubernetes}}}}]
users: [{{name: u, user: {{token: admin-token}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
"
    )
}
