"""A Kubernetes API with its etcd, and kubectl."""

import http.client
import json
import os
import secrets
import ssl

from .process import Failed, Process, free_port, run

NAMESPACE = "bench"


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

    def connect(self, name):
        """A connection that is open already, for patches whose time is measured: kubectl takes longer to start."""
        context = ssl.create_default_context(cafile=self.home / "certs/apiserver.crt")
        # The certificate names `kubernetes`, and not the address.
        context.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        path = f"/apis/tablemap.dev/v1alpha1/namespaces/{NAMESPACE}/tablemaps/{name}"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/merge-patch+json"}

        def patch(spec):
            connection.request("PATCH", path, json.dumps({"spec": spec}), headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise Failed(f"the API server has refused a patch: {text.decode()[:500]}")

        return patch

    def apply(self, objects):
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "-f", "-", stdin=text)
