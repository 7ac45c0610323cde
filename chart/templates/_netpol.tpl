{{- /*
Rules of NetworkPolicies. The peers of a rule are alternatives, and so are its ports; rules add up. Danger: a rule without `to` or
`from` means everywhere, a rule without `ports` every port, and a policy with an empty podSelector every pod (D-103).
*/}}

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
binder-egress.netpol.refusePorts: fails if the API server would refuse a port or a range that is on. Takes (list name ports), with
the name for the message.
*/}}
{{- define "binder-egress.netpol.refusePorts" -}}
{{- $name := index . 0 -}}
{{- range include "binder-egress.enabledKeys" (index . 1) | fromJsonArray }}
{{- $ends := splitList "-" . }}
{{- if or (regexMatch `(^|-)0` .) (gt (last $ends | atoi) 65535) (gt (first $ends | atoi) (last $ends | atoi)) }}
{{- fail (printf (print "%s has %q, which is neither a port nor a range: ports are 1 to 65535, and a range begins with the "
  "lower one.") $name .) }}
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

{{- /* binder-egress.netpol.dns: the egress rule to the DNS servers of `dns`. */}}
{{- define "binder-egress.netpol.dns" -}}
# DNS
- to:
    - namespaceSelector:
        matchLabels:
          {{- include "binder-egress.netpol.labels" .Values.dns.namespaceLabels | nindent 10 }}
      podSelector:
        matchLabels:
          {{- include "binder-egress.netpol.labels" .Values.dns.podLabels | nindent 10 }}
    {{- with include "binder-egress.netpol.cidrs" (list .Values.dns.cidrs dict) }}
    {{- . | trim | nindent 4 }}
    {{- end }}
  ports:
    {{- include "binder-egress.netpol.ports" (list "UDP" .Values.dns.ports) | trim | nindent 4 }}
    {{- include "binder-egress.netpol.ports" (list "TCP" .Values.dns.ports) | trim | nindent 4 }}
{{- end }}

{{- /* binder-egress.netpol.of: the policy of a component, up to its rules. Takes (list root component). */}}
{{- define "binder-egress.netpol.of" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
{{ include "binder-egress.metadata" . }}
spec:
  podSelector:
    matchLabels:
      {{- include "binder-egress.matchLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}
