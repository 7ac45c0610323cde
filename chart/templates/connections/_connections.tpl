{{- /* The part on each node that ends connections. */}}

{{- /* binder-egress.connections: the name of its objects, if it runs, else nothing: without isolation there is nothing to end. */}}
{{- define "binder-egress.connections" -}}
{{- if and .Values.connections.enabled (include "binder-egress.enforcing" .) -}}
{{ include "binder-egress.fullname" . }}-connections
{{- end -}}
{{- end }}
