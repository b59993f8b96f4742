package chart

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/google/cel-go/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// samples are objects as the API server has them; their annotations tell what GitOps tools are to make of them.
func samples(t *testing.T, kind string) []object {
	t.Helper()
	found := documents(t, read(t, "tests/chart/samples/"+strings.ToLower(kind)+".yaml"))
	if len(found) == 0 {
		t.Fatalf("no samples of %s", kind)
	}
	return found
}

var kinds = []string{"TableMap", "Connection", "TableMapOperation"}

func eachSample(t *testing.T, expected string, look func(t *testing.T, sample object, wanted string)) {
	t.Helper()
	for _, kind := range kinds {
		for _, sample := range samples(t, kind) {
			wanted, _ := at(sample, "metadata", "annotations", "expect/"+expected).(string)
			t.Run(fmt.Sprint(kind, "/", at(sample, "metadata", "name")), func(t *testing.T) { look(t, sample, wanted) })
		}
	}
}

// Samples have the shape that the CRDs give, and say what the program says.
func TestSamples(t *testing.T) {
	folder := t.TempDir()
	for _, crd := range documents(t, read(t, "crds/tablemap.dev.yaml")) {
		ours(t, folder, crd)
	}
	for _, kind := range kinds {
		conforms(t, folder, read(t, "tests/chart/samples/"+strings.ToLower(kind)+".yaml"))
	}
	phases := map[string]bool{}
	for _, sample := range samples(t, "TableMap") {
		if phase, ok := at(sample, "status", "phase").(string); ok {
			phases[phase] = true
		}
		said(t, sample)
	}
	for _, phase := range documented(t, "What the phases mean") {
		if !phases[phase] {
			t.Errorf("there is no sample of phase %s", phase)
		}
	}
}

// documented are the first cells of the table below a heading of docs/conditions.md.
func documented(t *testing.T, heading string) []string {
	t.Helper()
	_, section, found := strings.Cut(read(t, "docs/conditions.md"), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/conditions.md has no %s", heading)
	}
	section, _, _ = strings.Cut(section, "\n#")
	var cells []string
	for _, row := range regexp.MustCompile("(?m)^\\| `?(\\w+)`? \\|").FindAllStringSubmatch(section, -1)[1:] {
		cells = append(cells, row[1])
	}
	return cells
}

// said looks that a map's conditions have reasons that docs/conditions.md names, which a Rust test compares with the source.
func said(t *testing.T, sample object) {
	t.Helper()
	name := at(sample, "metadata", "name")
	conditions, _ := at(sample, "status", "conditions").([]any)
	messages := map[any]any{}
	for _, condition := range conditions {
		kind, reason := at(condition, "type").(string), at(condition, "reason").(string)
		messages[kind] = at(condition, "message")
		// The operator sums up what somebody has acted on. Where something is amiss, all three say the same.
		if slices.Contains([]string{"Ready", "Reconciling", "Stalled"}, kind) {
			if at(condition, "observedGeneration") != at(sample, "status", "observedGeneration") {
				t.Errorf("%v: %s is of another generation than the status", name, kind)
			}
			if at(condition, "status") == "True" && messages["Ready"] != messages[kind] {
				t.Errorf("%v: %s says something else than Ready", name, kind)
			}
		}
		// While nobody works, or before, all have these; windows are to come.
		if slices.Contains([]string{"WorkerUnavailable", "Starting", "RequestedByWindow"}, reason) {
			continue
		}
		if !slices.Contains(documented(t, kind), reason) {
			t.Errorf("%v: %s never has the reason %s", name, kind, reason)
		}
	}
}

// What Argo CD shows, by the scripts that gitops/argocd-cm.yaml gives it.
func TestArgoHealth(t *testing.T) {
	settings := documents(t, read(t, "gitops/argocd-cm.yaml"))[0]
	seen := map[string]bool{}
	eachSample(t, "argocd", func(t *testing.T, sample object, wanted string) {
		script, _ := at(settings, "data", fmt.Sprintf("resource.customizations.health.tablemap.dev_%v", sample["kind"])).(string)
		health, message := runLua(t, script, sample)
		if health != wanted || message == "" {
			t.Errorf("it is %q (%s), and should be %q", health, message, wanted)
		}
		seen[fmt.Sprint(sample["kind"], health)] = true
	})
	for _, health := range []string{"Healthy", "Suspended", "Progressing", "Degraded"} {
		if !seen["TableMap"+health] {
			t.Errorf("no TableMap is %s", health)
		}
	}
}

// runLua does it as Argo CD does: no libraries but the base, tables and modules, and a second of time.
func runLua(t *testing.T, script string, sample object) (string, string) {
	t.Helper()
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	state.SetContext(ctx)
	state.SetGlobal("obj", luaValue(state, sample))
	if err := state.DoString(script); err != nil {
		t.Fatal(err)
	}
	result, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("it returns %v", state.Get(-1))
	}
	return result.RawGetString("status").String(), result.RawGetString("message").String()
}

func luaValue(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case float64:
		return lua.LNumber(value)
	case string:
		return lua.LString(value)
	case []any:
		table := state.NewTable()
		for _, inner := range value {
			table.Append(luaValue(state, inner))
		}
		return table
	case object:
		table := state.NewTable()
		for key, inner := range value {
			table.RawSetString(key, luaValue(state, inner))
		}
		return table
	}
	return lua.LNil
}

// What Flux sees of it: kstatus, as its controllers have it.
func TestKstatus(t *testing.T) {
	eachSample(t, "kstatus", func(t *testing.T, sample object, wanted string) {
		result, err := status.Compute(&unstructured.Unstructured{Object: integers(t, sample)})
		if err != nil {
			t.Fatal(err)
		}
		if string(result.Status) != wanted {
			t.Errorf("it is %s (%s), and should be %s", result.Status, result.Message, wanted)
		}
	})
}

// integers are whole numbers as the API's own decoder gives them.
func integers(t *testing.T, sample object) object {
	t.Helper()
	text, err := json.Marshal(sample)
	if err != nil {
		t.Fatal(err)
	}
	var decoded unstructured.Unstructured
	if err := decoded.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	return decoded.Object
}

// What Flux waits for by the expressions of gitops/flux.yaml, in the order in which it looks at them.
func TestFluxExpressions(t *testing.T) {
	checks := at(documents(t, read(t, "gitops/flux.yaml"))[0], "spec", "healthCheckExprs").([]any)
	environment, err := cel.NewEnv(cel.Variable("metadata", cel.DynType), cel.Variable("spec", cel.DynType), cel.Variable("status", cel.DynType))
	if err != nil {
		t.Fatal(err)
	}
	eachSample(t, "flux", func(t *testing.T, sample object, wanted string) {
		if sample["kind"] != "TableMap" || at(sample, "metadata", "deletionTimestamp") != nil {
			return
		}
		check := checks[0].(object)
		if check["kind"] != sample["kind"] || check["apiVersion"] != sample["apiVersion"] {
			t.Fatalf("no expressions for it")
		}
		found := "InProgress"
		for _, answer := range [][2]string{{"inProgress", "InProgress"}, {"failed", "Failed"}, {"current", "Current"}} {
			yes, err := evaluate(t, environment, check[answer[0]].(string), integers(t, sample))
			if err != nil {
				found = "error"
				break
			}
			if yes {
				found = answer[1]
				break
			}
		}
		if found != wanted {
			t.Errorf("it is %s, and should be %s", found, wanted)
		}
	})
}

func evaluate(t *testing.T, environment *cel.Env, expression string, sample object) (bool, error) {
	t.Helper()
	parsed, issues := environment.Compile(expression)
	if issues.Err() != nil {
		t.Fatal(issues.Err())
	}
	program, err := environment.Program(parsed)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for _, name := range []string{"metadata", "spec", "status"} {
		if value, ok := sample[name]; ok {
			values[name] = value
		}
	}
	answer, _, err := program.Eval(values)
	if err != nil {
		return false, err
	}
	return answer.Value() == true, nil
}

// A default within a list is a difference to those who compare lists as a whole, as Argo CD does: the docs name each.
func TestDefaultsWithinLists(t *testing.T) {
	documented := read(t, "docs/gitops.md")
	for _, crd := range documents(t, read(t, "crds/tablemap.dev.yaml")) {
		version := at(crd, "spec", "versions").([]any)[0]
		found := map[string]bool{}
		defaults(at(version, "schema", "openAPIV3Schema").(object), "", false, found)
		for _, path := range slices.Sorted(maps.Keys(found)) {
			if !strings.Contains(documented, "`"+path+"`") {
				t.Errorf("docs/gitops.md does not name %s of %v", path, at(crd, "spec", "names", "kind"))
			}
		}
	}
}

func defaults(schema object, path string, listed bool, found map[string]bool) {
	if _, has := schema["default"]; has && listed {
		found[strings.TrimPrefix(path, ".")] = true
	}
	if properties, ok := schema["properties"].(object); ok {
		for name, property := range properties {
			defaults(property.(object), path+"."+name, listed, found)
		}
	}
	if items, ok := schema["items"].(object); ok {
		defaults(items, path+"[]", true, found)
	}
}

// What may be ignored is there, and holds no condition.
func TestIgnoredUpdates(t *testing.T) {
	settings := documents(t, read(t, "gitops/argocd-cm.yaml"))[0]
	for _, crd := range documents(t, read(t, "crds/tablemap.dev.yaml")) {
		kind := at(crd, "spec", "names", "kind")
		text, _ := at(settings, "data", fmt.Sprintf("resource.customizations.ignoreResourceUpdates.tablemap.dev_%v", kind)).(string)
		pointers, _ := documents(t, text)[0]["jsonPointers"].([]any)
		if len(pointers) == 0 {
			t.Fatalf("nothing of %v is ignored", kind)
		}
		version := at(crd, "spec", "versions").([]any)[0]
		for _, pointer := range pointers {
			field := filepath.Base(pointer.(string))
			if field == "conditions" || at(version, "schema", "openAPIV3Schema", "properties", "status", "properties", field) == nil {
				t.Errorf("%v has nothing to ignore at %v", kind, pointer)
			}
		}
	}
}

// A commit that pauses is not fought: such writes as operator and worker make take no field from whoever applies the spec, nor
// does he take theirs. Nobody runs here, so it does not show that they make no others; the operator may not configure a map.
func (c *cluster) isNotFought(t *testing.T) {
	for manager, how := range map[string][]string{
		"argocd-controller":         {"--server-side"},
		"kustomize-controller":      {"--server-side"},
		"kubectl-client-side-apply": nil,
	} {
		commit := func(state string, more ...string) []string {
			file := c.write("orders.yaml", aMap("stock", "orders", state))
			return append(append([]string{"apply", "-f", file, "--field-manager=" + manager}, how...), more...)
		}
		state := func(wanted, when string) {
			t.Helper()
			if found := c.get("{.spec.state}", "tm/orders", "-n", "stock"); found != wanted {
				t.Errorf("%s: %s %s", manager, found, when)
			}
		}
		c.kubectl(commit("state: Running")...)
		c.tells(t)
		for generation, wanted := range []string{"Paused", "Running", "Paused"} {
			c.kubectl(commit("state: " + wanted)...)
			state(wanted, "after a commit")
			c.tells(t)
			if found := c.get("{.metadata.generation}", "tm/orders", "-n", "stock"); found != fmt.Sprint(generation+2) {
				t.Errorf("%s: generation %s: more than the commits has changed the spec", manager, found)
			}
		}
		for other, fields := range c.owners(t) {
			if _, owns := fields["f:spec"]; owns && other != manager {
				t.Errorf("%s owns %v", other, fields["f:spec"])
			}
		}
		if found := c.get("{.metadata.finalizers} {.status.phase} {.status.observedGeneration}", "tm/orders", "-n", "stock"); found != `["tablemap.dev/cleanup"] Running 1` {
			t.Errorf("%s has taken %s", manager, found)
		}
		c.fightsPeople(t, manager, commit, state)
		c.kubectl("patch", "tm/orders", "-n", "stock", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		c.kubectl("delete", "tm/orders", "-n", "stock")
	}
}

// tells writes what operator and worker write: the finalizer by a patch, each its part of the status by an apply.
func (c *cluster) tells(t *testing.T) {
	t.Helper()
	c.kubectl("patch", "tm/orders", "-n", "stock", "--type=merge", "--field-manager=unknown", "--as="+operator, "-p", `{"metadata":{"finalizers":["tablemap.dev/cleanup"]}}`)
	for manager, status := range map[string]string{"tablemap-operator": "{observedGeneration: 1}", "tablemap-worker": "{phase: Running}"} {
		file := c.write("status.yaml", "apiVersion: tablemap.dev/v1alpha1\nkind: TableMap\nmetadata: {name: orders, namespace: stock}\nstatus: "+status+"\n")
		c.kubectl("apply", "--server-side", "--subresource=status", "--validate=false", "--field-manager="+manager, "-f", file)
	}
}

func (c *cluster) owners(t *testing.T) map[string]object {
	t.Helper()
	var entries []struct {
		Manager  string
		FieldsV1 object
	}
	text := c.kubectl("get", "tm/orders", "-n", "stock", "--show-managed-fields", "-o", "jsonpath={.metadata.managedFields}")
	if err := json.Unmarshal([]byte(text), &entries); err != nil {
		t.Fatal(err)
	}
	fields := map[string]object{}
	for _, entry := range entries {
		known := fields[entry.Manager]
		if known == nil {
			known = object{}
		}
		maps.Copy(known, entry.FieldsV1)
		fields[entry.Manager] = known
	}
	if len(fields) < 4 {
		t.Errorf("there are not all of them: %v", fields)
	}
	return fields
}

// What docs/gitops.md says of people who pause by hand.
func (c *cluster) fightsPeople(t *testing.T, manager string, commit func(state string, more ...string) []string, state func(wanted, when string)) {
	t.Helper()
	patch := func(to string) {
		c.kubectl("patch", "tm/orders", "-n", "stock", "--type=merge", "-p", `{"spec":{"state":"`+to+`"}}`)
	}
	c.kubectl(commit("state: Running")...)
	patch("Paused")
	if strings.HasSuffix(manager, "-controller") {
		if refused := c.refused(commit("state: Running")...); !strings.Contains(refused, ".spec.state") {
			t.Error(refused)
		}
		c.kubectl(commit("state: Running", "--force-conflicts")...)
	} else {
		c.kubectl(commit("state: Running")...)
	}
	state("Running", "after a commit that a person had overruled")
	c.kubectl(commit("state: Paused")...)
	c.kubectl(commit("workerGroup: default")...)
	state("Running", "after Git has let go of a state that it alone had set: it is the default")
	patch("Paused")
	c.kubectl(commit("workerGroup: default")...)
	state("Paused", "after a commit that says nothing of it")
}
