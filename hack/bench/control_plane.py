"""A Kubernetes API with its etcd, and kubectl."""

import base64
import http.client
import json
import os
import secrets
import ssl

from .process import Failed, Process, free_port, run

NAMESPACE = "bench"
# The name by which the Kubernetes API shows itself to the records API, and the Service of that.
FRONT = "front-proxy"
RECORDS = "tablemap-records"


class ControlPlane:
    def __init__(self, folder, programs, crds):
        self.folder, self.programs = folder, programs
        clients, peers, port = free_port(), free_port(), free_port()
        home = folder / "kube"
        home.mkdir()
        token = secrets.token_hex(16)
        self.home, self.port, self.token = home, port, token
        (home / "tokens").write_text(f"{token},admin,admin,system:masters\n")
        run(["openssl", "genrsa", "-out", home / "accounts.key", "2048"])
        self._certify("front", FRONT)
        self._certify("records", f"{RECORDS}.{NAMESPACE}.svc")
        url = "http://127.0.0.1:{}".format
        Process("etcd", [
            programs / "etcd", "--data-dir", folder / "etcd", "--log-level", "error",
            "--listen-client-urls", url(clients), "--advertise-client-urls", url(clients),
            "--listen-peer-urls", url(peers), "--initial-advertise-peer-urls", url(peers),
            "--initial-cluster", f"default={url(peers)}",
        ], folder / "etcd.log")
        server = Process("kube-apiserver", [
            programs / "kube-apiserver", "--etcd-servers", url(clients),
            "--bind-address", "127.0.0.1", "--secure-port", str(port), "--cert-dir", home / "certs",
            "--token-auth-file", home / "tokens", "--authorization-mode", "RBAC",
            "--service-cluster-ip-range", "10.0.0.0/24", "--disable-admission-plugins", "ServiceAccount",
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", home / "accounts.key",
            "--service-account-signing-key-file", home / "accounts.key",
            "--requestheader-client-ca-file", home / "front/ca.crt", "--requestheader-allowed-names", FRONT,
            "--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
            "--requestheader-extra-headers-prefix", "X-Remote-Extra-",
            "--proxy-client-cert-file", home / "front/tls.crt", "--proxy-client-key-file", home / "front/tls.key",
        ], folder / "kube-apiserver.log")
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(home / "certs/apiserver.crt"),
                   "tls-server-name": "kubernetes"}
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": cluster}],
            "users": [{"name": "bench", "user": {"token": token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench", "namespace": NAMESPACE}}],
        }))
        server.answers(self._is_ready)
        self.kubectl("apply", "--server-side", "-f", crds)
        self.kubectl("create", "namespace", NAMESPACE)
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")

    def environment(self):
        return os.environ | {"KUBECONFIG": str(self.kubeconfig)}

    def _is_ready(self):
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except Failed:
            return False

    def kubectl(self, *arguments, stdin=None):
        return run([self.programs / "kubectl", *arguments], env=self.environment(), input=stdin)

    def _certify(self, name, of):
        """A certificate for a name, of an authority of its own."""
        folder = self.home / name
        folder.mkdir()
        ca, key, request = folder / "ca.crt", folder / "tls.key", folder / "tls.csr"
        (folder / "names").write_text(f"subjectAltName=DNS:{of}")
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=bench",
             "-keyout", folder / "ca.key", "-out", ca])
        run(["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={of}", "-keyout", key, "-out", request])
        run(["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", folder / "ca.key", "-CAcreateserial",
             "-days", "30", "-extfile", folder / "names", "-out", folder / "tls.crt"])

    def register_records(self, port):
        """Names the records API at a port of this machine. Returns the folder with its certificate."""
        folder = self.home / "records"
        self.apply([
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": RECORDS, "namespace": NAMESPACE},
             "spec": {"type": "ExternalName", "externalName": "localhost"}},
            {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
             "metadata": {"name": "v1alpha1.records.tablemap.dev"},
             "spec": {"group": "records.tablemap.dev", "version": "v1alpha1", "groupPriorityMinimum": 1000,
                      "versionPriority": 10, "service": {"name": RECORDS, "namespace": NAMESPACE, "port": port},
                      "caBundle": base64.b64encode((folder / "ca.crt").read_bytes()).decode()}},
        ])
        return folder

    def connect(self, *names):
        """For patches whose time is measured: of each map what patches it, all by one connection."""
        ask = self._asker()

        def of(name):
            path = f"/apis/tablemap.dev/v1alpha1/namespaces/{NAMESPACE}/tablemaps/{name}"
            return lambda spec: ask("PATCH", path, json.dumps({"spec": spec}))

        return [of(name) for name in names]

    def reader(self):
        """For reads whose time is measured."""
        ask = self._asker()
        return lambda path: ask("GET", path, None)

    def _asker(self):
        """A connection that is open already: kubectl takes longer to start."""
        context = ssl.create_default_context(cafile=self.home / "certs/apiserver.crt")
        # The certificate names `kubernetes`, and not the address.
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/merge-patch+json"}

        def ask(method, path, body):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise Failed(f"the API server has refused a {method}: {text.decode()[:500]}")
            return json.loads(text)

        return ask

    def apply(self, objects):
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "-f", "-", stdin=text)
