{{- define "tablemap.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "tablemap.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "tablemap.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "tablemap.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What tells the objects of this release. Call it with (list $ COMPONENT). */}}
{{- define "tablemap.selector" -}}
app.kubernetes.io/name: {{ include "tablemap.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of an object. Call it with (list $ COMPONENT). */}}
{{- define "tablemap.labels" -}}
{{- $root := index . 0 -}}
{{ include "tablemap.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tablemap.serviceAccount" -}}
{{- if .Values.operator.serviceAccount.create }}
{{- default (printf "%s-operator" (include "tablemap.fullname" .)) .Values.operator.serviceAccount.name }}
{{- else }}
{{- required "operator.serviceAccount.name is needed if operator.serviceAccount.create is false" .Values.operator.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Call it with (list IMAGE DEFAULT-TAG). */}}
{{- define "tablemap.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default (index . 1) $image.tag }}
{{- end -}}
{{- end }}

{{- define "tablemap.recordsName" -}}
{{ include "tablemap.fullname" . }}-records
{{- end }}

{{- define "tablemap.recordsSecret" -}}
{{- if eq .Values.recordsAPI.certificate.source "Secret" }}
{{- required "recordsAPI.certificate.secretName is needed for the source Secret" .Values.recordsAPI.certificate.secretName }}
{{- else -}}
{{ include "tablemap.recordsName" . }}-tls
{{- end }}
{{- end }}
