{{- /* The connection to Redis, the chart's or the operator's. */}}

{{- /* binder-egress.redisUrl: the URL of Redis, without its password. With sentinels, only its scheme and database count. */}}
{{- define "binder-egress.redisUrl" -}}
{{- if .Values.redis.enabled -}}
redis://{{ include "binder-egress.redisName" . }}:6379/0
{{- else -}}
{{- with .Values.externalRedis -}}
{{ ternary "rediss" "redis" .tls }}://{{ .host | default "sentinel" }}:{{ .port }}/{{ .database }}
{{- end }}
{{- end }}
{{- end }}

{{- /*
binder-egress.redisSentinels: the addresses of sentinels, as a JSON list; empty without them, and with the chart's Redis.
*/}}
{{- define "binder-egress.redisSentinels" -}}
{{- if .Values.redis.enabled }}[]{{ else }}{{ include "binder-egress.enabledKeys" .Values.externalRedis.sentinel.hosts }}{{ end }}
{{- end }}

{{- /* binder-egress.redisCa: the source of the volume with the authority for Redis' certificate, as YAML, or nothing. */}}
{{- define "binder-egress.redisCa" -}}
{{- with .Values.externalRedis -}}
{{- if and (not $.Values.redis.enabled) .tls (or .ca.existingSecret .ca.existingConfigMap) -}}
{{- $items := list (dict "key" .ca.key "path" "ca.crt") -}}
{{- if .ca.existingSecret -}}
{{ dict "secret" (dict "secretName" .ca.existingSecret "items" $items) | toYaml }}
{{- else -}}
{{ dict "configMap" (dict "name" .ca.existingConfigMap "items" $items) | toYaml }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /*
binder-egress.redisPasswordEnv: the passwords of Redis and its sentinels, as items of a container's `env`. Takes (list root
process): verifier, reconciler, proxy or receiver. With the chart's Secret, each has only its own password; the operator's own
Secret may have only the shared one (D-241).
*/}}
{{- define "binder-egress.redisPasswordEnv" -}}
{{- $process := index . 1 -}}
{{- with index . 0 -}}
{{- $external := and (not .Values.redis.enabled) .Values.externalRedis.existingSecret -}}
{{- if .Values.redis.enabled -}}
- name: BINDER_EGRESS_REDIS_USER_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "binder-egress.secretName" . }}
      key: redis-{{ $process }}-password
      {{- if .Values.secret.existingSecret }}
      optional: true
      {{- end }}
{{ end -}}
{{- if or (not .Values.redis.enabled) .Values.secret.existingSecret -}}
- name: BINDER_EGRESS_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $external | default (include "binder-egress.secretName" .) }}
      key: {{ ternary .Values.externalRedis.existingSecretKey "redis-password" (not (empty $external)) }}
      {{- if not .Values.redis.enabled }}
      # The operator's own Redis may have no password.
      optional: {{ empty $external }}
      {{- end }}
{{- end }}
{{- if and .Values.externalRedis.sentinel.existingSecret (not .Values.redis.enabled) }}
{{- with .Values.externalRedis.sentinel }}
- name: BINDER_EGRESS_REDIS_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .existingSecretKey }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* binder-egress.netpol.redis: the egress rule to Redis, the chart's or the operator's. */}}
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
    {{- range include "binder-egress.redisSentinels" . | fromJsonArray }}
    {{- $ports = splitList ":" . | last | append $ports }}
    {{- end }}
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

{{- /*
binder-egress.bytes: a size in bytes, from Redis' notation (`64mb`) or Kubernetes' (`128Mi`, `1.5G`, `1e9`). Takes a text. Other
units are read as bytes.
*/}}
{{- define "binder-egress.bytes" -}}
{{- $units := dict "kb" 1024 "mb" 1048576 "gb" 1073741824 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776
  "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "m" 0.001 -}}
{{- $unit := regexFind `[A-Za-z]+$` . -}}
{{ mulf (trimSuffix $unit . | float64) (get $units $unit | default 1) }}
{{- end }}
