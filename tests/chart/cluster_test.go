package chart

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// cluster is a Kubernetes API with its etcd, and those controllers that the chart needs. There is no kubelet.
type cluster struct {
	t      *testing.T
	folder string
}

func start(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, folder: t.TempDir()}
	clients, peers, port := freePort(t), freePort(t), freePort(t)
	url := func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }
	c.write("tokens", "admin-token,admin,admin,\"system:masters\"\n")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c.write("key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	c.spawn("etcd", "--data-dir", c.path("etcd"), "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", url(clients), "--advertise-client-urls", url(clients),
		"--listen-peer-urls", url(peers), "--initial-advertise-peer-urls", url(peers), "--initial-cluster", "default="+url(peers))
	c.spawn("kube-apiserver", "--etcd-servers", url(clients), "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(port),
		"--cert-dir", c.path("certs"), "--token-auth-file", c.path("tokens"), "--authorization-mode", "RBAC",
		"--service-cluster-ip-range", "10.0.0.0/24", "--disable-admission-plugins", "ServiceAccount",
		"--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", c.path("key"), "--service-account-signing-key-file", c.path("key"))
	c.write("kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:%d', certificate-authority: %s, tls-server-name: kubernetes}}]
users: [{name: u, user: {token: admin-token}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, port, c.path("certs/apiserver.crt")))
	c.until("the API server", func() bool { return c.command("get", "--raw", "/readyz").Run() == nil })
	c.spawn("kube-controller-manager", "--kubeconfig", c.path("kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--secure-port=0", "--controllers=clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller")
	return c
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func (c *cluster) path(name string) string { return filepath.Join(c.folder, name) }

func (c *cluster) write(name, text string) string {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return c.path(name)
}

func (c *cluster) spawn(name string, arguments ...string) {
	c.t.Helper()
	c.serve(name, tool(c.t, "KUBERNETES_BIN", name), arguments...)
}

// serve starts a server, which ends with the test, even if that is killed.
func (c *cluster) serve(name, program string, arguments ...string) *exec.Cmd {
	c.t.Helper()
	command := exec.Command(program, arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(c.path(name + ".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if c.t.Failed() {
			if text, err := os.ReadFile(log.Name()); err == nil {
				c.t.Logf("the end of %s:\n%s", log.Name(), text[max(0, len(text)-2000):])
			}
		}
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return command
}

func (c *cluster) until(what string, holds func() bool) {
	c.t.Helper()
	for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if holds() {
			return
		}
	}
	c.t.Fatalf("waited in vain for %s", what)
}

// command is kubectl.
func (c *cluster) command(arguments ...string) *exec.Cmd {
	command := exec.Command(tool(c.t, "KUBERNETES_BIN", "kubectl"), arguments...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.path("kubeconfig"))
	return command
}

func (c *cluster) kubectl(arguments ...string) string {
	c.t.Helper()
	return strings.TrimSpace(run(c.t, c.command(arguments...)))
}

// refused is what kubectl says when it fails.
func (c *cluster) refused(arguments ...string) string {
	c.t.Helper()
	said, err := c.command(arguments...).CombinedOutput()
	if err == nil {
		c.t.Errorf("%v was not refused: %s", arguments, said)
	}
	return string(said)
}

func (c *cluster) helm(arguments ...string) {
	c.t.Helper()
	helm(c.t, append(arguments, "--namespace", namespace, "--kubeconfig", c.path("kubeconfig"))...)
}

func (c *cluster) get(jsonpath string, arguments ...string) string {
	c.t.Helper()
	return c.kubectl(append(append([]string{"get"}, arguments...), "-o", "jsonpath="+jsonpath)...)
}

const operator = "system:serviceaccount:" + namespace + ":tablemap-operator"

// aMap is one of the same table on both sides; more is more of its spec.
func aMap(namespace, name string, more ...string) string {
	lines := append([]string{"spec:"}, more...)
	return fmt.Sprintf(`
apiVersion: tablemap.dev/v1alpha1
kind: TableMap
metadata: {name: %[2]s, namespace: %[1]s}
%[3]s
  source: {connectionRef: {name: crm}, table: {name: %[2]s}}
  destination: {connectionRef: {name: erp}, table: {name: %[2]s}}
  integrationKey: [id]
  fields: [{destination: id, source: id}]
`, namespace, name, strings.Join(lines, "\n  "))
}

// aLargeMap has as many fields as a map may have, with value maps, up to what etcd takes.
func aLargeMap() string {
	var text strings.Builder
	small := aMap("sales", "customers")
	text.WriteString(small[:strings.LastIndex(small, "  fields:")] + "  fields:\n  - {destination: id, source: id}\n")
	for field := range 511 {
		entries := "{from: \"%[1]d-%[2]d\", to: \"a value of a usual length\"},"
		var list strings.Builder
		for entry := range 40 {
			fmt.Fprintf(&list, entries, field, entry)
		}
		fmt.Fprintf(&text, "  - {destination: column_%[1]d, source: column_%[1]d, transforms: [{valueMap: {entries: [%s]}}]}\n", field, list.String())
	}
	return text.String()
}

// On a real API server: it is installed and upgraded, gives each what he needs and no more, and leaves the maps there.
func TestCluster(t *testing.T) {
	c := start(t)
	for _, name := range []string{namespace, "sales", "stock"} {
		c.kubectl("create", "namespace", name)
	}
	redis := []string{"--set", "redis.enabled=true", "--set", "redis.namespaces={sales,stock}"}
	c.helm(append([]string{"install", "tablemap", chartPath}, redis...)...)

	c.keepsSecrets(t, redis)
	c.takesAll(t)
	c.takesExamples(t)
	c.isNotFought(t)
	c.isRestricted(t)
	c.operatorMay(t)
	c.peopleMay(t)
	c.leavesTheMaps(t)
	c.helm(append([]string{"install", "tablemap", chartPath}, redis...)...)
}

func (c *cluster) leavesTheMaps(t *testing.T) {
	c.helm("uninstall", "tablemap")
	if found := c.get("{.items[*].metadata.name}", "tablemaps", "-n", "sales"); found != "customers" {
		t.Errorf("maps: %q", found)
	}
	if found := c.get("{.items[*].metadata.name}", "clusterroles", "-l", "app.kubernetes.io/instance=tablemap"); found != "" {
		t.Errorf("roles: %q", found)
	}
}

// What was made once stays over upgrades, also while nobody serves the records API.
func (c *cluster) keepsSecrets(t *testing.T, values []string) {
	secrets := func() string {
		return c.get("{.data}", "secret", "tablemap-records-tls", "-n", namespace) +
			c.get("{.data}", "secret", "tablemap-redis", "-n", "sales") +
			c.get("{.spec.caBundle}", "apiservice", "v1alpha1.records.tablemap.dev") +
			c.get("{.spec.template.metadata.annotations}", "statefulset", "tablemap-redis", "-n", namespace)
	}
	// As the operators do.
	c.kubectl("patch", "secret", "tablemap-records-tls", "-n", namespace, "--type=merge", "-p", `{"data":{"tls.crt":"Y3J0","tls.key":"a2V5","ca.crt":"Y2E="}}`)
	c.kubectl("patch", "apiservice", "v1alpha1.records.tablemap.dev", "--type=merge", "-p", `{"spec":{"caBundle":"Y2E="}}`)
	before := secrets()
	queue := c.get("{.metadata.uid}", "connection", "queue", "-n", "sales")
	for range 2 {
		c.helm(append([]string{"upgrade", "tablemap", chartPath}, values...)...)
	}
	if secrets() != before {
		t.Errorf("an upgrade has made a certificate or a password anew: %s", secrets())
	}
	if c.get("{.metadata.uid}", "connection", "queue", "-n", "sales") != queue {
		t.Error("an upgrade has made the Connection anew")
	}
}

// The API server takes all that is rendered of our and its own kinds.
func (c *cluster) takesAll(t *testing.T) {
	for _, values := range valueSets(t) {
		var texts []string
		for _, found := range documents(t, template(t, append(withValues(values), "--api-versions", "tablemap.dev/v1alpha1/Connection")...)) {
			if _, skipped := foreign[found["kind"].(string)]; skipped {
				continue
			}
			text, err := yaml.Marshal(found)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(text))
		}
		file := c.write("manifests.yaml", strings.Join(texts, "---\n"))
		c.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", file)
	}
}

// It takes the examples too, whose rules no schema tells.
func (c *cluster) takesExamples(t *testing.T) {
	for _, file := range examples(t) {
		c.kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-n", "default", "-f", file)
	}
}

// Pods may be made where the standard "restricted" is enforced.
func (c *cluster) isRestricted(t *testing.T) {
	c.kubectl("create", "namespace", "strict")
	c.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
	objects := documents(t, template(t, "--set", "redis.enabled=true"))
	for kind, name := range map[string]string{"Deployment": "tablemap-operator", "StatefulSet": "tablemap-redis"} {
		pod := at(find(t, objects, kind, name), "spec", "template").(object)
		pod["apiVersion"], pod["kind"] = "v1", "Pod"
		pod["metadata"].(object)["name"] = strings.ToLower(kind)
		if kind == "StatefulSet" {
			// The claim's.
			volumes := pod["spec"].(object)["volumes"].([]any)
			pod["spec"].(object)["volumes"] = append(volumes, object{"name": "data", "emptyDir": object{}})
		}
		text, err := yaml.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		c.kubectl("create", "-n", "strict", "--dry-run=server", "-f", c.write(kind, string(text)))
	}
}

// The operator may make what a worker needs, by what it has itself, and nothing beyond.
func (c *cluster) operatorMay(t *testing.T) {
	worker := `
apiVersion: v1
kind: ServiceAccount
metadata: {name: worker, namespace: sales}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: worker, namespace: sales}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: worker, namespace: sales}
rules:
- {apiGroups: [tablemap.dev], resources: [connections], verbs: [get]}
- {apiGroups: [tablemap.dev], resources: [tablemaps, tablemapoperations], verbs: [list, watch]}
- {apiGroups: [tablemap.dev], resources: [connections/status, tablemaps/status, tablemapoperations/status], verbs: [patch]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, update], resourceNames: [worker]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
- {apiGroups: [""], resources: [secrets], verbs: [get], resourceNames: [login]}
- {apiGroups: [""], resources: [configmaps], verbs: [get], resourceNames: [roots]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: worker, namespace: sales}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: worker}
subjects: [{kind: ServiceAccount, name: worker, namespace: sales}]
`
	as := "--as=" + operator
	file := c.write("worker.yaml", worker)
	// As the operator does it: applied without being read before.
	for _, part := range strings.Split(worker, "---\n") {
		one := c.write("one.yaml", part)
		c.kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=tablemap-operator", "-f", one, as, "--validate=ignore")
	}
	c.kubectl("delete", "--wait=false", "-f", file)
	more := c.write("more.yaml", strings.Replace(strings.Split(worker, "---\n")[2], "verbs: [get, update]", "verbs: ['*']", 1))
	if said := c.refused("apply", "--server-side", "-f", more, as, "--validate=ignore"); !strings.Contains(said, "attempting to grant") {
		t.Error(said)
	}
	for _, never := range []right{
		{"list", "", "secrets"}, {"watch", "", "secrets"}, {"create", "", "secrets"}, {"create", "", "pods"}, {"create", "", "pods/exec"},
		{"escalate", "rbac.authorization.k8s.io", "roles"}, {"bind", "rbac.authorization.k8s.io", "roles"},
		{"create", "rbac.authorization.k8s.io", "clusterroles"}, {"create", "rbac.authorization.k8s.io", "clusterrolebindings"},
		{"configure", "tablemap.dev", "tablemaps"}, {"create", "tablemap.dev", "tablemaps"}, {"delete", "tablemap.dev", "tablemaps"},
		{"impersonate", "", "users"}, {"list", "", "nodes"}, {"create", "authentication.k8s.io", "tokenreviews"}, {"update", "", "secrets:login"},
		{"patch", "apiregistration.k8s.io", "apiservices:v1.apps"}, {"create", "apiregistration.k8s.io", "apiservices"},
	} {
		c.may(t, operator, "sales", never, false)
	}
	for place, rights := range map[string][]right{
		"": {{"watch", "tablemap.dev", "tablemaps"}, {"create", "authorization.k8s.io", "subjectaccessreviews"},
			{"patch", "apiregistration.k8s.io", "apiservices:v1alpha1.records.tablemap.dev"}},
		"kube-system": {{"watch", "", "configmaps:extension-apiserver-authentication"}},
		namespace: {{"update", "coordination.k8s.io", "leases:tablemap-operator"}, {"create", "coordination.k8s.io", "leases"},
			{"update", "", "secrets:tablemap-records-tls"}},
		"stock": {{"get", "", "secrets"}},
	} {
		for _, right := range rights {
			c.may(t, operator, place, right, true)
		}
	}
}

// right is a verb, and the group and resource (resource/subresource, resource:name) that it is for.
type right struct{ verb, group, resource string }

// may asks the API server, which need not know the resource.
func (c *cluster) may(t *testing.T, user, place string, right right, yes bool) {
	t.Helper()
	resource, name, _ := strings.Cut(right.resource, ":")
	resource, subresource, _ := strings.Cut(resource, "/")
	review, err := yaml.Marshal(object{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
		"spec": object{"user": user, "resourceAttributes": object{
			"verb": right.verb, "group": right.group, "resource": resource, "subresource": subresource, "name": name, "namespace": place,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	answer := c.kubectl("create", "-f", c.write("review.yaml", string(review)), "-o", "jsonpath={.status.allowed}")
	if (answer == "true") != yes {
		t.Errorf("%s, %v in %q: %s", user, right, place, answer)
	}
}

// Whoever operates may pause; whoever edits may configure; nobody says that another has made an operation.
func (c *cluster) peopleMay(t *testing.T) {
	c.kubectl("apply", "--server-side", "-f", c.write("map.yaml", aMap("sales", "customers")))
	for name, role := range map[string]string{"ops": "tablemap-operate", "dev": "edit", "eve": "view", "own": "admin", "see": "tablemap-payload-view"} {
		c.kubectl("create", "rolebinding", name, "-n", "sales", "--clusterrole="+role, "--user="+name)
	}
	patch := func(user, change string) []string {
		return []string{"patch", "tm/customers", "-n", "sales", "--type=merge", "-p", change, "--as=" + user}
	}
	// The roles of Kubernetes are put together by a controller, and policies come into force a moment after they are made.
	c.until("what edit may", func() bool {
		return c.command(patch("dev", `{"spec":{"catchUp":{"maxRecordsPerSecond":5}}}`)...).Run() == nil
	})
	c.until("the policies", func() bool {
		said, _ := c.command(patch("ops", `{"spec":{"deletionPolicy":"Discard"}}`)...).CombinedOutput()
		return strings.Contains(string(said), "you may change spec.state and spec.pauseUntilTime only")
	})
	c.kubectl(patch("ops", `{"spec":{"state":"Paused"}}`)...)
	c.kubectl(patch("ops", `{"spec":{"pauseUntilTime":"2026-11-24T22:00:00Z"}}`)...)
	for _, change := range []string{
		`{"spec":{"deletionPolicy":"Discard"}}`, `{"spec":{"catchUp":null}}`, `{"spec":{"fields":[{"destination":"id","source":"id"},{"destination":"a","value":"b"}]}}`,
		`{"spec":{"state":"Running","errors":{"maxRecords":1}}}`,
	} {
		if said := c.refused(patch("ops", change)...); !strings.Contains(said, "you may change spec.state and spec.pauseUntilTime only") {
			t.Error(said)
		}
	}
	c.kubectl(patch("dev", `{"spec":{"deletionPolicy":"Discard"}}`)...)
	c.refused(patch("eve", `{"spec":{"state":"Running"}}`)...)
	// Its finalizers the operator may change, though it may not configure: also of the largest map, which costs most to compare.
	c.kubectl("apply", "--server-side", "--force-conflicts", "-f", c.write("map.yaml", aLargeMap()))
	c.kubectl(patch(operator, `{"metadata":{"finalizers":["example.org/test"]}}`)...)
	c.kubectl(patch(operator, `{"metadata":{"finalizers":null}}`)...)
	c.kubectl(patch("ops", `{"spec":{"state":"Running"}}`)...)

	operation := func(by string) string {
		return c.write("operation.yaml", fmt.Sprintf(`
apiVersion: tablemap.dev/v1alpha1
kind: TableMapOperation
metadata: {generateName: customers-, namespace: sales, annotations: {%s}}
spec: {tableMapRef: {name: customers}, action: Retry, from: Errors, selection: {type: All}}
`, by))
	}
	if said := c.refused("create", "-f", operation("tablemap.dev/created-by: dev"), "--as=ops"); !strings.Contains(said, "your own user name") {
		t.Error(said)
	}
	c.kubectl("create", "-f", operation("example.org/a: b"), "--as=ops")
	made := c.kubectl("create", "-f", operation("tablemap.dev/created-by: ops"), "--as=ops", "-o", "name")
	if said := c.refused("annotate", made, "-n", "sales", "--overwrite", "tablemap.dev/created-by=dev"); !strings.Contains(said, "must not change") {
		t.Error(said)
	}
	maps, records := "tablemap.dev", "records.tablemap.dev"
	for user, rights := range map[string]map[right]bool{
		"eve": {{"get", maps, "tablemaps"}: true, {"get", records, "recorderrors"}: false},
		"ops": {{"list", records, "queuedrecords"}: true, {"patch", maps, "connections"}: false, {"get", records, "recorderrors/payload"}: false},
		"dev": {{"list", records, "queuedrecords"}: true, {"create", maps, "tablemaps"}: true, {"patch", maps, "connections"}: false, {"get", records, "recorderrors/payload"}: false},
		"own": {{"patch", maps, "connections"}: true, {"configure", maps, "tablemaps"}: true, {"get", records, "queuedrecords/payload"}: false},
		"see": {{"get", records, "queuedrecords/payload"}: true, {"list", records, "queuedrecords"}: false},
	} {
		for right, yes := range rights {
			c.may(t, user, "sales", right, yes)
		}
	}
	for _, policy := range []string{"tablemap-operate-only", "tablemap-operation-creator"} {
		c.until("a look at "+policy, func() bool {
			return c.get("{.status.observedGeneration}", "validatingadmissionpolicy", policy) != ""
		})
		if warnings := c.get("{.status.typeChecking}", "validatingadmissionpolicy", policy); strings.Contains(warnings, "warning") {
			t.Errorf("%s: %s", policy, warnings)
		}
	}
}
