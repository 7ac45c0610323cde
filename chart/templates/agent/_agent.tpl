{{- /* The agent. */}}

{{- /*
binder-egress.agentUses: what the base policy opens, and what the start guard tries, as JSON. The kubelet fills in the addresses of
Services, and leaves those as they are that are not there.
*/}}
{{- define "binder-egress.agentUses" -}}
{{- $proxy := printf "%s-proxy" (include "binder-egress.fullname" .) | upper | replace "-" "_" -}}
{{- $open := list -}}
{{- if .Values.base.allowHub }}{{ $open = append $open "$(HUB_SERVICE_HOST):8081" }}{{ end -}}
{{- if include "binder-egress.proxy" . }}{{ $open = printf "$(%s_SERVICE_HOST):3128" $proxy | append $open }}{{ end -}}
{{- $api := list "$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)" -}}
{{ dict "open" $open "tried" $api "dns" .Values.base.allowDns | toJson }}
{{- end }}

{{- /* binder-egress.agent: "true" if the agent runs. */}}
{{- define "binder-egress.agent" -}}
{{- if and .Values.agent.enabled (include "binder-egress.running" .) }}true{{ end }}
{{- end }}
