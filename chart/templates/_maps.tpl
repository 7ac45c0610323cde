{{- /* Maps in the values, without the entries that are off. A template takes the map, unless it says otherwise. */}}

{{- /* binder-egress.enabledKeys: the keys of a map {key: true|false} that are on, sorted, as a JSON list. */}}
{{- define "binder-egress.enabledKeys" -}}
{{- $on := dict -}}
{{- range $key, $value := . }}{{ if $value }}{{ $_ := set $on $key true }}{{ end }}{{ end -}}
{{ keys $on | sortAlpha | toJson }}
{{- end }}

{{- /* binder-egress.tiersByName: a map {name: tier|false}, as JSON. */}}
{{- define "binder-egress.tiersByName" -}}
{{- $on := dict -}}
{{- range $name, $tier := . }}{{ if $tier }}{{ $_ := set $on $name $tier }}{{ end }}{{ end -}}
{{ toJson $on }}
{{- end }}

{{- /* binder-egress.signedInUsers: "true" if a rule gives users who sign in a tier. Takes the root. */}}
{{- define "binder-egress.signedInUsers" -}}
{{- range $tiers := list .Values.rules.authenticatedUsers .Values.rules.authenticatedGroups -}}
{{- if include "binder-egress.tiersByName" $tiers | fromJson }}true{{ end -}}
{{- end -}}
{{- end }}

{{- /* binder-egress.netpol.named: a map of named peers or rules, as items of a list. */}}
{{- define "binder-egress.netpol.named" -}}
{{- range $name, $entry := . }}
{{- if ne (get $entry "enabled" | toString) "false" }}
# {{ $name }}
- {{ omit $entry "enabled" | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}

{{- /* binder-egress.netpol.labels: a map {label: value|false}, as YAML. */}}
{{- define "binder-egress.netpol.labels" -}}
{{- $on := dict -}}
{{- range $label, $value := . }}{{ if kindIs "string" $value }}{{ $_ := set $on $label $value }}{{ end }}{{ end -}}
{{ toYaml $on }}
{{- end }}
