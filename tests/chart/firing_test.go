package chart

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
)

// Expressions that say more than that a number is too high: when they hold, and when not.
func TestFiring(t *testing.T) {
	expressions := map[string]string{}
	for _, alert := range alerts(t) {
		expressions[alert["alert"].(string)] = alert["expr"].(string)
	}
	for _, scene := range []struct {
		alert, what string
		series      []string
		holds       bool
	}{
		{"TableMapCatchUpNotConverging", "the queue grows", catchUp("0+100x60", 0, 0), true},
		{"TableMapCatchUpNotConverging", "the queue stands still", catchUp("500x60", 0, 0), true},
		{"TableMapCatchUpNotConverging", "the queue shrinks", catchUp("60000-100x60", 0, 0), false},
		{"TableMapCatchUpNotConverging", "it is paused", catchUp("0+100x60", 1, 0), false},
		{"TableMapCatchUpNotConverging", "it is blocked", catchUp("500x60", 0, 1), false},
		{"TableMapCatchUpNotConverging", "nothing is queued", catchUp("0x60", 0, 0), false},
		{"TableMapSlotNearlyLost", "a tenth is left", slot(900, 100), true},
		{"TableMapSlotNearlyLost", "half is left", slot(500, 500), false},
		{"TableMapSlotNearlyLost", "there is no limit", slot(900, 100)[:1], false},
		{"TableMapWorkerDown", "a worker does not answer", []string{`up{tablemap_dev_connection="crm"} 0x60`}, true},
		{"TableMapWorkerDown", "something else does not answer", []string{`up{job="other"} 0x60`}, false},
		{"TableMapWorkerDown", "a worker has no pod",
			[]string{`kube_deployment_status_replicas_available{deployment="tablemap-crm-default-5b21c0de"} 0x60`}, true},
		{"TableMapWorkerDown", "the operator has no pod",
			[]string{`kube_deployment_status_replicas_available{deployment="tablemap-operator"} 0x60`}, false},
	} {
		t.Run(scene.alert+", "+scene.what, func(t *testing.T) {
			wanted := 0
			if scene.holds {
				wanted = 1
			}
			script := fmt.Sprintf("load 1m\n  %s\n\neval instant at 60m count(%s) or vector(0)\n  {} %d\n",
				strings.Join(scene.series, "\n  "), expressions[scene.alert], wanted)
			engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
			promqltest.RunTest(t, script, engine)
		})
	}
}

func catchUp(queued string, paused, blocked int) []string {
	labels := `{namespace="sales", tablemap="customers"}`
	return []string{
		"tablemap_queued_records" + labels + " " + queued,
		fmt.Sprintf("tablemap_paused%s %dx60", labels, paused),
		fmt.Sprintf("tablemap_blocked%s %dx60", labels, blocked),
	}
}

func slot(retained, safe int) []string {
	return []string{
		fmt.Sprintf(`tablemap_slot_retained_bytes{slot="s"} %dx60`, retained),
		fmt.Sprintf(`tablemap_slot_safe_bytes{slot="s"} %dx60`, safe),
	}
}
