//! A Kubernetes API with its etcd, and our custom resources in it.

use super::{
    certificates::Authority,
    etcd::{self, Keys},
    folder::run,
    ports::free_port,
    process::Process,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::{
    fs::write,
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tablemap::api::TableMap;
use tempfile::TempDir;
use tokio::runtime::Handle;

const START: Duration = Duration::from_secs(60);
/// A server that has run for longer serves no other test: it compacts its etcd every five minutes, and no test is about that.
const OLDEST: Duration = Duration::from_secs(240);

/// Users without any right, but what a test gives them: each has the token `<name>-token`.
pub const USERS: [&str; 4] = ["viewer", "owner", "engineer", "stranger"];
/// The name in the certificate by which it shows itself to aggregated APIs.
pub const FRONT: &str = "front-proxy";

/// A running server. When it is dropped another test may have it: what the test has made is then gone.
pub struct ApiServer(Option<Running>);

pub struct Running {
    folder: TempDir,
    /// Of the certificate by which it shows itself to aggregated APIs.
    pub front: Authority,
    pub port: u16,
    store: u16,
    since: Instant,
    /// What is there before a test.
    keys: Keys,
    _etcd: Process,
    _api: Process,
}

/// Where hack/build-kubernetes.sh puts the programs.
pub fn program(name: &str) -> PathBuf {
    super::folder::cache().join("kubernetes-v1.36.3/bin").join(name)
}

/// Those that no test has now: to start one takes seconds, and both processors.
static IDLE: Mutex<Vec<Running>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Running>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ApiServer {
    pub async fn start() -> Self {
        loop {
            let Some(running) = idle().pop() else {
                return Self(Some(Running::start().await));
            };
            if running.since.elapsed() < OLDEST && etcd::wipe(running.store, &running.keys).is_some() {
                return Self(Some(running));
            }
        }
    }
}

impl Deref for ApiServer {
    type Target = Running;

    fn deref(&self) -> &Running {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // Emptied when it is taken: whatever the test has started may still be writing.
        if !std::thread::panicking() {
            idle().extend(self.0.take());
        }
    }
}

impl Running {
    async fn start() -> Self {
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
        let mut server = Self {
            folder,
            front,
            port,
            store: clients,
            since: Instant::now(),
            keys: Keys::new(),
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
        server.keys = etcd::keys(clients).expect("the keys of etcd");
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

    /// Applies manifests, as `kubectl apply --server-side` does, in a tenth of its time. Panics if one is refused.
    pub fn apply(&self, manifests: &str) {
        self.wait_for(async |client| {
            for manifest in manifests.split("\n---\n").filter(|text| !text.trim().is_empty()) {
                let object: DynamicObject = serde_saphyr::from_str(manifest).unwrap();
                let name = object.name_any();
                let api = objects(client.clone(), &object);
                let applied = api
                    .patch(&name, &PatchParams::apply("kubectl"), &Patch::Apply(object))
                    .await;
                applied.unwrap_or_else(|error| panic!("{error}\n{manifest}"));
            }
        });
    }

    /// Merges into an object, as `kubectl patch --type=merge` does. Panics if that is refused.
    pub fn merge(&self, namespace: &str, tablemap: &str, patch: &Value) {
        self.wait_for(async |client| {
            let api: Api<TableMap> = Api::namespaced(client, namespace);
            let patch = Patch::Merge(patch);
            api.patch(tablemap, &PatchParams::default(), &patch)
                .await
                .unwrap();
        });
    }

    /// On a thread of its own: one that waits for two things in turn may miss that the first is ready.
    fn wait_for(&self, act: impl AsyncFnOnce(Client) + Send) {
        let runtime = Handle::current();
        let all = || runtime.block_on(async { act(self.client().await).await });
        let done = std::thread::scope(|scope| scope.spawn(all).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
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

/// The objects of this one's kind, where it is.
fn objects(client: Client, object: &DynamicObject) -> Api<DynamicObject> {
    let types = object.types.clone().expect("apiVersion and kind");
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types).unwrap());
    if matches!(
        resource.kind.as_str(),
        "APIService" | "ClusterRole" | "ClusterRoleBinding" | "Namespace"
    ) {
        return Api::all_with(client, &resource);
    }
    let namespace = object.namespace().unwrap_or_else(|| "default".into());
    Api::namespaced_with(client, &namespace, &resource)
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
