{{- /* The settings of verifier and reconciler, as they are in the ConfigMap. */}}

{{- /*
binder-egress.toldHosts: the part of a host list that pages name, as a JSON list: its groups, and the first four of the hosts. Empty
without the egress proxy, and if user pods are not isolated. Takes a list: the root, the tier or `unverified`.
*/}}
{{- define "binder-egress.toldHosts" -}}
{{- $root := index . 0 -}}
{{- $told := list -}}
{{- $hosts := list -}}
{{- if and (include "binder-egress.proxy" $root) (include "binder-egress.enforcing" $root) -}}
{{- range include "binder-egress.enabledKeys" (index . 1).hosts | fromJsonArray -}}
{{- if not (contains "." .) }}{{ $told = append $told . }}{{ else if lt (len $hosts) 4 }}{{ $hosts = append $hosts . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $hosts }}{{ $told = append $told . }}{{ end -}}
{{ toJson $told }}
{{- end }}

{{- /* binder-egress.toldRepositories: the patterns of repositories that have more hosts behind the proxy, as a JSON list. */}}
{{- define "binder-egress.toldRepositories" -}}
{{- $told := list -}}
{{- if and (include "binder-egress.proxy" .) (include "binder-egress.enforcing" .) -}}
{{- range $name, $hosts := include "binder-egress.proxyRepositories" . | fromJson -}}
{{- if $hosts }}{{ $told = append $told $name }}{{ end -}}
{{- end -}}
{{- end -}}
{{ toJson $told }}
{{- end }}

{{- /*
binder-egress.toldTier: what verifier and reconciler know about a tier besides its policy, as JSON. Ports are as people read them:
443, 53/UDP. A tier that opens the internet only through the proxy opens the proxy's two ports. Takes a list: the root, the tier.
*/}}
{{- define "binder-egress.toldTier" -}}
{{- $root := index . 0 -}}
{{- $tier := index . 1 -}}
{{- $cidrs := include "binder-egress.enabledKeys" $tier.cidrs | fromJsonArray -}}
{{- $ports := dig "ports" "tcp" dict $tier | include "binder-egress.enabledKeys" | fromJsonArray -}}
{{- range dig "ports" "udp" dict $tier | include "binder-egress.enabledKeys" | fromJsonArray -}}
{{- $ports = append $ports (printf "%s/UDP" .) -}}
{{- end -}}
{{- $told := dict "internet" (or (has "0.0.0.0/0" $cidrs) (has "2000::/3" $cidrs) (has "::/0" $cidrs)) -}}
{{- $hosts := include "binder-egress.toldHosts" (list $root $tier) | fromJsonArray -}}
{{- $direct := not (empty $cidrs) -}}
{{- range $tier.extraEgress }}{{ if ne (get . "enabled" | toString) "false" }}{{ $direct = true }}{{ end }}{{ end -}}
{{- if and (has "*" $hosts) (not $told.internet) -}}
{{- $_ := set $told "internet" true -}}
{{- $ports = $ports | default (list "443" "80") -}}
{{- end -}}
{{- if $hosts -}}
{{- $_ := set $told "hosts" $hosts -}}
{{- if not $direct }}{{ $_ := set $told "direct" false }}{{ end -}}
{{- end -}}
{{- with $ports }}{{ $_ := set $told "ports" . }}{{ end -}}
{{- with $tier.description }}{{ $_ := set $told "description" . }}{{ end -}}
{{- with $tier.rank }}{{ $_ := set $told "rank" (int64 .) }}{{ end -}}
{{- with $tier.lease -}}
{{- $_ := set $told "lease" (int64 .) -}}
{{- $_ := set $told "on_expiry" ($tier.onExpiry | default "end") -}}
{{- end -}}
{{ toJson $told }}
{{- end }}

{{- /* binder-egress.remoteProviders: the enabled remote captcha providers, sorted, as a JSON list. */}}
{{- define "binder-egress.remoteProviders" -}}
{{- $names := list -}}
{{- range $name, $provider := omit .Values.captcha.providers "altcha" -}}
{{- if $provider.enabled }}{{ $names = append $names $name }}{{ end -}}
{{- end -}}
{{ sortAlpha $names | toJson }}
{{- end }}

{{- /*
binder-egress.captchaHostnames: hosts on whose pages captchas may be solved, as a JSON list. Empty, for any host, if our own is not
known.
*/}}
{{- define "binder-egress.captchaHostnames" -}}
{{- $hosts := include "binder-egress.enabledKeys" .Values.captcha.hostnames | fromJsonArray -}}
{{- if not $hosts -}}
{{- $hosts = include "binder-egress.hosts" . | fromJsonArray -}}
{{- with .Values.publicUrl }}{{ $hosts = append $hosts (urlParse .).hostname }}{{ end -}}
{{- if $hosts -}}
{{- /* D-155 */}}
{{- range without .Values.allowedOrigins "*" }}{{ $hosts = append $hosts (urlParse .).hostname }}{{ end -}}
{{- end -}}
{{- if contains "*" (join " " $hosts) }}{{ $hosts = list }}{{ end -}}
{{- end -}}
{{ $hosts | uniq | sortAlpha | toJson }}
{{- end }}

{{- /*
binder-egress.apiKeys: the enabled entries of `apiKeys.keys`, as JSON, for the verifier's file. `int64`, because numbers in Helm are
floats, and large ones would be written with an exponent.
*/}}
{{- define "binder-egress.apiKeys" -}}
{{- $found := dict -}}
{{- range $name, $key := .Values.apiKeys.keys -}}
{{- if $key }}{{ $_ := set $found $name (merge (dict "serversPerDay" (int64 $key.serversPerDay)) $key) }}{{ end -}}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{- /*
binder-egress.detections: the enabled sources of reports, by name, as JSON: what follows their reports, without their tokens.
Empty without a source.
*/}}
{{- define "binder-egress.detections" -}}
{{- $found := dict -}}
{{- range $name, $source := .Values.detections.sources -}}
{{- if kindIs "map" $source -}}
{{- $_ := set $found $name (dict "on_match" ($source.onMatch | default "observe") "lists" ($source.lists | default dict)) -}}
{{- end -}}
{{- end -}}
{{- range $own := list "agent" "proxy" -}}
{{- if and (include (printf "binder-egress.%s" $own) $) (not (hasKey $found $own)) -}}
{{- $_ := set $found $own (dict "on_match" "observe" "lists" dict) -}}
{{- end -}}
{{- end -}}
{{- with $found }}{{ toJson . }}{{ end -}}
{{- end }}

{{- /* binder-egress.config: the settings, as environment variables of the image. */}}
{{- define "binder-egress.config" -}}
{{- $tiers := dict -}}
{{- range $name, $tier := .Values.tiers -}}
{{- $_ := set $tiers $name (list $ $tier | include "binder-egress.toldTier" | fromJson) -}}
{{- end -}}
{{- $providers := dict -}}
{{- range $name, $provider := .Values.captcha.providers -}}
{{- if $provider.enabled -}}
{{- $_ := set $providers $name (omit $provider "enabled" "existingSecret" "existingSecretKey") -}}
{{- end -}}
{{- end -}}
BINDER_EGRESS_MODE: {{ .Values.mode }}
BINDER_EGRESS_TIERS: {{ toJson $tiers | quote }}
BINDER_EGRESS_UNVERIFIED_HOSTS: {{ list . .Values.unverified | include "binder-egress.toldHosts" | quote }}
BINDER_EGRESS_REPOSITORIES_WITH_HOSTS: {{ include "binder-egress.toldRepositories" . | quote }}
BINDER_EGRESS_ALLOW_TIER: {{ .Values.allow.tier | quote }}
BINDER_EGRESS_BLOCKED_REPOSITORIES: {{ include "binder-egress.enabledKeys" .Values.rules.blockedRepositories | quote }}
BINDER_EGRESS_SELF_NETWORKS: {{ include "binder-egress.enabledKeys" .Values.rules.selfNetworks | quote }}
BINDER_EGRESS_TRUSTED_REPOSITORIES: {{ include "binder-egress.tiersByName" .Values.rules.trustedRepositories | quote }}
BINDER_EGRESS_AUTHENTICATED_USERS: {{ include "binder-egress.tiersByName" .Values.rules.authenticatedUsers | quote }}
BINDER_EGRESS_AUTHENTICATED_GROUPS: {{ include "binder-egress.tiersByName" .Values.rules.authenticatedGroups | quote }}
BINDER_EGRESS_MAY_STOP_PODS: {{ .Values.reconciler.mayStopPods | quote }}
BINDER_EGRESS_BRANDING: {{ toJson .Values.branding | quote }}
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
{{- with include "binder-egress.detections" . }}
BINDER_EGRESS_DETECTIONS: {{ . | quote }}
{{- end }}
BINDER_EGRESS_TRUSTED_PROXIES: {{ toJson .Values.trustedProxies | quote }}
BINDER_EGRESS_USER_POD_LABELS: {{ toJson .Values.userPods.labels | quote }}
BINDER_EGRESS_PUBLIC_URL: {{ .Values.publicUrl | quote }}
BINDER_EGRESS_HUB_URL: {{ .Values.hubUrl | quote }}
BINDER_EGRESS_LOG_LEVEL: {{ .Values.logLevel }}
{{- end }}
