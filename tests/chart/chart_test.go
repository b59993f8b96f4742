// Package chart checks charts/tablemap by the tools that hack/chart-test.sh builds.
package chart

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	root      = "../.."
	chartPath = root + "/charts/tablemap"
	namespace = "tablemap-system"
)

type object = map[string]any

// tool is a program of hack/chart-test.sh or hack/build-kubernetes.sh.
func tool(t *testing.T, variable, name string) string {
	t.Helper()
	folder := os.Getenv(variable)
	if folder == "" {
		t.Skipf("%s is not set: run make chart-test", variable)
	}
	return filepath.Join(folder, name)
}

func helm(t *testing.T, arguments ...string) string {
	t.Helper()
	return run(t, exec.Command(tool(t, "CHART_TOOLS", "helm"), arguments...))
}

func run(t *testing.T, command *exec.Cmd) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %v\n%s%s", command.Args, err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents are the objects of a YAML text.
func documents(t *testing.T, text string) []object {
	t.Helper()
	var objects []object
	for _, part := range strings.Split("\n"+text, "\n---\n") {
		var parsed object
		if err := yaml.Unmarshal([]byte(part), &parsed); err != nil {
			t.Fatalf("%v in:\n%s", err, part)
		}
		if parsed != nil {
			objects = append(objects, parsed)
		}
	}
	return objects
}

// valueSets are the files of values that the chart is rendered with; the first is none.
func valueSets(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(chartPath + "/ci/*-values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no value sets: %v", err)
	}
	return append([]string{""}, files...)
}

// withValues are the arguments that tell helm of a value set.
func withValues(file string) []string {
	if file == "" {
		return nil
	}
	return []string{"--values", file}
}

func template(t *testing.T, arguments ...string) string {
	t.Helper()
	command := []string{"template", "tablemap", chartPath, "--namespace", namespace}
	return helm(t, append(command, arguments...)...)
}

func find(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	for _, found := range objects {
		if found["kind"] == kind && at(found, "metadata", "name") == name {
			return found
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

// at follows keys, and is nil where there is nothing.
func at(value any, keys ...string) any {
	for _, key := range keys {
		fields, ok := value.(object)
		if !ok {
			return nil
		}
		value = fields[key]
	}
	return value
}
