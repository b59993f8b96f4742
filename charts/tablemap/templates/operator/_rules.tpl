{{/* Who the operator is, as the subjects of a binding. */}}
{{- define "tablemap.subject" -}}
- kind: ServiceAccount
  name: {{ include "tablemap.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/*
What the operator may. It makes a Role for each worker, and may grant only what it has itself: so it needs no right to
escalate or to bind, but has all that a worker needs.
*/}}
{{- define "tablemap.operatorRules" -}}
# What it looks after. Workers watch the same.
- apiGroups: [tablemap.dev]
  resources: [tablemaps, connections]
  verbs: [get, list, watch]
- apiGroups: [tablemap.dev]
  resources: [tablemapoperations]
  verbs: [list, watch]
# Finalizers, which hold a map until it is cleaned up, and a Connection while it has workers; and that an operation belongs
# to its map.
- apiGroups: [tablemap.dev]
  resources: [tablemaps, tablemapoperations, connections]
  verbs: [patch]
# An operation whose time is over goes.
- apiGroups: [tablemap.dev]
  resources: [tablemapoperations]
  verbs: [delete]
# What it and the workers have found.
- apiGroups: [tablemap.dev]
  resources: [tablemaps/status, tablemapoperations/status, connections/status]
  verbs: [patch]
# Credentials and authorities that Connections name: whether they are there, for the records API, and to let a worker read
# just these. They are never listed.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get]
# Which worker works. A worker's Lease is made before its first holder, since `create` cannot be bound to a name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update, patch, delete]
# Events: `patch` counts those that come again.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# A Deployment for each worker; what is changed by hand is put right.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# Why a worker does not start.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# Who a worker is. The list tells which workers there are.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [list, create, patch, delete]
# What a worker may.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [create, patch, delete]
{{- end }}
