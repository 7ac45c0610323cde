{{- /*
Names of objects, accounts and hosts. The named templates of this chart take the root context, unless their comments say otherwise.
*/}}

{{- /* binder-egress.name: the label app.kubernetes.io/name. */}}
{{- define "binder-egress.name" -}}
{{- .Values.nameOverride | default "binder-egress" }}
{{- end }}

{{- /* binder-egress.fullname: the name of all objects, or its beginning: at most 40 characters, to leave room for the rest. */}}
{{- define "binder-egress.fullname" -}}
{{- $name := include "binder-egress.name" . -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $made := contains $name $release | ternary $release (printf "%s-%s" $release $name) -}}
{{ .Values.fullnameOverride | default ($made | trunc 40 | trimSuffix "-") }}
{{- end }}

{{- /*
binder-egress.objectName: the name of an object whose last part comes from the values, at most 63 characters. A longer name is cut
and ends in a checksum, so that two names stay different. Takes (list root rest).
*/}}
{{- define "binder-egress.objectName" -}}
{{- $name := printf "%s-%s" (include "binder-egress.fullname" (index . 0)) (index . 1) -}}
{{- if gt (len $name) 63 -}}
{{ $name | trunc 54 | trimSuffix "-" }}-{{ $name | sha256sum | trunc 8 }}
{{- else -}}
{{ $name }}
{{- end }}
{{- end }}

{{- /* binder-egress.secretName: the Secret with our keys, the chart's or the operator's. */}}
{{- define "binder-egress.secretName" -}}
{{- .Values.secret.existingSecret | default (include "binder-egress.fullname" .) }}
{{- end }}

{{- /* binder-egress.redisName: the Service, Deployment and policy of the Redis in the chart. */}}
{{- define "binder-egress.redisName" -}}
{{ include "binder-egress.fullname" . }}-redis
{{- end }}

{{- /*
binder-egress.accountName: the ServiceAccount of a component, or nothing for the namespace's default. Takes (list root component
serviceAccount), the last from the values.
*/}}
{{- define "binder-egress.accountName" -}}
{{- $made := (index . 2).create | ternary (printf "%s-%s" (include "binder-egress.fullname" (index . 0)) (index . 1)) "" -}}
{{ (index . 2).name | default $made }}
{{- end }}

{{- /* binder-egress.hosts: the host names at which visitors reach the verifier, as a JSON list. */}}
{{- define "binder-egress.hosts" -}}
{{- $hosts := list -}}
{{- if .Values.ingress.enabled }}{{ $hosts = concat $hosts .Values.ingress.hosts }}{{ end -}}
{{- if .Values.httpRoute.enabled }}{{ $hosts = concat $hosts .Values.httpRoute.hostnames }}{{ end -}}
{{ $hosts | uniq | toJson }}
{{- end }}

{{- /*
binder-egress.elsewhere: "true" if the verifier may be on another host than BinderHub, where it works only if BinderHub's origin is
in allowedOrigins.
*/}}
{{- define "binder-egress.elsewhere" -}}
{{- if and .Values.publicUrl .Values.allowedOrigins }}true{{ end }}
{{- end }}
