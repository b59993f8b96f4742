package chart

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// schemas writes what kubeconform needs into a folder: the builtin kinds, from the document that Kubernetes publishes, and
// ours, from the CRDs. What a schema does not name is refused.
func schemas(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	builtin(t, folder)
	for _, crd := range documents(t, read(t, "crds/tablemap.dev.yaml")) {
		ours(t, folder, crd)
	}
	return folder
}

func builtin(t *testing.T, folder string) {
	t.Helper()
	// The module is there, or comes by the module proxy: the API server is built of it.
	command := exec.Command("go", "mod", "download", "-json", "k8s.io/kubernetes")
	command.Dir = filepath.Join(root, "tests/cluster")
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(run(t, command)), &module); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(module.Dir, "api/openapi-spec/swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	var swagger struct{ Definitions map[string]object }
	if err := json.Unmarshal(text, &swagger); err != nil {
		t.Fatal(err)
	}
	for _, definition := range swagger.Definitions {
		close_(definition)
	}
	// Values of two types.
	swagger.Definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = object{"type": []string{"string", "integer"}}
	swagger.Definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = object{"type": []string{"string", "number"}}
	for _, definition := range swagger.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 {
			continue
		}
		needed := map[string]object{}
		reach(definition, swagger.Definitions, needed)
		schema := object{"definitions": needed}
		for key, value := range definition {
			schema[key] = value
		}
		kind := kinds[0].(object)
		put(t, folder, kind["kind"].(string), kind["group"].(string), kind["version"].(string), schema)
	}
}

// close_ refuses fields that are not named.
func close_(value any) {
	switch value := value.(type) {
	case object:
		_, named := value["properties"]
		_, open := value["additionalProperties"]
		if named && !open && value["x-kubernetes-preserve-unknown-fields"] != true {
			value["additionalProperties"] = false
		}
		for _, inner := range value {
			close_(inner)
		}
	case []any:
		for _, inner := range value {
			close_(inner)
		}
	}
}

// reach collects what a schema refers to.
func reach(value any, all, needed map[string]object) {
	switch value := value.(type) {
	case object:
		if reference, ok := value["$ref"].(string); ok {
			name := strings.TrimPrefix(reference, "#/definitions/")
			if _, known := needed[name]; !known {
				needed[name] = all[name]
				reach(all[name], all, needed)
			}
		}
		for _, inner := range value {
			reach(inner, all, needed)
		}
	case []any:
		for _, inner := range value {
			reach(inner, all, needed)
		}
	}
}

func ours(t *testing.T, folder string, crd object) {
	t.Helper()
	spec := crd["spec"].(object)
	for _, version := range spec["versions"].([]any) {
		schema := at(version, "schema", "openAPIV3Schema").(object)
		properties := schema["properties"].(object)
		for _, name := range []string{"apiVersion", "kind"} {
			properties[name] = object{"type": "string"}
		}
		properties["metadata"] = object{"type": "object"}
		close_(schema)
		group, kind := spec["group"].(string), at(spec, "names", "kind").(string)
		put(t, folder, kind, group, at(version, "name").(string), schema)
	}
}

func put(t *testing.T, folder, kind, group, version string, schema object) {
	t.Helper()
	text, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	// As kubeconform has it: the group's first part only.
	name := kind
	if group != "" {
		name += "-" + strings.Split(group, ".")[0]
	}
	name = strings.ToLower(fmt.Sprintf("%s-%s.json", name, version))
	if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}
