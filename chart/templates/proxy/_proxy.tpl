{{- /* The egress proxy. */}}

{{- /* binder-egress.proxy: "true" if the egress proxy runs. */}}
{{- define "binder-egress.proxy" -}}
{{- if and .Values.proxy.enabled (include "binder-egress.running" .) }}true{{ end }}
{{- end }}

{{- /* binder-egress.proxyService: the name of the proxy's Service, if new pods are to have its variables. */}}
{{- define "binder-egress.proxyService" -}}
{{- if and (include "binder-egress.proxy" .) (include "binder-egress.enforcing" .) -}}
{{ include "binder-egress.fullname" . }}-proxy
{{- end -}}
{{- end }}

{{- /*
binder-egress.proxyTiers: what each tier, including `unverified`, may reach through the proxy, as JSON. In mode observe nobody is
refused a host: everybody keeps their present network.
*/}}
{{- define "binder-egress.proxyTiers" -}}
{{- $root := . -}}
{{- $banned := list -}}
{{- range include "binder-egress.banned" . | fromJsonArray }}{{ $banned = append $banned .cidr }}{{ end -}}
{{- $found := dict -}}
{{- range $name, $tier := merge (dict "unverified" .Values.unverified) .Values.tiers -}}
{{- $hosts := include "binder-egress.enabledKeys" $tier.hosts | fromJsonArray -}}
{{- if eq $root.Values.mode "observe" }}{{ $hosts = list "*" }}{{ end -}}
{{- $except := deepCopy $root.Values.except -}}
{{- range $cidr, $on := $tier.except }}{{ $_ := set $except $cidr $on }}{{ end -}}
{{- $closed := concat (include "binder-egress.enabledKeys" $except | fromJsonArray) $banned -}}
{{- $listed := $tier.ports | default dict -}}
{{- $ports := include "binder-egress.enabledKeys" $listed.tcp | fromJsonArray -}}
{{- /* A tier that lists only UDP ports opens no TCP port. */ -}}
{{- if and (not $ports) (include "binder-egress.enabledKeys" $listed.udp | fromJsonArray) }}{{ $ports = list "0" }}{{ end -}}
{{- $_ := set $found $name (dict "hosts" $hosts "ports" $ports "closed" $closed) -}}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{- /* binder-egress.proxyRepositories: a map {pattern of repositories: list of hosts}, as JSON. */}}
{{- define "binder-egress.proxyRepositories" -}}
{{- $found := dict -}}
{{- range $name, $entry := .Values.rules.repositories -}}
{{- if $entry }}{{ $_ := set $found $name (include "binder-egress.enabledKeys" $entry.hosts | fromJsonArray) }}{{ end -}}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{- /* binder-egress.proxyOwnNames: names of the hub, which nobody reaches through the proxy, as a JSON list. */}}
{{- define "binder-egress.proxyOwnNames" -}}
{{- $refused := include "binder-egress.enabledKeys" .Values.proxy.refusedHosts | fromJsonArray -}}
{{- $names := include "binder-egress.hosts" . | fromJsonArray | concat $refused -}}
{{- range compact (list .Values.publicUrl .Values.hubUrl) }}{{ $names = append $names (urlParse .).hostname }}{{ end -}}
{{ $names | uniq | sortAlpha | toJson }}
{{- end }}

{{- /* binder-egress.proxyPage: the address of servers' pages up to the user's name, for refusals; empty if not known. */}}
{{- define "binder-egress.proxyPage" -}}
{{- $hosts := list -}}
{{- range include "binder-egress.hosts" . | fromJsonArray -}}
{{- if not (hasPrefix "*" .) }}{{ $hosts = append $hosts . }}{{ end -}}
{{- end -}}
{{- if or .Values.publicUrl $hosts -}}
{{ .Values.publicUrl | default (printf "https://%s" (first $hosts)) }}{{ .Values.ingress.path }}servers/
{{- end -}}
{{- end }}
