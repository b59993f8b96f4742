{{- define "tablemap.redisName" -}}
{{ include "tablemap.fullname" . }}-redis
{{- end }}

{{/* Namespaces that use the bundled Redis, as a JSON list. */}}
{{- define "tablemap.redisNamespaces" -}}
{{- $given := .Values.redis.namespaces | default .Values.watchNamespaces | default (list .Release.Namespace) }}
{{- range $given }}
{{- if and $.Values.watchNamespaces (not (has . $.Values.watchNamespaces)) }}
{{- fail (printf "redis.namespaces: no operator looks after %s: it is not in watchNamespaces" .) }}
{{- end }}
{{- end }}
{{- toJson ($given | uniq) }}
{{- end }}

{{/*
Sets .Values.redisPasswords, by namespace, once for all templates: given, or that of the Secret which is there, or a new one.
*/}}
{{- define "tablemap.redisPasswords" -}}
{{- if not (hasKey .Values "redisPasswords") }}
{{- $passwords := dict }}
{{- range include "tablemap.redisNamespaces" . | fromJsonArray }}
{{- $known := (lookup "v1" "Secret" . (include "tablemap.redisName" $)) | default dict }}
{{- $kept := get ($known.data | default dict) "password" | default "" | b64dec }}
{{- $password := get $.Values.redis.passwords . | default $kept | default (randAlphaNum 40) }}
{{- $_ := set $passwords . $password }}
{{- end }}
{{- $_ := set .Values "redisPasswords" $passwords }}
{{- end }}
{{- end }}

{{/* The user of a namespace. Redis has one of the name default; no namespace begins with an underscore. */}}
{{- define "tablemap.redisUser" -}}
{{ eq . "default" | ternary "_default" . }}
{{- end }}

{{/*
Its users: of each namespace one that reaches the queues of that namespace alone, and one that is for probes and may do
nothing else. Only hashes of passwords. What names no key is held to none: it would tell the names of others' keys, or end
others' scripts. Nobody can be the user default. But its append-only file is read again by that user's rights: without them all
that a script or a transaction has written would be left out, and lost (valkey-io/valkey#3983, redis/redis#14541).
*/}}
{{- define "tablemap.redisUsers" -}}
{{- include "tablemap.redisPasswords" . }}
user default off ~* &* +@all
user _probe on nopass -@all +ping
{{- range $namespace, $password := .Values.redisPasswords }}
user {{ include "tablemap.redisUser" $namespace }} on #{{ sha256sum $password }} ~{tm:{{ $namespace }}:* -@all +@read +@write +@scripting +@connection -@dangerous -scan -randomkey -dbsize -client|tracking -function -script|flush -script|kill +info +config|get
{{- end }}
{{- end }}

{{/* 60 % of its memory, in bytes. */}}
{{- define "tablemap.redisMaxmemory" -}}
{{- $number := regexFind "^[0-9]+" .Values.redis.memory | int64 }}
{{- $unit := ternary 1073741824 1048576 (hasSuffix "Gi" .Values.redis.memory) }}
{{- div (mul $number $unit 6) 10 }}
{{- end }}

{{- define "tablemap.redisConfig" -}}
|
  # What is queued was taken from the source's log: it must be on disk before it is confirmed.
  appendonly yes
  appendfsync always
  no-appendfsync-on-rewrite no
  # A full Redis refuses, and the map is Blocked. It must never drop records.
  maxmemory-policy noeviction
  # The rest of the container's memory is for rewriting the append-only file.
  maxmemory {{ include "tablemap.redisMaxmemory" . }}
  save ""
  dir /data
  port 6379
  # All interfaces. Who may come in is up to the NetworkPolicy and the users.
  bind * -::*
  protected-mode no
  aclfile /etc/tablemap/users/users.acl
  # A program at the other end that is gone is found.
  tcp-keepalive 60
{{- end }}
