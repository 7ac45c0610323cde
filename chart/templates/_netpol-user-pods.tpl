{{- /* The policies of user pods, and the egress of builds. */}}

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
{{- if include "binder-egress.proxy" . }}
# The egress proxy
- to:
    - podSelector:
        matchLabels:
          {{- include "binder-egress.matchLabels" (list . "proxy") | nindent 10 }}
  ports:
    - port: 3128
      protocol: TCP
{{- end }}
{{- include "binder-egress.netpol.named" .Values.base.egress }}
{{- end }}

{{- /* binder-egress.policies: the `spec` of each policy for user pods, by name, as JSON; empty in modes without isolation. */}}
{{- define "binder-egress.policies" -}}
{{- $policies := dict -}}
{{- if include "binder-egress.enforcing" . -}}
{{- $name := include "binder-egress.fullname" . -}}
{{- $_ := set $policies (printf "%s-base" $name) (include "binder-egress.policies.base" . | fromYaml) -}}
{{- if ne .Values.mode "deny" -}}
{{- range $tier, $values := .Values.tiers -}}
{{- $labels := set (deepCopy $.Values.userPods.labels) "binder-egress/tier" $tier -}}
{{- $where := print "tiers." $tier -}}
{{- $policy := dict "root" $ "selector" (dict "matchLabels" $labels) "values" $values "where" $where "types" (list "Egress") -}}
{{- $spec := include "binder-egress.policies.egress" $policy | fromJson -}}
{{- $_ := set $policies (include "binder-egress.objectName" (list $ (print "tier-" $tier))) $spec -}}
{{- end -}}
{{- if and (include "binder-egress.canary" .) (include "binder-egress.running" .) -}}
{{- $_ := set $policies (printf "%s-label-delay" $name) (include "binder-egress.policies.labelDelay" . | fromYaml) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toJson $policies }}
{{- end }}

{{- /*
binder-egress.policies.base: isolates every user pod from birth: it selects labels that user pods always have, never one that is
added later. It isolates in both directions, because a pod with network could relay for a neighbour without.
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

{{- /*
binder-egress.policies.labelDelay: opens one port of a canary to the reconciler while the canary has a label that no tier has. The
reconciler measures how late that takes effect (D-475).
*/}}
{{- define "binder-egress.policies.labelDelay" -}}
podSelector:
  {{- include "binder-egress.canarySelector" (list . (dict "binder-egress/tier" "label.delay")) | nindent 2 }}
policyTypes: [Ingress]
ingress:
  - from:
      - podSelector:
          matchLabels:
            {{- include "binder-egress.matchLabels" (list . "reconciler") | nindent 12 }}
    ports:
      - {port: 8085, protocol: TCP}
{{- end }}

{{- /*
binder-egress.policies.egress: the spec of the policy of a tier, or of `builds`, as JSON. Takes a dict: root, selector (podSelector,
as a map), values (of the tier), where (the name of that value, for refusals; empty if there is none), types (policyTypes).
*/}}
{{- define "binder-egress.policies.egress" -}}
{{- $root := .root -}}
{{- $listed := .values.ports | default dict -}}
{{- $tcp := include "binder-egress.netpol.ports" (list "TCP" $listed.tcp) -}}
{{- $ports := print $tcp (include "binder-egress.netpol.ports" (list "UDP" $listed.udp)) -}}
{{- /* Not `merge`, which ignores the `false` of an exception that is off. */ -}}
{{- $except := deepCopy $root.Values.except -}}
{{- range $cidr, $on := .values.except }}{{ $_ := set $except $cidr $on }}{{ end -}}
{{- $banned := include "binder-egress.banned" $root | fromJsonArray -}}
{{- $rules := list -}}
{{- if ne (get .values "dns" | toString) "false" -}}
{{- $rules = include "binder-egress.netpol.dns" $root | fromYamlArray | concat $rules -}}
{{- end -}}
{{- /*
One rule for each CIDR: kube-router keeps a rule's CIDRs in one set with their exceptions, which would then apply to all of them.
*/ -}}
{{- range $cidr := include "binder-egress.enabledKeys" .values.cidrs | fromJsonArray -}}
{{- $asked := dict "cidr" $cidr "except" $except "banned" $banned "where" $.where -}}
{{- $found := include "binder-egress.cidr.exceptions" $asked | fromJson -}}
{{- if not $found.closed -}}
{{- $block := dict "cidr" $cidr -}}
{{- with $found.except }}{{ $_ := set $block "except" . }}{{ end -}}
{{- $rule := dict "to" (list (dict "ipBlock" $block)) -}}
{{- with $ports }}{{ $_ := set $rule "ports" (fromYamlArray .) }}{{ end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- with include "binder-egress.netpol.named" .values.extraEgress }}{{ $rules = concat $rules (fromYamlArray .) }}{{ end -}}
{{- $spec := dict "podSelector" .selector "policyTypes" .types "egress" $rules -}}
{{- if has "Ingress" .types }}{{ $_ := set $spec "ingress" list }}{{ end -}}
{{ toJson $spec }}
{{- end }}
