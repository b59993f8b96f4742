package chart

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What the program prints is what the chart installs.
func TestCRDs(t *testing.T) {
	source := read(t, "crds/tablemap.dev.yaml")
	if source != read(t, "charts/tablemap/files/crds.yaml") {
		t.Fatal("charts/tablemap/files/crds.yaml differs from crds/tablemap.dev.yaml: run make crds")
	}
	for _, keep := range []string{"true", "false"} {
		var kept []object
		for _, found := range documents(t, template(t, "--set", "crds.keep="+keep)) {
			if found["kind"] == "CustomResourceDefinition" {
				kept = append(kept, found)
			}
		}
		wanted := documents(t, source)
		if len(kept) != len(wanted) {
			t.Fatalf("%d CRDs instead of %d", len(kept), len(wanted))
		}
		for index, found := range kept {
			policy := at(found, "metadata", "annotations", "helm.sh/resource-policy")
			if (policy == "keep") != (keep == "true") {
				t.Errorf("%v has the policy %v", at(found, "metadata", "name"), policy)
			}
			if !equal(t, found["spec"], wanted[index]["spec"]) {
				t.Errorf("%v is another than the program's", at(found, "metadata", "name"))
			}
		}
	}
}

func equal(t *testing.T, one, other any) bool {
	t.Helper()
	texts := [2]string{}
	for index, value := range []any{one, other} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		texts[index] = string(text)
	}
	return texts[0] == texts[1]
}

func TestVersions(t *testing.T) {
	version := regexp.MustCompile(`(?m)^version = "(.*)"$`).FindStringSubmatch(read(t, "Cargo.toml"))[1]
	chart := documents(t, read(t, "charts/tablemap/Chart.yaml"))[0]
	if chart["version"] != version || chart["appVersion"] != version {
		t.Errorf("Chart.yaml is of %v and %v, and Cargo.toml of %s", chart["version"], chart["appVersion"], version)
	}
}

// The operator is given flags that it has.
func TestFlags(t *testing.T) {
	source := read(t, "src/cli.rs")
	for _, values := range valueSets(t) {
		for _, found := range documents(t, template(t, withValues(values)...)) {
			if found["kind"] != "Deployment" {
				continue
			}
			containers := at(found, "spec", "template", "spec", "containers").([]any)
			for _, argument := range at(containers[0], "args").([]any)[1:] {
				name, _, _ := strings.Cut(strings.TrimPrefix(argument.(string), "--"), "=")
				field := strings.ReplaceAll(name, "-", "_")
				if !regexp.MustCompile(`(?m)^    `+field+`: `).MatchString(source) && !strings.Contains(source, `long = "`+name+`"`) {
					t.Errorf("src/cli.rs has no %s", argument)
				}
			}
		}
	}
}

// The operator may what docs/operate.md says that it needs, and no more.
func TestRights(t *testing.T) {
	role := find(t, documents(t, template(t)), "ClusterRole", "tablemap-operator-"+namespace)
	given := map[[3]string]bool{}
	for _, rule := range role["rules"].([]any) {
		for _, group := range at(rule, "apiGroups").([]any) {
			for _, resource := range at(rule, "resources").([]any) {
				for _, verb := range at(rule, "verbs").([]any) {
					given[[3]string{group.(string), resource.(string), verb.(string)}] = true
				}
			}
		}
	}
	_, tables, _ := strings.Cut(read(t, "docs/operate.md"), "The service account needs:")
	tables, _, _ = strings.Cut(tables, "\n## ")
	needed := map[[3]string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([a-z.0-9()]+) \| ([a-z, /]+) \| ([a-z, ]+) \|$`).FindAllStringSubmatch(tables, -1) {
		for _, resource := range strings.Split(row[2], ", ") {
			for _, verb := range strings.Split(row[3], ", ") {
				needed[[3]string{strings.TrimPrefix(row[1], "(core)"), resource, verb}] = true
			}
		}
	}
	if len(needed) == 0 || !maps.Equal(given, needed) {
		t.Errorf("given %v\nneeded %v", given, needed)
	}
}

// Whoever only operates a map may change its state, and no field that was forgotten.
func TestOperateOnly(t *testing.T) {
	policy := find(t, documents(t, template(t)), "ValidatingAdmissionPolicy", "tablemap-operate-only")
	var named []string
	for _, variable := range at(policy, "spec", "variables").([]any) {
		if at(variable, "name") == "rest" {
			for _, quoted := range regexp.MustCompile(`'(\w+)'`).FindAllStringSubmatch(at(variable, "expression").(string), -1) {
				named = append(named, quoted[1])
			}
		}
	}
	wanted := specFields(t, "TableMap")
	wanted = slices.DeleteFunc(wanted, func(field string) bool { return field == "state" || field == "pauseUntilTime" })
	slices.Sort(named)
	slices.Sort(wanted)
	if !slices.Equal(named, wanted) {
		t.Errorf("it guards %v, and a spec has %v", named, wanted)
	}
}

func specFields(t *testing.T, kind string) []string {
	t.Helper()
	var fields []string
	for _, crd := range documents(t, read(t, "crds/tablemap.dev.yaml")) {
		if at(crd, "spec", "names", "kind") != kind {
			continue
		}
		version := at(crd, "spec", "versions").([]any)[0]
		for field := range at(version, "schema", "openAPIV3Schema", "properties", "spec", "properties").(object) {
			fields = append(fields, field)
		}
	}
	return fields
}

// Each value has a comment and stands in the schema, and the schema knows no other.
func TestValues(t *testing.T) {
	text := read(t, "charts/tablemap/values.yaml")
	var schema object
	if err := json.Unmarshal([]byte(read(t, "charts/tablemap/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	values := documents(t, text)[0]
	same(t, "", values, schema)
	closed(t, "", schema)

	lines := strings.Split(text, "\n")
	commented := map[int]bool{}
	for index, line := range lines {
		name := regexp.MustCompile(`^( *)([A-Za-z_]+):`).FindStringSubmatch(line)
		if name == nil {
			continue
		}
		depth := len(name[1]) / 2
		before := strings.HasPrefix(strings.TrimSpace(lines[index-1]), "#")
		// What lies within a commented value that the schema leaves open needs none.
		commented[depth] = before
		group := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), name[2]+":")) == ""
		inherited := depth > 0 && commented[depth-1]
		if !before && !group && !inherited {
			t.Errorf("%s has no comment", strings.TrimSpace(line))
		}
	}
}

// same compares names of values with those of a schema.
func same(t *testing.T, path string, values, schema object) {
	t.Helper()
	properties, ok := schema["properties"].(object)
	if !ok {
		return
	}
	for name, value := range values {
		property, known := properties[name].(object)
		if !known {
			t.Errorf("%s.%s is not in the schema", path, name)
			continue
		}
		if fields, ok := value.(object); ok {
			same(t, path+"."+name, fields, property)
		}
	}
	for name := range properties {
		if _, known := values[name]; !known && path+name != "global" && !strings.HasSuffix(path, "issuerRef") {
			t.Errorf("%s.%s is in the schema only", path, name)
		}
	}
}

// closed sees that no object with named fields takes others.
func closed(t *testing.T, path string, value any) {
	t.Helper()
	switch value := value.(type) {
	case object:
		if _, named := value["properties"].(object); named && value["type"] == "object" && value["additionalProperties"] != false {
			t.Errorf("%s takes any field", path)
		}
		for name, inner := range value {
			closed(t, path+"."+name, inner)
		}
	case []any:
		for _, inner := range value {
			closed(t, path, inner)
		}
	}
}
