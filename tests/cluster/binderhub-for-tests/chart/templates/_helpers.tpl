{{- define "labels" -}}
app: {{ .app }}
component: {{ .component }}
release: {{ .root.Release.Name }}
{{- end }}

{{- define "container" -}}
image: {{ .Values.image }}
imagePullPolicy: IfNotPresent
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "pod" -}}
terminationGracePeriodSeconds: 2
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* An environment in map form, as JupyterHub's chart takes it: text, or what Kubernetes takes beside a name. */ -}}
{{- define "extraEnv" -}}
{{- range $name, $value := . }}
- name: {{ $name | quote }}
  {{- if kindIs "map" $value }}
  {{- toYaml $value | nindent 2 }}
  {{- else }}
  value: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "hub.config" -}}
jupyterhub_config.py: |
  {{- .Files.Get "files/jupyterhub_config.py" | nindent 2 }}
values.yaml: |
  {{- pick .Values.jupyterhub "custom" "hub" "singleuser" | toYaml | nindent 2 }}
binder-token: {{ .Values.tokens.binder }}
proxy-token: {{ .Values.tokens.proxy }}
{{- end }}

{{- define "binder.config" -}}
binderhub_config.py: |
  {{- .Files.Get "files/binderhub_config.py" | nindent 2 }}
standin.py: |
  {{- .Files.Get "files/standin.py" | nindent 2 }}
values.yaml: |
  {{- pick .Values "config" "extraConfig" "cached" | toYaml | nindent 2 }}
{{- end }}
