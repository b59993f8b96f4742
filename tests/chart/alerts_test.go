package chart

import (
	"context"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	templates "github.com/prometheus/prometheus/template"
)

// metrics that others have.
var others = []string{"up"}

func alerts(t *testing.T) []object {
	t.Helper()
	rule := find(t, documents(t, template(t, "--set", "prometheusRule.enabled=true")), "PrometheusRule", "tablemap")
	var found []object
	for _, group := range at(rule, "spec", "groups").([]any) {
		for _, alert := range at(group, "rules").([]any) {
			found = append(found, alert.(object))
		}
	}
	return found
}

// Each alert has its runbook, and each runbook its alert; their expressions name metrics that there are.
func TestAlerts(t *testing.T) {
	var sections []string
	for _, title := range regexp.MustCompile(`(?m)^## (TableMap\w+)$`).FindAllStringSubmatch(read(t, "docs/runbooks.md"), -1) {
		sections = append(sections, title[1])
	}
	var names []string
	for _, alert := range alerts(t) {
		name := alert["alert"].(string)
		names = append(names, name)
		if url := at(alert, "annotations", "runbook_url").(string); !strings.HasSuffix(url, "/docs/runbooks.md#"+strings.ToLower(name)) {
			t.Errorf("%s leads to %s", name, url)
		}
		query(t, name, alert["expr"].(string))
	}
	slices.Sort(sections)
	slices.Sort(names)
	if !slices.Equal(sections, names) {
		t.Errorf("runbooks %v, alerts %v", sections, names)
	}
	var schema object
	if err := json.Unmarshal([]byte(read(t, "charts/tablemap/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	disabled := at(schema, "properties", "prometheusRule", "properties", "disabled", "items", "enum").([]any)
	var mayBeDisabled []string
	for _, name := range disabled {
		mayBeDisabled = append(mayBeDisabled, name.(string))
	}
	slices.Sort(mayBeDisabled)
	if !slices.Equal(mayBeDisabled, names) {
		t.Errorf("the schema knows %v, alerts are %v", mayBeDisabled, names)
	}
}

// What an alert tells a person, as Prometheus fills it in.
func TestDescriptions(t *testing.T) {
	labels := map[string]string{
		"namespace": "sales", "tablemap": "customers", "reason": "SchemaMismatch", "slot": "s", "tablemap_dev_connection": "crm",
	}
	data := templates.AlertTemplateData(labels, nil, "", promql.Sample{F: 80000})
	for _, alert := range alerts(t) {
		text := "{{$labels := .Labels}}{{$value := .Value}}" + at(alert, "annotations", "description").(string)
		said, err := templates.NewTemplateExpander(context.Background(), text, "alert", data, 0, nil, &url.URL{}, nil).Expand()
		if err != nil || !strings.Contains(said, "sales") || strings.Contains(said, "no value") {
			t.Errorf("%v says %s: %v", alert["alert"], said, err)
		}
		t.Log(said)
	}
}

// So do the queries of the dashboard.
func TestDashboard(t *testing.T) {
	var dashboard object
	if err := json.Unmarshal([]byte(read(t, "charts/tablemap/files/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := 0
	for _, panel := range dashboard["panels"].([]any) {
		targets, _ := at(panel, "targets").([]any)
		for _, target := range targets {
			expression := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(at(target, "expr").(string))
			query(t, at(panel, "title").(string), expression)
			queries++
		}
	}
	if queries == 0 {
		t.Error("it asks nothing")
	}
}

// query reads an expression, and looks for its metrics in the documentation, which a test compares with the program.
func query(t *testing.T, name, expression string) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
	if err != nil {
		t.Errorf("%s: %v in %s", name, err, expression)
		return
	}
	documented := read(t, "docs/conditions.md")
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if selector, ok := node.(*parser.VectorSelector); ok && !slices.Contains(others, selector.Name) &&
			!strings.Contains(documented, "| `"+selector.Name+"` |") {
			t.Errorf("%s: there is no metric %s", name, selector.Name)
		}
		return nil
	})
}
