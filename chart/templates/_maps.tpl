{{- /* Maps of the values without their entries that are off. Named templates take the root context, unless they say otherwise. */}}

{{- /* binder-egress.enabledKeys: the keys of a map {key: true|false} that are on, sorted, as a JSON list. Takes the map. */}}
{{- define "binder-egress.enabledKeys" -}}
{{- $on := dict -}}
{{- range $key, $value := . }}{{ if $value }}{{ $_ := set $on $key true }}{{ end }}{{ end -}}
{{ keys $on | sortAlpha | toJson }}
{{- end }}

{{- /* binder-egress.tiersByName: a map of names to tiers without those that are false, as JSON. Takes the map. */}}
{{- define "binder-egress.tiersByName" -}}
{{- $found := dict -}}
{{- range $name, $tier := . }}{{ if $tier }}{{ $_ := set $found $name $tier }}{{ end }}{{ end -}}
{{ toJson $found }}
{{- end }}

{{- /*
binder-egress.netpol.named: a map of named peers or rules as items of a list, without those that are off. Takes the map.
*/}}
{{- define "binder-egress.netpol.named" -}}
{{- range $name, $entry := . }}
{{- if ne (get $entry "enabled" | toString) "false" }}
# {{ $name }}
- {{ omit $entry "enabled" | toYaml | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}

{{- /* binder-egress.netpol.labels: a map {label: value|false} without those that are off, as YAML. Takes the map. */}}
{{- define "binder-egress.netpol.labels" -}}
{{- $on := dict -}}
{{- range $label, $value := . }}{{ if kindIs "string" $value }}{{ $_ := set $on $label $value }}{{ end }}{{ end -}}
{{ toYaml $on }}
{{- end }}
