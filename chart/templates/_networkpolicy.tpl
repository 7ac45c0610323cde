{{- /*
Named templates for NetworkPolicies. A rule's peers and ports are alternatives each, and rules add up. Beware of what is
left out: a rule without `to` or `from` means everywhere, one without `ports` every port, and a policy with an empty podSelector every pod.
*/}}

{{- /*
binder-egress.cidr.groups: the groups of a CIDR's address, as {"list": [number, …], "width": bits of a group, "prefix": length}, JSON.
IPv4 has 4 groups of 8 bits, IPv6 8 of 16 bits. Takes the CIDR.
*/}}
{{- define "binder-egress.cidr.groups" -}}
{{- $address := splitList "/" . | first -}}
{{- $groups := list -}}
{{- if contains ":" . -}}
{{- $halves := splitList "::" $address -}}
{{- $left := without (splitList ":" (first $halves)) "" -}}
{{- $right := ternary list (without (splitList ":" (last $halves)) "") (eq (len $halves) 1) -}}
{{- range $left }}{{ $groups = append $groups (int64 (print "0x" .)) }}{{ end -}}
{{- range untilStep (add (len $left) (len $right) | int) 8 1 }}{{ $groups = append $groups 0 }}{{ end -}}
{{- range $right }}{{ $groups = append $groups (int64 (print "0x" .)) }}{{ end -}}
{{- else -}}
{{- range splitList "." $address }}{{ $groups = append $groups (int64 .) }}{{ end -}}
{{- end -}}
{{- dict "list" $groups "width" (ternary 16 8 (contains ":" .)) "prefix" (splitList "/" . | last | int64) | toJson -}}
{{- end }}

{{- /*
binder-egress.cidr.inside: "true" if a CIDR lies inside another and is smaller, else nothing. The API server refuses a policy with an `except` that
does not. Takes (list inner outer).
*/}}
{{- define "binder-egress.cidr.inside" -}}
{{- $inner := include "binder-egress.cidr.groups" (index . 0) | fromJson -}}
{{- $outer := include "binder-egress.cidr.groups" (index . 1) | fromJson -}}
{{- $inside := and (eq $inner.width $outer.width) (gt $inner.prefix $outer.prefix) -}}
{{- if $inside -}}
{{- range $i, $group := $outer.list -}}
{{- /* Of each group, only the bits that the outer prefix covers count: shift the others out. */ -}}
{{- $bits := sub $outer.prefix (mul $i $outer.width) | max 0 | min $outer.width | int -}}
{{- $shift := index (list 1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536) (sub $outer.width $bits | int) -}}
{{- if ne (div (index $inner.list $i) $shift) (div $group $shift) }}{{ $inside = false }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $inside }}true{{ end -}}
{{- end }}

{{- /* binder-egress.enabledKeys: the keys of a map {key: true|false} that are on, sorted, as a JSON list. Takes the map. */}}
{{- define "binder-egress.enabledKeys" -}}
{{- $on := list -}}
{{- range $key, $value := . }}{{ if $value }}{{ $on = append $on (toString $key) }}{{ end }}{{ end -}}
{{ sortAlpha $on | toJson }}
{{- end }}

{{- /*
binder-egress.netpol.ports: items of a rule's `ports`, or nothing. Takes (list protocol ports), ports being a map
{"443": true, "6000-6010": true}.
*/}}
{{- define "binder-egress.netpol.ports" -}}
{{- $protocol := index . 0 -}}
{{- range include "binder-egress.enabledKeys" (index . 1) | fromJsonArray }}
{{- $ends := splitList "-" . }}
- protocol: {{ $protocol }}
  port: {{ first $ends }}
  {{- if gt (len $ends) 1 }}
  endPort: {{ last $ends }}
  {{- end }}
{{- end }}
{{- end }}

{{- /*
binder-egress.netpol.cidrs: ipBlocks for a rule's `to`, or nothing. Takes (list cidrs except), both maps {CIDR: true}. Each
CIDR gets the exceptions that lie inside it.
*/}}
{{- define "binder-egress.netpol.cidrs" -}}
{{- $except := include "binder-egress.enabledKeys" (index . 1) | fromJsonArray -}}
{{- range $cidr := include "binder-egress.enabledKeys" (index . 0) | fromJsonArray }}
{{- $inside := list }}
{{- range $except }}
{{- if include "binder-egress.cidr.inside" (list . $cidr) }}{{ $inside = append $inside . }}{{ end }}
{{- end }}
- ipBlock:
    cidr: {{ $cidr | quote }}
    {{- with $inside }}
    except:
      {{- range . }}
      - {{ . | quote }}
      {{- end }}
    {{- end }}
{{- end }}
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

{{- /* binder-egress.netpol.dns: the egress rule to the DNS servers of `dns`. */}}
{{- define "binder-egress.netpol.dns" -}}
# DNS
- to:
    - namespaceSelector:
        matchLabels:
          {{- toYaml .Values.dns.namespaceLabels | nindent 10 }}
      podSelector:
        matchLabels:
          {{- toYaml .Values.dns.podLabels | nindent 10 }}
    {{- with include "binder-egress.netpol.cidrs" (list .Values.dns.cidrs dict) }}
    {{- . | trim | nindent 4 }}
    {{- end }}
  ports:
    {{- include "binder-egress.netpol.ports" (list "UDP" .Values.dns.ports) | trim | nindent 4 }}
    {{- include "binder-egress.netpol.ports" (list "TCP" .Values.dns.ports) | trim | nindent 4 }}
{{- end }}

{{- /* binder-egress.netpol.redis: the egress rule to Redis, the chart's own or another one. */}}
{{- define "binder-egress.netpol.redis" -}}
# Redis
{{- if .Values.redis.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "binder-egress.matchLabels" (list . "redis") | nindent 10 }}
  ports:
    - port: 6379
      protocol: TCP
{{- else }}
- ports:
    - port: {{ .Values.externalRedis.port }}
      protocol: TCP
    {{- $ports := list }}
    {{- range include "binder-egress.redisSentinels" . | fromJsonArray }}{{ $ports = splitList ":" . | last | append $ports }}{{ end }}
    {{- range uniq $ports }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
  {{- with include "binder-egress.netpol.cidrs" (list .Values.externalRedis.cidrs dict) }}
  to:
    {{- . | trim | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* binder-egress.base.egress: the egress rules of the base policy; by default, nothing. */}}
{{- define "binder-egress.base.egress" -}}
{{- if .Values.base.allowHub }}
# The hub's API
- to:
    - podSelector:
        matchLabels:
          component: hub
  ports:
    - port: 8081
      protocol: TCP
{{- end }}
{{- if .Values.base.allowDns }}
{{ include "binder-egress.netpol.dns" . }}
{{- end }}
{{- include "binder-egress.netpol.named" .Values.base.egress }}
{{- end }}

{{- /* binder-egress.policies: the `spec` of each policy for user pods, by name, as JSON; empty in modes that do not enforce. */}}
{{- define "binder-egress.policies" -}}
{{- $policies := dict -}}
{{- if include "binder-egress.enforcing" . -}}
{{- $name := include "binder-egress.fullname" . -}}
{{- $_ := set $policies (printf "%s-base" $name) (include "binder-egress.policies.base" . | fromYaml) -}}
{{- if ne .Values.mode "deny" -}}
{{- range $tier, $values := .Values.tiers -}}
{{- $_ := set $policies (include "binder-egress.name" (list $ (print "tier-" $tier))) (include "binder-egress.policies.tier" (list $ $tier $values) | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toJson $policies }}
{{- end }}

{{- /*
binder-egress.policies.base: isolates every user pod from birth. Selected are labels that user pods always have, never one that is added
later. Both directions, so that a pod cannot be reached by its neighbours either: one with network would relay for one without.
*/}}
{{- define "binder-egress.policies.base" -}}
podSelector:
  matchLabels:
    {{- toYaml .Values.userPods.labels | nindent 4 }}
policyTypes: [Ingress, Egress]
{{- with include "binder-egress.netpol.named" .Values.base.ingress }}
ingress:
  {{- . | trim | nindent 2 }}
{{- else }}
ingress: []
{{- end }}
{{- with include "binder-egress.base.egress" . }}
egress:
  {{- . | trim | nindent 2 }}
{{- else }}
egress: []
{{- end }}
{{- end }}

{{- /* binder-egress.policies.tier: what a tier adds. Takes (list root name tier). */}}
{{- define "binder-egress.policies.tier" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $tier := index . 2 -}}
{{- $ports := $tier.ports | default dict -}}
{{- /* Not `merge`, which takes the false of an exception that is off for nothing. */ -}}
{{- $except := deepCopy $root.Values.except -}}
{{- range $cidr, $on := $tier.except }}{{ $_ := set $except $cidr $on }}{{ end -}}
podSelector:
  matchLabels:
    {{- toYaml $root.Values.userPods.labels | nindent 4 }}
    binder-egress/tier: {{ $name | quote }}
policyTypes: [Egress]
egress:
  {{- if ne (get $tier "dns" | toString) "false" }}
  {{- include "binder-egress.netpol.dns" $root | nindent 2 }}
  {{- end }}
  {{- $ports := print (include "binder-egress.netpol.ports" (list "TCP" $ports.tcp)) (include "binder-egress.netpol.ports" (list "UDP" $ports.udp)) | trim }}
  {{- /* A rule for each: kube-router keeps the CIDRs of a rule and their exceptions in one set, where they would mix. */}}
  {{- range include "binder-egress.enabledKeys" $tier.cidrs | fromJsonArray }}
  - to:
      {{- include "binder-egress.netpol.cidrs" (list (dict . true) $except) | trim | nindent 6 }}
    {{- with $ports }}
    ports:
      {{- . | nindent 6 }}
    {{- end }}
  {{- end }}
  {{- with include "binder-egress.netpol.named" $tier.extraEgress }}
  {{- . | trim | nindent 2 }}
  {{- end }}
{{- end }}
