{{- /* Names of objects and hosts. Named templates take the root context, unless they say otherwise. */}}

{{- /* binder-egress.fullname: the name of all objects, or how it begins. */}}
{{- define "binder-egress.fullname" -}}
{{- .Values.fullnameOverride }}
{{- end }}

{{- /*
binder-egress.name: the name of an object whose last part comes from the values, at most 63 characters: what is longer is cut, with a checksum so that
two stay two. Takes (list root rest).
*/}}
{{- define "binder-egress.name" -}}
{{- $name := printf "%s-%s" (include "binder-egress.fullname" (index . 0)) (index . 1) -}}
{{- if gt (len $name) 63 -}}
{{ $name | trunc 54 | trimSuffix "-" }}-{{ $name | sha256sum | trunc 8 }}
{{- else -}}
{{ $name }}
{{- end }}
{{- end }}

{{- /* binder-egress.secretName: the Secret with our keys, ours or the operator's. */}}
{{- define "binder-egress.secretName" -}}
{{- .Values.secret.existingSecret | default (include "binder-egress.fullname" .) }}
{{- end }}

{{- /* binder-egress.redisName: the Service, Deployment and policy of the Redis in the chart. */}}
{{- define "binder-egress.redisName" -}}
{{ include "binder-egress.fullname" . }}-redis
{{- end }}

{{- /* binder-egress.hosts: the host names that we are reached at, as a JSON list. */}}
{{- define "binder-egress.hosts" -}}
{{- $hosts := list -}}
{{- if .Values.ingress.enabled }}{{ $hosts = concat $hosts .Values.ingress.hosts }}{{ end -}}
{{- if .Values.httpRoute.enabled }}{{ $hosts = concat $hosts .Values.httpRoute.hostnames }}{{ end -}}
{{ $hosts | uniq | toJson }}
{{- end }}
