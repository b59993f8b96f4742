{{/* Each has a section of its name in docs/runbooks.md. */}}
{{- define "tablemap.alerts" -}}
{{- $at := .Values.prometheusRule.thresholds }}
{{- $map := "TableMap {{ $labels.namespace }}/{{ $labels.tablemap }}" }}
{{- $slot := "Slot {{ $labels.slot }} of Connection {{ $labels.namespace }}/{{ $labels.tablemap_dev_connection }}" }}
- alert: TableMapBlocked
  expr: tablemap_blocked == 1
  for: 5m
  severity: critical
  summary: A map takes no changes
  description: "{{ $map }} takes no changes, and the source keeps its log for it. status.blocked says why."
- alert: TableMapWorkerDown
  # One for a namespace: a worker may have a thousand maps. A map whose spec is refused has no worker for that reason, which
  # TableMapStalled tells. Scrapes say it too while no operator leads, and of a worker whose figures are missing.
  expr: >-
    count by (namespace) (tablemap_worker_available == 0
    unless on (namespace, tablemap) tablemap_stalled{reason="SpecInvalid"} == 1)
    or count by (namespace) (up{tablemap_dev_connection!=""} == 0)
  for: 3m
  severity: critical
  summary: A worker does not run
  description: "Nobody works for maps in {{ "{{ $labels.namespace }}" }}, or their worker does not answer, and the source keeps its log for them. WorkerAvailable of the maps says why."
- alert: TableMapStalled
  # Each trouble calls once. A pause by rule has TableMapPausedByRule, a worker that is gone TableMapWorkerDown. A Blocked map is
  # Stalled too, but TableMapBlocked comes from its worker, so also while no operator leads, and is more urgent: the source keeps
  # its log. Another operator that leads is no new alert.
  expr: >-
    max by (namespace, tablemap, reason) (tablemap_stalled{reason!~"WorkerUnavailable|PausedByRule"}) == 1
    unless on (namespace, tablemap) tablemap_blocked == 1
  for: 5m
  severity: warning
  summary: A map needs somebody
  description: "{{ $map }} cannot go on by itself: {{ "{{ $labels.reason }}" }}. Its condition Stalled says what to do."
- alert: TableMapPausedByRule
  expr: tablemap_rule_pauses > 0
  for: 1m
  severity: warning
  summary: A rule has paused a map
  description: "The destination has refused too many records of {{ $map }}, and a rule of its spec has paused it. Changes are queued. status.pauses says what was refused."
- alert: TableMapDestinationAway
  # A pause may be for just that. One that holds changes back is Blocked, and one that cannot be fenced Stalled.
  expr: >-
    tablemap_destination_connected == 0 and tablemap_blocked == 0 and tablemap_paused == 0
    unless on (namespace, tablemap) tablemap_stalled{reason="CannotFence"} == 1
  for: {{ $at.destinationAwayMinutes | int }}m
  severity: warning
  summary: A destination takes no records
  description: "For {{ $at.destinationAwayMinutes | int }} minutes nothing of {{ $map }} could be written. Changes are queued. DestinationConnected says why."
- alert: TableMapSlotNearlyLost
  expr: tablemap_slot_safe_bytes / (tablemap_slot_safe_bytes + tablemap_slot_retained_bytes) * 100 < {{ $at.slotSafePercent }}
  for: 1m
  severity: critical
  summary: A slot has nearly reached max_slot_wal_keep_size
  description: '{{ $slot }} has {{ "{{ $value | printf \"%.0f\" }}" }} % of max_slot_wal_keep_size left. When it is used up, all maps of the worker are Blocked, and changes are lost.'
- alert: TableMapSlotRetains
  expr: tablemap_slot_retained_bytes > {{ $at.slotRetainedBytes | int64 }}
  for: 15m
  severity: warning
  summary: A source keeps much of its log
  description: "{{ $slot }} keeps {{ "{{ $value | humanize1024 }}" }}B of the source's log. Its disk may fill up."
- alert: TableMapOverSoftLimit
  expr: tablemap_over_soft_limit == 1
  for: 1m
  severity: warning
  summary: A queue has reached its soft limit
  description: "{{ $map }} has queued as much as its soft limit says, by records, bytes or age. At the hard limit it takes no changes."
- alert: TableMapQueueOld
  expr: time() - tablemap_oldest_queued_timestamp_seconds > {{ $at.queueAgeSeconds | int64 }}
  for: 5m
  severity: warning
  summary: Changes have waited for long
  description: "The oldest queued record of {{ $map }} is of {{ "{{ $value | humanizeDuration }}" }} ago. At the hard limit of age the map takes no changes."
- alert: TableMapPausedLong
  expr: tablemap_paused == 1
  for: {{ $at.pausedMinutes | int }}m
  severity: warning
  summary: A map has been paused for long
  description: "{{ $map }} has been paused for {{ $at.pausedMinutes | int }} minutes. Was it forgotten?"
- alert: TableMapCatchUpNotConverging
  expr: >-
    tablemap_queued_records > 0 and tablemap_paused == 0 and tablemap_blocked == 0
    and deriv(tablemap_queued_records[{{ $at.catchUpMinutes | int }}m]) >= 0
  for: {{ $at.catchUpMinutes | int }}m
  severity: warning
  summary: A queue that should be written does not shrink
  description: "{{ $map }} is not paused, and has {{ "{{ $value }}" }} records queued that do not get fewer."
- alert: TableMapLagging
  expr: tablemap_lag_seconds > {{ $at.lagSeconds | int64 }} and tablemap_blocked == 0
  for: 10m
  severity: warning
  summary: Changes are late
  description: "{{ $map }} has changes durable only {{ "{{ $value }}" }} seconds after their commit at the source."
- alert: TableMapPurgeComing
  # More urgent than TableMapErrorsWaiting, which has told it before: what is purged is never written.
  expr: >-
    tablemap_next_purge_timestamp_seconds - time() < {{ $at.purgeHours | int }} * 3600
    and tablemap_errored_records > 0
  for: 5m
  severity: critical
  summary: Records will soon be purged
  description: "The oldest of the records of {{ $map }} that wait for a correction is purged in {{ "{{ $value | humanizeDuration }}" }}, and never written."
- alert: TableMapErrorsWaiting
  expr: tablemap_errored_records >= {{ $at.errors | int64 }}
  for: 15m
  severity: warning
  summary: Records wait for a correction
  description: "{{ "{{ $value }}" }} records of {{ $map }} were refused by the destination and wait. They are purged when spec.errors.retentionSeconds are over."
{{- end }}
