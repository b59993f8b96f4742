{{/*
The certificate that Helm makes: sets .Values.recordsCertificate to {crt, key, ca, bundle, renew}, once for all templates.
One that is there is kept until two thirds of its days are over. The authority's key is thrown away: each certificate has
an authority of its own, and the old one is trusted until the next upgrade, because pods read a Secret late.
*/}}
{{- define "tablemap.recordsCertificate" -}}
{{- if not (hasKey .Values "recordsCertificate") }}
{{- $name := include "tablemap.recordsName" . }}
{{- $now := now | unixEpoch | int64 }}
{{- $known := (lookup "v1" "Secret" .Release.Namespace (include "tablemap.recordsSecret" .)) | default dict }}
{{- $data := $known.data | default dict }}
{{- $annotations := ($known.metadata | default dict).annotations | default dict }}
{{- $renew := get $annotations "tablemap.dev/renew-after" | default "0" }}
{{- $has := and (hasKey $data "tls.crt") (hasKey $data "tls.key") (hasKey $data "ca.crt") }}
{{- if and $has (gt ($renew | int64) $now) }}
{{- $ca := get $data "ca.crt" | b64dec }}
{{- $made := dict "crt" (get $data "tls.crt" | b64dec) "key" (get $data "tls.key" | b64dec) "ca" $ca "bundle" $ca "renew" $renew }}
{{- $_ := set .Values "recordsCertificate" $made }}
{{- else }}
{{- $days := int .Values.recordsAPI.certificate.days }}
{{- $host := printf "%s.%s.svc" $name .Release.Namespace }}
{{- $ca := genCA (printf "%s-ca" $name) $days }}
{{- $pair := genSignedCert $host nil (list $host (printf "%s.cluster.local" $host)) $days $ca }}
{{- $renew = add $now (div (mul $days 86400 2) 3) | toString }}
{{- $bundle := printf "%s%s" $ca.Cert (get $data "ca.crt" | default "" | b64dec) }}
{{- $_ := set .Values "recordsCertificate" (dict "crt" $pair.Cert "key" $pair.Key "ca" $ca.Cert "bundle" $bundle "renew" $renew) }}
{{- end }}
{{- end }}
{{- end }}
