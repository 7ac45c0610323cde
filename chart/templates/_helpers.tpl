{{- /*
Named templates of binder-egress. All of them take the root context, unless they say otherwise.
*/}}

{{- /* binder-egress.fullname: the name of all objects, or how it begins. */}}
{{- define "binder-egress.fullname" -}}
{{- .Values.fullnameOverride }}
{{- end }}

{{- /*
binder-egress.running: "true" in the modes in which verifier, reconciler and Redis run, else nothing.
*/}}
{{- define "binder-egress.running" -}}
{{- if has .Values.mode (list "captcha" "observe" "allow") }}true{{ end }}
{{- end }}

{{- /* binder-egress.off: "true" in the mode off, else nothing. Without quotes, YAML takes off for false. */}}
{{- define "binder-egress.off" -}}
{{- if has .Values.mode (list "off" false) }}true{{ end }}
{{- end }}

{{- /* binder-egress.enforcing: "true" in the modes in which user pods are isolated, else nothing. */}}
{{- define "binder-egress.enforcing" -}}
{{- if has .Values.mode (list "captcha" "allow" "deny") }}true{{ end }}
{{- end }}

{{- /*
binder-egress.matchLabels: what Services, policies and Deployments select one of our components by.
Takes (list root component).
*/}}
{{- define "binder-egress.matchLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: binder-egress
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* binder-egress.labels: the labels of an object. Takes (list root component). */}}
{{- define "binder-egress.labels" -}}
{{- $root := index . 0 -}}
{{ include "binder-egress.matchLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/part-of: binder-egress
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* binder-egress.moreLabels: the labels of an object with those of the operator; ours win. Takes (list root component labels). */}}
{{- define "binder-egress.moreLabels" -}}
{{- $ours := include "binder-egress.labels" (list (index . 0) (index . 1)) | fromYaml -}}
{{ merge $ours (index . 2) | toYaml }}
{{- end }}

{{- /*
binder-egress.podLabels: the labels of a pod. Ours win, for Services and policies select by them.
Takes (list root component podLabels).
*/}}
{{- define "binder-egress.podLabels" -}}
{{- $ours := include "binder-egress.matchLabels" (list (index . 0) (index . 1)) | fromYaml -}}
{{ merge $ours (index . 2) | toYaml }}
{{- end }}

{{- /*
binder-egress.name: the name of an object whose last part comes from the values, at most 63 characters: what is longer is cut, with a checksum so that
two stay two. Takes (list root rest).
*/}}
{{- define "binder-egress.name" -}}
{{- $name := printf "%s-%s" (include "binder-egress.fullname" (index . 0)) (index . 1) -}}
{{- if gt (len $name) 63 -}}
{{ $name | trunc 54 | trimSuffix "-" }}-{{ $name | sha256sum | trunc 8 }}
{{- else -}}
{{ $name }}
{{- end }}
{{- end }}

{{- /*
binder-egress.image: the reference of an image. Takes (list root image defaultTag), image being {name, tag, digest, …}. What a name begins with
is a registry if it has a dot or a colon, or is localhost; global.imageRegistry takes its place.
*/}}
{{- define "binder-egress.image" -}}
{{- $registry := (index . 0).Values.global.imageRegistry -}}
{{- $image := index . 1 -}}
{{- $name := $image.name -}}
{{- if $registry -}}
{{- $name = printf "%s/%s" $registry (regexReplaceAll `^([^/]*[.:][^/]*|localhost)/` $name "") -}}
{{- end -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default (index . 2) }}
{{- end }}
{{- end }}

{{- /* binder-egress.imagePullSecrets: the pull secrets of all pods, those of global too, as a JSON list of {name: …}. */}}
{{- define "binder-egress.imagePullSecrets" -}}
{{- $secrets := .Values.imagePullSecrets -}}
{{- range .Values.global.imagePullSecrets -}}
{{- $secrets = kindIs "string" . | ternary (dict "name" .) . | append $secrets -}}
{{- end -}}
{{ $secrets | uniq | toJson }}
{{- end }}

{{- /*
binder-egress.podSecurityContext and binder-egress.securityContext: what each of our pods and containers runs as. Not values: a
chart whose purpose is isolation has no switch for its own. Takes the numeric uid, which is the gid too.
*/}}
{{- define "binder-egress.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "binder-egress.securityContext" -}}
runAsNonRoot: true
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
{{- end }}

{{- /*
binder-egress.scheduling: where a pod may run and how important it is, as fields of its spec.
Takes the values of a component: nodeSelector, tolerations, affinity, priorityClassName.
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

{{- /*
binder-egress.topologySpread: topologySpreadConstraints of a pod's spec, or nothing. Takes (list root component constraints). One without a selector
would count nothing.
*/}}
{{- define "binder-egress.topologySpread" -}}
{{- $ours := dict "labelSelector" (dict "matchLabels" (include "binder-egress.matchLabels" (list (index . 0) (index . 1)) | fromYaml)) -}}
{{- with index . 2 }}
topologySpreadConstraints:
  {{- range . }}
  - {{ hasKey . "labelSelector" | ternary . (merge (deepCopy .) $ours) | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end }}

{{- /*
binder-egress.extraEnv, binder-egress.extraVolumes, binder-egress.extraVolumeMounts: what operators add to a container, as items of its lists, or
nothing. Each takes the map of the values.
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

{{- /* binder-egress.hosts: the host names that we are reached at, as a JSON list. */}}
{{- define "binder-egress.hosts" -}}
{{- $hosts := list -}}
{{- if .Values.ingress.enabled }}{{ $hosts = concat $hosts .Values.ingress.hosts }}{{ end -}}
{{- if .Values.httpRoute.enabled }}{{ $hosts = concat $hosts .Values.httpRoute.hostnames }}{{ end -}}
{{ $hosts | uniq | toJson }}
{{- end }}

{{- /* binder-egress.secretName: the Secret with our keys, ours or the operator's. */}}
{{- define "binder-egress.secretName" -}}
{{- .Values.secret.existingSecret | default (include "binder-egress.fullname" .) }}
{{- end }}

{{- /*
binder-egress.canLookup: "true" when Helm talks to a cluster, else nothing. Asked for is a list, because that is never empty, not even
in a namespace that --create-namespace makes only after rendering; and a list of NetworkPolicies, because who installs this
chart may read those.
*/}}
{{- define "binder-egress.canLookup" -}}
{{- if lookup "networking.k8s.io/v1" "NetworkPolicy" .Release.Namespace "" }}true{{ end }}
{{- end }}

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

{{- /* binder-egress.redisName: the Service, Deployment and policy of the Redis in the chart. */}}
{{- define "binder-egress.redisName" -}}
{{ include "binder-egress.fullname" . }}-redis
{{- end }}

{{- /* binder-egress.redisUrl: where Redis is, without its password. With sentinels only the scheme and the database count. */}}
{{- define "binder-egress.redisUrl" -}}
{{- if .Values.redis.enabled -}}
redis://{{ include "binder-egress.redisName" . }}:6379/0
{{- else -}}
{{- with .Values.externalRedis -}}
{{ ternary "rediss" "redis" .tls }}://{{ .host | default "sentinel" }}:{{ .port }}/{{ .database }}
{{- end }}
{{- end }}
{{- end }}

{{- /* binder-egress.redisSentinels: where the sentinels are, as a JSON list; empty without them, and with the Redis of the chart. */}}
{{- define "binder-egress.redisSentinels" -}}
{{- if .Values.redis.enabled }}[]{{ else }}{{ include "binder-egress.enabledKeys" .Values.externalRedis.sentinel.hosts }}{{ end }}
{{- end }}

{{- /* binder-egress.redisCa: the source of the volume with the authority of Redis' certificate, as YAML; nothing without one. */}}
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
binder-egress.volumes and binder-egress.volumeMounts: those of a container that runs our image and talks to Redis, as items of lists. Take
(list root component's values).
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

{{- /* binder-egress.redisPasswordEnv: the environment variables with the passwords of Redis and its sentinels, as items of a container's env. */}}
{{- define "binder-egress.redisPasswordEnv" -}}
{{- $external := and (not .Values.redis.enabled) .Values.externalRedis.existingSecret -}}
- name: BINDER_EGRESS_REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $external | default (include "binder-egress.secretName" .) }}
      key: {{ ternary .Values.externalRedis.existingSecretKey "redis-password" (not (empty $external)) }}
      {{- if not .Values.redis.enabled }}
      # Not every Redis of one's own has a password.
      optional: {{ empty $external }}
      {{- end }}
{{- with .Values.externalRedis.sentinel }}
{{- if and .existingSecret (not $.Values.redis.enabled) }}
- name: BINDER_EGRESS_REDIS_SENTINEL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .existingSecretKey }}
{{- end }}
{{- end }}
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

{{- /*
binder-egress.toldTier: what our processes know of a tier beside its policy, JSON. Takes the tier. Ports are as people read them: 443, 53/UDP.
*/}}
{{- define "binder-egress.toldTier" -}}
{{- $cidrs := include "binder-egress.enabledKeys" .cidrs | fromJsonArray -}}
{{- $ports := dig "ports" "tcp" dict . | include "binder-egress.enabledKeys" | fromJsonArray -}}
{{- range dig "ports" "udp" dict . | include "binder-egress.enabledKeys" | fromJsonArray }}{{ $ports = append $ports (printf "%s/UDP" .) }}{{ end -}}
{{- $told := dict "internet" (or (has "0.0.0.0/0" $cidrs) (has "2000::/3" $cidrs) (has "::/0" $cidrs)) -}}
{{- with $ports }}{{ $_ := set $told "ports" . }}{{ end -}}
{{- with .description }}{{ $_ := set $told "description" . }}{{ end -}}
{{- with .rank }}{{ $_ := set $told "rank" (int64 .) }}{{ end -}}
{{- with .lease }}{{ $_ := set $told "lease" (int64 .) }}{{ $_ := set $told "on_expiry" ($.onExpiry | default "end") }}{{ end -}}
{{ toJson $told }}
{{- end }}

{{- /* binder-egress.remoteProviders: the remote captcha providers that are enabled, sorted, as a JSON list. */}}
{{- define "binder-egress.remoteProviders" -}}
{{- $names := list -}}
{{- range $name, $provider := omit .Values.captcha.providers "altcha" -}}
{{- if $provider.enabled }}{{ $names = append $names $name }}{{ end -}}
{{- end -}}
{{ sortAlpha $names | toJson }}
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

{{- /*
binder-egress.captchaHostnames: hosts on whose pages captchas may be solved, as a JSON list; empty for any. Without knowing our own host we
cannot tell.
*/}}
{{- define "binder-egress.captchaHostnames" -}}
{{- $hosts := include "binder-egress.enabledKeys" .Values.captcha.hostnames | fromJsonArray -}}
{{- if not $hosts -}}
{{- $hosts = include "binder-egress.hosts" . | fromJsonArray -}}
{{- with .Values.publicUrl }}{{ $hosts = append $hosts (urlParse .).hostname }}{{ end -}}
{{- if $hosts -}}
{{- range without .Values.allowedOrigins "*" }}{{ $hosts = append $hosts (urlParse .).hostname }}{{ end -}}
{{- end -}}
{{- if contains "*" (join " " $hosts) }}{{ $hosts = list }}{{ end -}}
{{- end -}}
{{ $hosts | uniq | sortAlpha | toJson }}
{{- end }}

{{- /* binder-egress.tiersByName: a map of names to tiers without those that are false, as JSON. Takes the map. */}}
{{- define "binder-egress.tiersByName" -}}
{{- $found := dict -}}
{{- range $name, $tier := . }}{{ if $tier }}{{ $_ := set $found $name $tier }}{{ end }}{{ end -}}
{{ toJson $found }}
{{- end }}

{{- /*
binder-egress.apiKeys: the entries of `apiKeys.keys` that are on, as JSON: what the verifier reads from its file. Numbers as such, for Helm
has floats, and writes large ones with an exponent.
*/}}
{{- define "binder-egress.apiKeys" -}}
{{- $found := dict -}}
{{- range $name, $key := .Values.apiKeys.keys -}}
{{- if $key }}{{ $_ := set $found $name (merge (dict "serversPerDay" (int64 $key.serversPerDay)) $key) }}{{ end -}}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{- /*
binder-egress.config: our settings, as the environment variables of the image.
*/}}
{{- define "binder-egress.config" -}}
{{- $tiers := dict -}}
{{- range $name, $tier := .Values.tiers }}{{ $_ := set $tiers $name (include "binder-egress.toldTier" $tier | fromJson) }}{{ end -}}
{{- $providers := dict -}}
{{- range $name, $provider := .Values.captcha.providers -}}
{{- if $provider.enabled -}}
{{- $_ := set $providers $name (omit $provider "enabled" "existingSecret" "existingSecretKey") -}}
{{- end -}}
{{- end -}}
BINDER_EGRESS_MODE: {{ .Values.mode }}
BINDER_EGRESS_TIERS: {{ toJson $tiers | quote }}
BINDER_EGRESS_ALLOW_TIER: {{ .Values.allow.tier | quote }}
BINDER_EGRESS_BLOCKED_REPOSITORIES: {{ include "binder-egress.enabledKeys" .Values.rules.blockedRepositories | quote }}
BINDER_EGRESS_SELF_NETWORKS: {{ include "binder-egress.enabledKeys" .Values.rules.selfNetworks | quote }}
BINDER_EGRESS_TRUSTED_REPOSITORIES: {{ include "binder-egress.tiersByName" .Values.rules.trustedRepositories | quote }}
BINDER_EGRESS_AUTHENTICATED_USERS: {{ include "binder-egress.tiersByName" .Values.rules.authenticatedUsers | quote }}
BINDER_EGRESS_AUTHENTICATED_GROUPS: {{ include "binder-egress.tiersByName" .Values.rules.authenticatedGroups | quote }}
BINDER_EGRESS_MAY_STOP_PODS: {{ .Values.reconciler.mayStopPods | quote }}
BINDER_EGRESS_BASE_PATH: {{ .Values.ingress.path | quote }}
BINDER_EGRESS_PUBLIC_PORT: "8080"
BINDER_EGRESS_INTERNAL_PORT: "8081"
BINDER_EGRESS_THREADS: {{ .Values.verifier.threads | quote }}
BINDER_EGRESS_REDIS_URL: {{ include "binder-egress.redisUrl" . | quote }}
BINDER_EGRESS_REDIS_CA: {{ include "binder-egress.redisCa" . | empty | ternary "" "/etc/binder-egress/redis-ca/ca.crt" | quote }}
BINDER_EGRESS_REDIS_SENTINELS: {{ include "binder-egress.redisSentinels" . | quote }}
BINDER_EGRESS_REDIS_SENTINEL_MASTER: {{ .Values.redis.enabled | ternary "" .Values.externalRedis.sentinel.masterName | quote }}
BINDER_EGRESS_PASS_LIFETIME: {{ .Values.passes.lifetime | quote }}
BINDER_EGRESS_PASS_SERVERS: {{ .Values.passes.servers | quote }}
BINDER_EGRESS_LAUNCH_TIMEOUT: {{ .Values.launch.timeout | quote }}
BINDER_EGRESS_LAUNCH_HOLD: {{ .Values.launchPage.hold | quote }}
BINDER_EGRESS_LAUNCH_INTERACTIVE_HOLD: {{ .Values.launchPage.interactiveHold | quote }}
BINDER_EGRESS_FAIRNESS_WINDOW: {{ .Values.fairness.window | quote }}
BINDER_EGRESS_FAIRNESS_DOUBLED_AFTER: {{ int64 .Values.fairness.doubledAfter | quote }}
BINDER_EGRESS_FAIRNESS_BUDGET: {{ int64 .Values.fairness.budget | quote }}
BINDER_EGRESS_FAIRNESS_REJECTIONS: {{ int64 .Values.fairness.rejections | quote }}
BINDER_EGRESS_CLIENT_IPV4_PREFIX: {{ .Values.clientNetwork.ipv4Prefix | quote }}
BINDER_EGRESS_CLIENT_IPV6_PREFIX: {{ .Values.clientNetwork.ipv6Prefix | quote }}
BINDER_EGRESS_LOG_IPV4_PREFIX: {{ .Values.logClientNetwork.ipv4Prefix | quote }}
BINDER_EGRESS_LOG_IPV6_PREFIX: {{ .Values.logClientNetwork.ipv6Prefix | quote }}
BINDER_EGRESS_CAPTCHA_PROVIDERS: {{ toJson $providers | quote }}
BINDER_EGRESS_CAPTCHA_PROOF_OF_WORK: {{ omit .Values.captcha.providers.altcha "enabled" | toJson | quote }}
BINDER_EGRESS_CAPTCHA_ON_OUTAGE: {{ .Values.captcha.onOutage }}
BINDER_EGRESS_CAPTCHA_ALLOW_TEST_KEYS: {{ .Values.captcha.allowTestKeys | quote }}
BINDER_EGRESS_CAPTCHA_HOSTNAMES: {{ include "binder-egress.captchaHostnames" . | quote }}
BINDER_EGRESS_ALLOWED_ORIGINS: {{ toJson .Values.allowedOrigins | quote }}
BINDER_EGRESS_API_KEYS_FILE: /etc/binder-egress/api-keys/keys.json
BINDER_EGRESS_TRUSTED_PROXIES: {{ .Values.trustedProxies | quote }}
BINDER_EGRESS_USER_POD_LABELS: {{ toJson .Values.userPods.labels | quote }}
BINDER_EGRESS_PUBLIC_URL: {{ .Values.publicUrl | quote }}
BINDER_EGRESS_LOG_LEVEL: {{ .Values.logLevel }}
{{- end }}

{{- /*
binder-egress.binderhubValues: the values for a BinderHub that is a release of its own. As integration.binderhub, but with the names
and the path of this release; and without policies of ours JupyterHub's own stays as it is.
*/}}
{{- define "binder-egress.binderhubValues" -}}
{{- $token := dict "name" (include "binder-egress.secretName" .) "key" "api-token" "optional" true -}}
{{- $verifier := printf "$(BINDER_LAUNCH_HOST)%s/" (base .Values.ingress.path) -}}
{{- with .Values.publicUrl }}{{ $verifier = printf "%s%s" . $.Values.ingress.path }}{{ end -}}
{{- $page := printf "%sservers/$(JUPYTERHUB_USER)/$(JUPYTERHUB_SERVER_NAME)" $verifier -}}
{{- $image := include "binder-egress.image" (list . .Values.image .Chart.AppVersion) -}}
{{- $guard := dict "image" $image "pullPolicy" .Values.image.pullPolicy "configMap" (printf "%s-start-guard" (include "binder-egress.fullname" .)) -}}
{{- $ours := dict
  "extraEnv" (dict
    "BINDER_EGRESS_API" (printf "http://%s:8081" (include "binder-egress.fullname" .))
    "BINDER_EGRESS_API_TOKEN" (dict "valueFrom" (dict "secretKeyRef" $token)))
  "jupyterhub" (dict
    "custom" (dict "binderEgress" (dict "startGuard" $guard))
    "singleuser" (dict "extraEnv" (dict "BINDER_EGRESS_URL" $page))) -}}
{{- $values := mergeOverwrite (deepCopy .Values.integration.binderhub) $ours -}}
{{- /* The launch page looks for the verifier at `egress/` below BinderHub's base_url, on its own host, unless a meta element says otherwise. */ -}}
{{- if or .Values.publicUrl (ne .Values.ingress.path "/egress/") -}}
{{- $meta := printf "<meta name=\"binder-egress\" content=\"%s%s\">" (html .Values.publicUrl) .Values.ingress.path -}}
{{- /* Its key sorts before that of the wrapper, which reads it. */ -}}
{{- $header := dict "binder-egress-address" $meta -}}
{{- $values = mergeOverwrite $values (dict "config" (dict "BinderHub" (dict "extra_header_html" $header))) -}}
{{- end -}}
{{- if not (include "binder-egress.enforcing" .) -}}
{{- $_ := unset $values.jupyterhub.singleuser "networkPolicy" -}}
{{- end -}}
{{ toYaml $values }}
{{- end }}

{{- /*
binder-egress.canary: "true" where there is a canary: user pods are isolated, and somebody is told what it saw, by the reconciler or by its
readiness. Else nothing.
*/}}
{{- define "binder-egress.canary" -}}
{{- $told := or .Values.canary.readiness (include "binder-egress.running" .) -}}
{{- if and .Values.canary.enabled (include "binder-egress.enforcing" .) $told }}true{{ end }}
{{- end }}

{{- /*
binder-egress.probe.shut: what an unverified pod must not reach, name → target, as JSON. DNS and the hub are left out where the base policy
opens them.
*/}}
{{- define "binder-egress.probe.shut" -}}
{{- $targets := dict -}}
{{- $service := include "binder-egress.fullname" . | upper | replace "-" "_" -}}
{{- range $name, $target := .Values.proof.shut -}}
{{- /* The variable is named after the Service, and that after fullnameOverride. */ -}}
{{- if $target }}{{ $_ := set $targets $name ($target | replace "$(BINDER_EGRESS_SERVICE" (printf "$(%s_SERVICE" $service)) }}{{ end -}}
{{- end -}}
{{- if .Values.base.allowHub }}{{ $targets = omit $targets "hub" }}{{ end -}}
{{- if not .Values.base.allowDns }}{{ $_ := set $targets "dns" "dns:///" }}{{ end -}}
{{ toJson $targets }}
{{- end }}

{{- /*
binder-egress.probe.labels: what a pod is labelled with that stands in for a user pod. Not with `app: jupyterhub`, which BinderHub counts by.
Takes (list root canary|test).
*/}}
{{- define "binder-egress.probe.labels" -}}
{{- $root := index . 0 -}}
{{- merge (dict "binder-egress/gatecheck" (index . 1)) $root.Values.userPods.labels $root.Values.proof.podLabels | toYaml }}
{{- end }}

{{- /*
binder-egress.probe.spec: the spec of a pod that tries targets. Takes a dict: root, command (canary, once, shut or control), targets (name → target), env
(more variables), probes (of the container).
*/}}
{{- define "binder-egress.probe.spec" -}}
{{- $root := .root -}}
automountServiceAccountToken: false
# Its variables say where Services of this namespace are: without DNS, nothing else does.
enableServiceLinks: true
terminationGracePeriodSeconds: 1
securityContext:
  {{- include "binder-egress.podSecurityContext" 10001 | nindent 2 }}
  {{- with $root.Values.proof.sysctls }}
  sysctls:
    {{- range $name, $value := . }}
    - name: {{ $name }}
      value: {{ $value | quote }}
    {{- end }}
  {{- end }}
{{- with include "binder-egress.imagePullSecrets" $root | fromJsonArray }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "binder-egress.scheduling" $root.Values.proof }}
{{- . | nindent 0 }}
{{- end }}
restartPolicy: {{ .restartPolicy }}
containers:
  - name: probe
    image: {{ include "binder-egress.image" (list $root $root.Values.image $root.Chart.AppVersion) | quote }}
    {{- with $root.Values.image.pullPolicy }}
    imagePullPolicy: {{ . }}
    {{- end }}
    command: [python3, -I, -m, verifier.gatecheck.probe, {{ .command }}]
    env:
      # Variables are filled in by the probe, which knows how IPv6 addresses are written: $$ keeps the kubelet from it.
      - name: BINDER_EGRESS_PROBE_TARGETS
        value: {{ toJson .targets | replace "$(" "$$(" | quote }}
      - name: BINDER_EGRESS_ISOLATED
        value: {{ .isolated | quote }}
      - name: HOST_IP
        valueFrom:
          fieldRef:
            fieldPath: status.hostIP
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with .probes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    resources:
      {{- toYaml $root.Values.proof.resources | nindent 6 }}
    securityContext:
      {{- include "binder-egress.securityContext" $root | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 1Mi
{{- end }}

{{- /*
binder-egress.admission: "true" if an admission policy of ours is to be there: it is on, there is something to protect, and the cluster has that
kind. Takes (list root on).
*/}}
{{- define "binder-egress.admission" -}}
{{- $root := index . 0 -}}
{{- $has := $root.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy" -}}
{{- if and (index . 1) $has (include "binder-egress.running" $root) }}true{{ end }}
{{- end }}

{{- /* binder-egress.admission.account: the user name of the reconciler's ServiceAccount. */}}
{{- define "binder-egress.admission.account" -}}
{{- $name := .Values.reconciler.serviceAccount.name | default (printf "%s-reconciler" (include "binder-egress.fullname" .)) -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ $name }}
{{- end }}
