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
		{"TableMapWorkerDown", "a map has no worker", workers(0, 1), true},
		{"TableMapWorkerDown", "all maps have one", workers(1, 1), false},
		{"TableMapWorkerDown", "the only map without one has a spec that is refused",
			append(workers(0, 1), stalled("SpecInvalid")), false},
		{"TableMapWorkerDown", "another has a spec that is refused",
			append(workers(0, 0), stalled("SpecInvalid")), true},
		{"TableMapWorkerDown", "maps of a namespace are without one, and do not answer",
			append(workers(0, 0), `up{namespace="sales", tablemap_dev_connection="crm"} 0x60`), true},
		{"TableMapStalled", "the table does not fit", []string{stalled("SchemaMismatch"), blocked(0)}, true},
		{"TableMapStalled", "the spec is refused, and nobody has worked for it", []string{stalled("SpecInvalid")}, true},
		{"TableMapStalled", "it is Blocked, which has its own alert", []string{stalled("QueueHardLimit"), blocked(1)}, false},
		{"TableMapStalled", "it is Blocked, and its worker's figures are missing", []string{stalled("QueueHardLimit")}, true},
		{"TableMapStalled", "its worker is gone, which has its own alert", []string{stalled("WorkerUnavailable")}, false},
		{"TableMapStalled", "nothing is", []string{blocked(0)}, false},
		{"TableMapStalled", "another operator has begun to lead",
			[]string{stalled("SchemaMismatch"), strings.Replace(stalled("SchemaMismatch"), `pod="a"`, `pod="b"`, 1)}, true},
		{"TableMapStalled", "a rule has paused it, which has its own alert", []string{stalled("PausedByRule"), blocked(0)}, false},
		{"TableMapPausedByRule", "a rule has paused it", []string{byRules(1)}, true},
		{"TableMapPausedByRule", "no rule has", []string{byRules(0)}, false},
		{"TableMapDestinationAway", "it is away", append(connected(0, 0), blocked(0)), true},
		{"TableMapDestinationAway", "it is away, and changes are held back: Blocked has its own alert",
			append(connected(0, 0), blocked(1)), false},
		{"TableMapDestinationAway", "it is away while the map is paused, perhaps for that", append(connected(0, 1), blocked(0)), false},
		{"TableMapDestinationAway", "it cannot be fenced, which Stalled tells",
			append(connected(0, 0), blocked(0), stalled("CannotFence")), false},
		{"TableMapDestinationAway", "it is there", append(connected(1, 0), blocked(0)), false},
		{"TableMapDestinationAway", "nobody has looked", []string{blocked(0)}, false},
		{"TableMapBlocked", "it is Blocked, and no operator leads", []string{blocked(1)}, true},
		{"TableMapQueueOld", "a record has waited for four days", stamp("oldest_queued", -4*24*3600), true},
		{"TableMapQueueOld", "a record has waited for two days", stamp("oldest_queued", -2*24*3600), false},
		{"TableMapQueueOld", "nothing waits", []string{blocked(0)}, false},
		{"TableMapPurgeComing", "a purge is within a day", append(stamp("next_purge", 23*3600), errored(3)), true},
		{"TableMapPurgeComing", "a purge is overdue, since the map is Blocked", append(stamp("next_purge", -3600), errored(3)), true},
		{"TableMapPurgeComing", "a purge is within two days", append(stamp("next_purge", 47*3600), errored(3)), false},
		{"TableMapPurgeComing", "nothing waits any more", append(stamp("next_purge", 23*3600), errored(0)), false},
		{"TableMapPurgeComing", "nothing has waited", []string{errored(0)}, false},
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

// workers tells of two maps of a namespace whether somebody works for them.
func workers(customers, orders int) []string {
	return []string{
		fmt.Sprintf(`tablemap_worker_available{namespace="sales", tablemap="customers", pod="a"} %dx60`, customers),
		fmt.Sprintf(`tablemap_worker_available{namespace="sales", tablemap="orders", pod="a"} %dx60`, orders),
	}
}

// stalled is said by the operator, and so has other labels beside those of the map than what its worker says.
func stalled(reason string) string {
	return `tablemap_stalled{namespace="sales", tablemap="customers", reason="` + reason + `", pod="a"} 1x60`
}

func blocked(is int) string {
	return fmt.Sprintf(`tablemap_blocked{namespace="sales", tablemap="customers", tablemap_dev_connection="crm"} %dx60`, is)
}

func byRules(pauses int) string {
	return fmt.Sprintf(`tablemap_rule_pauses{namespace="sales", tablemap="customers"} %dx60`, pauses)
}

func connected(is, paused int) []string {
	labels := `{namespace="sales", tablemap="customers", tablemap_dev_connection="crm"}`
	return []string{
		fmt.Sprintf("tablemap_destination_connected%s %dx60", labels, is),
		fmt.Sprintf("tablemap_paused%s %dx60", labels, paused),
	}
}

func errored(records int) string {
	return fmt.Sprintf(`tablemap_errored_records{namespace="sales", tablemap="customers"} %dx60`, records)
}

// stamp is a time, by its distance from when the expression is evaluated: an hour after the beginning.
func stamp(name string, seconds int) []string {
	return []string{fmt.Sprintf(`tablemap_%s_timestamp_seconds{namespace="sales", tablemap="customers"} %dx60`, name, 3600+seconds)}
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
