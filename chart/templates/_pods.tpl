{{- /* Parts of pods: images, security contexts, scheduling, and the operator's additions. */}}

{{- /*
binder-egress.image: the reference of an image. global.imageRegistry replaces the registry in its name: a first part with a dot or a
colon, or localhost. Takes (list root value), value being where the image is in the values: `image`, `agent.image`.
*/}}
{{- define "binder-egress.image" -}}
{{- $root := index . 0 -}}
{{- $registry := $root.Values.global.imageRegistry -}}
{{- $image := $root.Values -}}
{{- range splitList "." (index . 1) }}{{ $image = get $image . }}{{ end -}}
{{- $name := $image.name -}}
{{- if not $name -}}
{{- fail (printf "%s.name is empty, for a checkout names no image: build it, push it and name it there (docs/install.md)."
  (index . 1)) -}}
{{- end -}}
{{- if $registry -}}
{{- $name = printf "%s/%s" $registry (regexReplaceAll `^([^/]*[.:][^/]*|localhost)/` $name "") -}}
{{- end -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* binder-egress.imagePullSecrets: the pull secrets of all pods, and the secrets of `global`, as a JSON list of {name: …}. */}}
{{- define "binder-egress.imagePullSecrets" -}}
{{- $secrets := .Values.imagePullSecrets -}}
{{- range .Values.global.imagePullSecrets -}}
{{- $secrets = kindIs "string" . | ternary (dict "name" .) . | append $secrets -}}
{{- end -}}
{{ $secrets | uniq | toJson }}
{{- end }}

{{- /*
binder-egress.podSecurityContext: the securityContext of a pod, with the operator's fields over ours. The schema refuses fields that
weaken it (D-206). `false` leaves out an id, for clusters that choose ids themselves, such as OpenShift. Takes (list uid
podSecurityContext); the gid is the uid.
*/}}
{{- define "binder-egress.podSecurityContext" -}}
{{- $uid := index . 0 -}}
{{- $seccomp := dict "type" "RuntimeDefault" -}}
{{- $fields := dict "runAsNonRoot" true "runAsUser" $uid "runAsGroup" $uid "fsGroup" $uid "seccompProfile" $seccomp -}}
{{- range $field, $value := index . 1 -}}
{{- if eq (toString $value) "false" }}{{ $_ := unset $fields $field }}{{ else }}{{ $_ := set $fields $field $value }}{{ end -}}
{{- end -}}
{{ toYaml $fields }}
{{- end }}

{{- /* binder-egress.sysctls: the field `sysctls` of a pod's securityContext, or nothing. Takes the map of the values. */}}
{{- define "binder-egress.sysctls" -}}
{{- $sysctls := list -}}
{{- range $name, $value := . -}}
{{- if $value }}{{ $sysctls = append $sysctls (dict "name" $name "value" $value) }}{{ end -}}
{{- end -}}
{{- with $sysctls -}}
{{ toYaml (dict "sysctls" .) }}
{{- end -}}
{{- end }}

{{- /* binder-egress.securityContext: the hardened securityContext of a container. Takes the securityContext of the values. */}}
{{- define "binder-egress.securityContext" -}}
{{- $drop := dict "drop" (list "ALL") -}}
{{- $fields := dict "runAsNonRoot" true "readOnlyRootFilesystem" true "allowPrivilegeEscalation" false "capabilities" $drop -}}
{{- range $field, $value := . }}{{ $_ := set $fields $field $value }}{{ end -}}
{{ toYaml $fields }}
{{- end }}

{{- /* binder-egress.confined: what a container may take and do, as its fields. Takes (list resources securityContext). */}}
{{- define "binder-egress.confined" -}}
resources:
  {{- toYaml (index . 0) | nindent 2 }}
securityContext:
  {{- include "binder-egress.securityContext" (index . 1) | nindent 2 }}
{{- end }}

{{- /*
binder-egress.scheduling: where a pod may run and its priority, as fields of its spec. Takes the values of a component.
*/}}
{{- define "binder-egress.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- /* binder-egress.placement: pull secrets and scheduling, as fields of a pod's spec. Takes (list root values). */}}
{{- define "binder-egress.placement" -}}
{{- with include "binder-egress.imagePullSecrets" (index . 0) | fromJsonArray -}}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- include "binder-egress.scheduling" (index . 1) }}
{{- end }}

{{- /* binder-egress.ownImage: the image of our processes, as fields of a container. */}}
{{- define "binder-egress.ownImage" -}}
image: {{ include "binder-egress.image" (list . "image") | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- /* binder-egress.settings: variables from our ConfigMap, as items of a list. Takes (list root names). */}}
{{- define "binder-egress.settings" -}}
{{- $root := index . 0 -}}
{{- range index . 1 }}
- name: BINDER_EGRESS_{{ . }}
  valueFrom:
    configMapKeyRef:
      name: {{ include "binder-egress.fullname" $root }}
      key: BINDER_EGRESS_{{ . }}
{{- end }}
{{- end }}

{{- /*
binder-egress.probes: the probes of a process with a port. Alive: whether it answers. Redis does not count, because a restart would
not bring it back. Ready: whether it can do its work. Takes the port's name.
*/}}
{{- define "binder-egress.probes" -}}
{{- $alive := dict "path" "/healthz" "port" . -}}
startupProbe: {{ dict "httpGet" $alive "periodSeconds" 1 "timeoutSeconds" 3 "failureThreshold" 120 | toYaml | nindent 2 }}
livenessProbe: {{ dict "httpGet" $alive "periodSeconds" 10 "timeoutSeconds" 3 "failureThreshold" 6 | toYaml | nindent 2 }}
{{- $ready := dict "path" "/readyz" "port" . }}
readinessProbe: {{ dict "httpGet" $ready "periodSeconds" 5 "timeoutSeconds" 3 | toYaml | nindent 2 }}
{{- end }}

{{- /*
binder-egress.topologySpread: topologySpreadConstraints for a pod's spec, or nothing. A constraint without a selector would count no
pods, so it gets our selector. Takes (list root component constraints).
*/}}
{{- define "binder-egress.topologySpread" -}}
{{- $labels := include "binder-egress.matchLabels" (list (index . 0) (index . 1)) | fromYaml -}}
{{- $ours := dict "labelSelector" (dict "matchLabels" $labels) -}}
{{- with index . 2 }}
topologySpreadConstraints:
  {{- range . }}
  - {{ hasKey . "labelSelector" | ternary . (merge (deepCopy .) $ours) | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end }}

{{- /*
binder-egress.extraEnv, binder-egress.extraVolumes, binder-egress.extraVolumeMounts: the operator's additions to a container, as
items of its lists, or nothing. Each takes the map of the values.
*/}}
{{- define "binder-egress.extraEnv" -}}
{{- range $name, $value := . }}
{{- if kindIs "map" $value }}
- name: {{ $name }}
  valueFrom:
    {{- toYaml $value.valueFrom | nindent 4 }}
{{- else if kindIs "string" $value }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- define "binder-egress.extraVolumes" -}}
{{- range $name, $source := . }}
{{- if $source }}
- name: {{ $name }}
  {{- toYaml $source | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- define "binder-egress.extraVolumeMounts" -}}
{{- range $path, $mount := . }}
{{- if $mount }}
- mountPath: {{ $path | quote }}
  {{- toYaml $mount | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- /*
binder-egress.volumes, binder-egress.volumeMounts: the volumes and mounts of verifier and reconciler, as items of lists. Each takes
(list root values), with the values of the component.
*/}}
{{- define "binder-egress.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with include "binder-egress.redisCa" (index . 0) }}
- name: redis-ca
  {{- . | nindent 2 }}
{{- end }}
{{- include "binder-egress.extraVolumes" (index . 1).extraVolumes }}
{{- end }}
{{- define "binder-egress.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if include "binder-egress.redisCa" (index . 0) }}
- name: redis-ca
  mountPath: /etc/binder-egress/redis-ca
  readOnly: true
{{- end }}
{{- include "binder-egress.extraVolumeMounts" (index . 1).extraVolumeMounts }}
{{- end }}

{{- /*
binder-egress.account: the ServiceAccount of a component, if it is to be created. Takes (list root component serviceAccount), the
last from the values.
*/}}
{{- define "binder-egress.account" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- if $values.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "binder-egress.accountName" . }}
  labels:
    {{- include "binder-egress.labels" (list $root (index . 1)) | nindent 4 }}
  {{- with $values.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
# A pod that needs the token requests it itself.
automountServiceAccountToken: false
{{- end }}
{{- end }}
