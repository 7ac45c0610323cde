{{- /*
binder-egress.binderhubValues: the values for a BinderHub that is a release of its own: `integration.binderhub`, with the names and
the path of this release. In modes without our policies, JupyterHub's own policy and ping stay as they are, and nothing
is said about missing access.
*/}}
{{- define "binder-egress.binderhubValues" -}}
{{- $token := dict "name" (include "binder-egress.secretName" .) "key" "api-token" "optional" true -}}
{{- $verifier := printf "$(BINDER_LAUNCH_HOST)%s/" (base .Values.ingress.path) -}}
{{- with .Values.publicUrl }}{{ $verifier = printf "%s%s" . $.Values.ingress.path }}{{ end -}}
{{- $page := printf "%sservers/$(JUPYTERHUB_USER)/$(JUPYTERHUB_SERVER_NAME)" $verifier -}}
{{- $image := include "binder-egress.image" (list . "image") -}}
{{- $isolated := printf "%s-start-guard" (include "binder-egress.fullname" .) -}}
{{- $proxy := printf "%s-proxy-variables" (include "binder-egress.fullname" .) -}}
{{- $guard := dict "image" $image "pullPolicy" .Values.image.pullPolicy "configMap" $isolated "proxyConfigMap" $proxy -}}
{{- $variables := dict "BINDER_EGRESS_URL" $page -}}
{{- range $name := list "HTTP_PROXY" "HTTPS_PROXY" "http_proxy" "https_proxy" "NODE_USE_ENV_PROXY" -}}
{{- $_ := set $variables $name (dict "valueFrom" (dict "configMapKeyRef" (dict "name" $proxy))) -}}
{{- end -}}
{{- $ours := dict
  "extraEnv" (dict
    "BINDER_EGRESS_API" (printf "http://%s:8081" (include "binder-egress.fullname" .))
    "BINDER_EGRESS_API_TOKEN" (dict "valueFrom" (dict "secretKeyRef" $token)))
  "jupyterhub" (dict
    "custom" (dict "binderEgress" (dict "startGuard" $guard))
    "singleuser" (dict "extraEnv" $variables)) -}}
{{- $values := mergeOverwrite (deepCopy .Values.integration.binderhub) $ours -}}
{{- $_ := set $values.jupyterhub.custom.binderEgress "userPodLabels" .Values.userPods.labels -}}
{{- /*
The launch page looks for the verifier at `egress/` below BinderHub's base_url, unless a meta element names another address.
*/ -}}
{{- if or .Values.publicUrl (ne .Values.ingress.path "/egress/") -}}
{{- $meta := printf "<meta name=\"binder-egress\" content=\"%s%s\">" (html .Values.publicUrl) .Values.ingress.path -}}
{{- /* Its key sorts before the key of the script that reads it. */ -}}
{{- $header := dict "binder-egress-address" $meta -}}
{{- $values = mergeOverwrite $values (dict "config" (dict "BinderHub" (dict "extra_header_html" $header))) -}}
{{- end -}}
{{- if not (include "binder-egress.enforcing" .) -}}
{{- $_ := unset $values.jupyterhub.singleuser "networkPolicy" -}}
{{- $_ := set $values.jupyterhub.custom.binderEgress "closePing" false -}}
{{- else if .Values.hint -}}
{{- $values = mergeOverwrite $values (deepCopy .Values.integration.hint) -}}
{{- end -}}
{{ toYaml $values }}
{{- end }}

{{- /*
binder-egress.refuseLists: fails if the variables of BinderHub or of user servers are a list. Helm does not merge a map into a list:
it keeps the list, drops our variables, and only warns. For a parent chart's templates, because a sub-chart does not see these
values. Takes the values of BinderHub.
*/}}
{{- define "binder-egress.refuseLists" -}}
{{- $user := dig "jupyterhub" "singleuser" "extraEnv" dict . -}}
{{- range $name, $variables := dict "extraEnv" (get . "extraEnv") "jupyterhub.singleuser.extraEnv" $user -}}
{{- if kindIs "slice" $variables -}}
{{- fail (printf "%s of BinderHub is a list, so the variables of binder-egress are lost: write it as a map." $name) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /*
binder-egress.refuse: for a parent chart's templates. Does binder-egress.refuseLists, fails if binderhub-service beside JupyterHub
lacks our variables, which no import brings into its list, and fails if the start guard has another image than our pods, because an
imported value does not follow `image`. Takes the parent's root.
*/}}
{{- define "binder-egress.refuse" -}}
{{- $service := get .Values "binderhub-service" | default dict -}}
{{- $beside := not .Values.binderhub -}}
{{- include "binder-egress.refuseLists" ($beside | ternary (dict "jupyterhub" .Values.jupyterhub) .Values.binderhub) -}}
{{- if and $beside (ne (toString $service.enabled) "false") (not (contains "BINDER_EGRESS_API" (toJson $service.extraEnv))) -}}
{{- fail "extraEnv of binderhub-service lacks BINDER_EGRESS_API and BINDER_EGRESS_API_TOKEN: `egress plan` writes the list." -}}
{{- end -}}
{{- $ours := include "binder-egress.image" (list (index .Subcharts "binder-egress") "image") -}}
{{- $hub := $beside | ternary .Values.jupyterhub (dig "jupyterhub" dict (.Values.binderhub | default dict)) -}}
{{- $guard := dig "custom" "binderEgress" "startGuard" dict $hub -}}
{{- if and $guard.enabled (ne (toString $guard.image) $ours) -}}
{{- fail (printf "The start guard has the image %q, not %q: set %sjupyterhub.custom.binderEgress.startGuard.image."
  (toString $guard.image) $ours ($beside | ternary "" "binderhub.")) -}}
{{- end -}}
{{- end }}
