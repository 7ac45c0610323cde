{{- /* Keys, secrets, and the checksums that replace pods when they change. Named templates take the root context, unless they say otherwise. */}}

{{- /*
binder-egress.generates: the keys of our Secret that have no value in the values, so that they are made or looked up; JSON list, empty
with an existing Secret.
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

{{- /*
binder-egress.secretChecksum: changes with the secrets that the verifier reads once, so that it is replaced. Only what stands in the values
counts: what was made or looked up does not change in an upgrade. Cut, so that nobody who may read pods can try passwords against it.
*/}}
{{- define "binder-egress.secretChecksum" -}}
{{- list .Values.secret .Values.externalRedis | toJson | sha256sum | trunc 4 | quote }}
{{- end }}

{{- /*
binder-egress.redisSecretChecksum: the same for what Redis and the reconciler read. A rotation of signing keys must not restart Redis: it
would forget the passes that the rotation is meant to keep.
*/}}
{{- define "binder-egress.redisSecretChecksum" -}}
{{- list .Values.secret.existingSecret .Values.secret.redisPassword .Values.externalRedis | toJson | sha256sum | trunc 4 | quote }}
{{- end }}

{{- /* binder-egress.captchaSecretsEnv: the secrets of the enabled remote providers, as items of a container's env. */}}
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
