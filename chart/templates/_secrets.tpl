{{- /* Keys, secrets, and the checksums that replace pods when they change. */}}

{{- /*
binder-egress.generates: the keys of the chart's Secret that are not in the values, and so are generated or looked up, as a JSON
list. Empty with an existing Secret.
*/}}
{{- define "binder-egress.generates" -}}
{{- $keys := list -}}
{{- if not .Values.secret.existingSecret -}}
{{- if not .Values.secret.signingKeys }}{{ $keys = append $keys "signing-keys" }}{{ end -}}
{{- if not .Values.secret.apiToken }}{{ $keys = append $keys "api-token" }}{{ end -}}
{{- if and .Values.redis.enabled (not .Values.secret.redisPassword) }}{{ $keys = append $keys "redis-password" }}{{ end -}}
{{- end -}}
{{ toJson $keys }}
{{- end }}

{{- /* binder-egress.randomSecrets: those that this rendering generated without being able to look them up, as a JSON list. */}}
{{- define "binder-egress.randomSecrets" -}}
{{- if include "binder-egress.canLookup" . }}[]{{ else }}{{ include "binder-egress.generates" . }}{{ end }}
{{- end }}

{{- /*
binder-egress.secretChecksum: changes with the secrets that the verifier reads only once, so that its pods are replaced. Only
secrets in the values count: those that were generated or looked up do not change in an upgrade. It has four digits, so that people
who may read pods cannot try passwords against it.
*/}}
{{- define "binder-egress.secretChecksum" -}}
{{- list .Values.secret .Values.externalRedis | toJson | sha256sum | trunc 4 | quote }}
{{- end }}

{{- /*
binder-egress.redisSecretChecksum: a checksum of the secrets of Redis and the reconciler. A rotation of signing keys must not
restart Redis, which would forget the used passes (D-091).
*/}}
{{- define "binder-egress.redisSecretChecksum" -}}
{{- list .Values.secret.existingSecret .Values.secret.redisPassword .Values.externalRedis | toJson | sha256sum | trunc 4 | quote }}
{{- end }}

{{- /* binder-egress.captchaSecretsEnv: the secrets of the enabled remote providers, as items of a container's `env`. */}}
{{- define "binder-egress.captchaSecretsEnv" -}}
{{- range $name := include "binder-egress.remoteProviders" . | fromJsonArray }}
{{- $provider := get $.Values.captcha.providers $name }}
- name: BINDER_EGRESS_CAPTCHA_SECRET_{{ upper $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $provider.existingSecret | default (include "binder-egress.secretName" $) }}
      key: {{ $provider.existingSecretKey | default (printf "captcha-%s" $name) }}
{{- end }}
{{- end }}
