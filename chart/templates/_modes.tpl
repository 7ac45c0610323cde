{{- /* Questions about the mode and the cluster: "true" or nothing. */}}

{{- /* binder-egress.running: "true" in the modes in which verifier, reconciler and Redis run. */}}
{{- define "binder-egress.running" -}}
{{- if has .Values.mode (list "captcha" "observe" "allow") }}true{{ end }}
{{- end }}

{{- /* binder-egress.off: "true" in the mode off. Without quotes, YAML reads off as false. */}}
{{- define "binder-egress.off" -}}
{{- if has .Values.mode (list "off" false) }}true{{ end }}
{{- end }}

{{- /* binder-egress.enforcing: "true" in the modes in which user pods are isolated. */}}
{{- define "binder-egress.enforcing" -}}
{{- if has .Values.mode (list "captcha" "allow" "deny") }}true{{ end }}
{{- end }}

{{- /*
binder-egress.canLookup: "true" when Helm talks to a cluster. It looks up a list, which is never empty, not even in a namespace that
--create-namespace creates only after rendering. It is a list of NetworkPolicies, because everybody who installs this chart may
read those.
*/}}
{{- define "binder-egress.canLookup" -}}
{{- if lookup "networking.k8s.io/v1" "NetworkPolicy" .Release.Namespace "" }}true{{ end }}
{{- end }}
