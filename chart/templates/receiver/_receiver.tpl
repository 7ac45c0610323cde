{{- /* The receiver of reports. */}}

{{- /*
binder-egress.receiver: "true" if the receiver runs: somebody can report over HTTP, with a token or as the agent. A source without a
token only needs `egress detect`.
*/}}
{{- define "binder-egress.receiver" -}}
{{- if include "binder-egress.running" . -}}
{{- $reporters := .Values.agent.enabled -}}
{{- range .Values.detections.sources -}}
{{- if kindIs "map" . }}{{ $reporters = or $reporters .tokenHash $.Values.detections.existingSecret }}{{ end -}}
{{- end -}}
{{- if $reporters }}true{{ end -}}
{{- end -}}
{{- end }}
