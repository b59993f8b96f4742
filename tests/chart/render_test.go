package chart

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	certificates "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

// foreign are the kinds of others, as their own types have them.
var foreign = map[string]func() any{
	"PodMonitor":     func() any { return &monitoring.PodMonitor{} },
	"PrometheusRule": func() any { return &monitoring.PrometheusRule{} },
	"Certificate":    func() any { return &certificates.Certificate{} },
	"Issuer":         func() any { return &certificates.Issuer{} },
}

// conforms checks manifests against the schemas in a folder.
func conforms(t *testing.T, folder, manifests string) {
	t.Helper()
	var kinds []string
	for kind := range foreign {
		kinds = append(kinds, kind)
	}
	command := exec.Command(tool(t, "CHART_TOOLS", "kubeconform"), "-strict", "-summary", "-skip", strings.Join(kinds, ","),
		"-schema-location", filepath.Join(folder, "{{.ResourceKind}}{{.KindSuffix}}.json"))
	command.Stdin = strings.NewReader(manifests)
	t.Log(strings.TrimSpace(run(t, command)))
}

// Each value set passes lint, and renders what the API server knows.
func TestValueSets(t *testing.T) {
	folder := schemas(t)
	for _, values := range valueSets(t) {
		t.Run(filepath.Base(values), func(t *testing.T) {
			helm(t, append([]string{"lint", "--strict", "--quiet", chartPath}, withValues(values)...)...)
			manifests := template(t, withValues(values)...)
			conforms(t, folder, manifests)
			for _, found := range documents(t, manifests) {
				known(t, found)
			}
		})
	}
}

func examples(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(chartPath + "/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	return files
}

func TestExamples(t *testing.T) {
	folder := schemas(t)
	for _, file := range examples(t) {
		conforms(t, folder, read(t, filepath.Join("charts/tablemap/examples", filepath.Base(file))))
	}
}

// known reads an object of a foreign kind by its type, which names all fields.
func known(t *testing.T, found object) {
	t.Helper()
	make, ok := foreign[found["kind"].(string)]
	if !ok {
		return
	}
	text, err := yaml.Marshal(found)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, make()); err != nil {
		t.Errorf("%s: %v", found["kind"], err)
	}
}

// Named namespaces need nothing of the cluster.
func TestNamedNamespaces(t *testing.T) {
	allowed := []string{"ServiceAccount", "Role", "RoleBinding", "Deployment", "PodDisruptionBudget"}
	for _, found := range documents(t, template(t, withValues(chartPath+"/ci/namespaced-values.yaml")...)) {
		kind := found["kind"].(string)
		if !slices.Contains(allowed, kind) || at(found, "metadata", "namespace") == nil {
			t.Errorf("%s %v", kind, at(found, "metadata", "name"))
		}
	}
}

// Values that contradict each other are refused with a sentence.
func TestContradictions(t *testing.T) {
	for sentence, values := range map[string]string{
		"operator.serviceAccount.name is needed": "operator.serviceAccount.create=false",
		"no operator looks after stock":          "redis.enabled=true,redis.namespaces={stock},watchNamespaces={sales}",
		"redis.enabled: defaultQueue is needed":  "redis.enabled=true,defaultQueue=",
	} {
		said, err := exec.Command(tool(t, "CHART_TOOLS", "helm"), "template", chartPath, "--set", values).CombinedOutput()
		if err == nil || !strings.Contains(string(said), sentence) {
			t.Errorf("%s: %v, %s", values, err, said)
		}
	}
}
