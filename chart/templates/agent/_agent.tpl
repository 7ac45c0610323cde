{{- /* The agent. */}}

{{- /* binder-egress.agent: "true" if the agent runs. */}}
{{- define "binder-egress.agent" -}}
{{- if and .Values.agent.enabled (include "binder-egress.running" .) }}true{{ end }}
{{- end }}
