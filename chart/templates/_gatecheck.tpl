{{- /* Pods that try, with packets, what a user pod reaches: the canary, and the pods of `helm test`. */}}

{{- /*
binder-egress.canary: "true" if there is a canary, else nothing. It needs isolated user pods, and something that reports
its result: the reconciler, or its own readiness.
*/}}
{{- define "binder-egress.canary" -}}
{{- $reported := or .Values.canary.readiness (include "binder-egress.running" .) -}}
{{- if and .Values.canary.enabled (include "binder-egress.enforcing" .) $reported }}true{{ end }}
{{- end }}

{{- /*
binder-egress.probe.shut: the targets that an unverified pod must not reach, name → target, as JSON. It leaves out DNS and the hub
if the base policy opens them.
*/}}
{{- define "binder-egress.probe.shut" -}}
{{- $targets := dict -}}
{{- $service := include "binder-egress.fullname" . | upper | replace "-" "_" -}}
{{- range $name, $target := .Values.gatecheck.shut -}}
{{- /* Kubernetes names the variable after the Service, whose name is a value. */ -}}
{{- if $target -}}
{{- $_ := set $targets $name ($target | replace "$(BINDER_EGRESS_SERVICE" (printf "$(%s_SERVICE" $service)) -}}
{{- end -}}
{{- end -}}
{{- if .Values.base.allowHub }}{{ $targets = omit $targets "hub" }}{{ end -}}
{{- if not .Values.base.allowDns }}{{ $_ := set $targets "dns" "dns:///" }}{{ end -}}
{{ toJson $targets }}
{{- end }}

{{- /*
binder-egress.canary.spec: the spec of a canary's pod. Takes (list root command readiness), readiness being whether the pod is ready
only while everything is shut.
*/}}
{{- define "binder-egress.canary.spec" -}}
{{- $root := index . 0 -}}
{{- $interval := $root.Values.canary.interval -}}
{{- $env := list (dict "name" "BINDER_EGRESS_PROBE_INTERVAL" "value" (toString $interval)) -}}
{{- /* Three missed rounds, and as many time-outs. Otherwise a canary that hangs would go on reporting its last result. */ -}}
{{- $limit := add (mul 3 $interval) 120 -}}
{{- $alive := printf "test $(($(date +%%s) - $(stat -c %%Y /tmp/beat))) -lt %d" $limit -}}
{{- $command := dict "command" (list "sh" "-c" $alive) -}}
{{- $liveness := dict "exec" $command "initialDelaySeconds" 120 "periodSeconds" 60 "timeoutSeconds" 10 -}}
{{- $probes := dict "livenessProbe" $liveness -}}
{{- /* D-185 */ -}}
{{- if index . 2 -}}
{{- $shut := dict "command" (list "test" "-e" "/tmp/shut") -}}
{{- $_ := set $probes "readinessProbe" (dict "exec" $shut "periodSeconds" 5 "timeoutSeconds" 5) -}}
{{- end -}}
{{- $targets := include "binder-egress.probe.shut" $root | fromJson -}}
{{- $more := dict "restartPolicy" "Always" "isolated" "true" "targets" $targets "env" $env "probes" $probes -}}
{{ include "binder-egress.probe.spec" (merge (dict "root" $root "command" (index . 1)) $more) }}
{{- end }}

{{- /* binder-egress.nodeCanaries: "true" if there is a canary on each node, else nothing: the reconciler asks them. */}}
{{- define "binder-egress.nodeCanaries" -}}
{{- if and .Values.canary.onEachNode (include "binder-egress.canary" .) (include "binder-egress.running" .) }}true{{ end }}
{{- end }}

{{- /* binder-egress.canarySelector: selects the canaries, and no other pod that stands in for a user's. Takes (list root labels),
labels being more that they must have. */}}
{{- define "binder-egress.canarySelector" -}}
matchLabels:
  {{- merge (deepCopy (index . 1)) (index . 0).Values.userPods.labels | toYaml | nindent 2 }}
matchExpressions:
  - {key: binder-egress/gatecheck, operator: In, values: [canary, node-canary]}
{{- end }}

{{- /*
binder-egress.probe.labels: the labels of a pod that stands in for a user pod, but without `app: jupyterhub`, by which BinderHub
counts servers. Takes (list root canary|node-canary|test).
*/}}
{{- define "binder-egress.probe.labels" -}}
{{- $root := index . 0 -}}
{{- $ours := dict "binder-egress/gatecheck" (index . 1) -}}
{{ merge $ours $root.Values.userPods.labels $root.Values.gatecheck.podLabels $root.Values.commonLabels | toYaml }}
{{- end }}

{{- /*
binder-egress.probe.spec: the spec of a pod that tries targets. Takes a dict: root, command (canary, node, once, shut or control),
restartPolicy, isolated ("true" if policies select the pod), targets (name → target), env (more variables), probes (of the
container).
*/}}
{{- define "binder-egress.probe.spec" -}}
{{- $root := .root -}}
automountServiceAccountToken: false
# For the variables with the addresses of this namespace's Services: the pod has no DNS.
enableServiceLinks: true
# The API server removes it immediately. A canary that is still ending fails a `helm rollback` to the release that had it
# (`no Pod with the name …`).
terminationGracePeriodSeconds: 0
securityContext:
  {{- include "binder-egress.podSecurityContext" (list 10001 $root.Values.gatecheck.podSecurityContext) | nindent 2 }}
  {{- with include "binder-egress.sysctls" $root.Values.gatecheck.sysctls }}
  {{- . | nindent 2 }}
  {{- end }}
{{- include "binder-egress.placement" (list $root $root.Values.gatecheck) | nindent 0 }}
restartPolicy: {{ .restartPolicy }}
containers:
  - name: probe
    {{- include "binder-egress.ownImage" $root | nindent 4 }}
    command: [binder-egress, probe, {{ .command }}]
    env:
      # The probe fills in variables itself, because it adds brackets to IPv6 addresses. $$ keeps the kubelet from doing so.
      - name: BINDER_EGRESS_PROBE_TARGETS
        value: {{ toJson .targets | replace "$(" "$$(" | quote }}
      - name: BINDER_EGRESS_ISOLATED
        value: {{ .isolated | quote }}
      - name: HOST_IP
        valueFrom:
          fieldRef:
            fieldPath: status.hostIP
      {{- if and (include "binder-egress.proxy" $root) (eq .isolated "true") }}
      # Only pods with a user pod's labels reach the proxy. The kubelet knows the proxy's Service now, or at the canary's
      # second start, which follows its first result.
      - name: BINDER_EGRESS_PROBE_PROXY
        value: $({{ include "binder-egress.fullname" $root | upper | replace "-" "_" }}_PROXY_SERVICE_HOST)
      - name: BINDER_EGRESS_PROBE_ADDRESSES
        valueFrom:
          fieldRef:
            fieldPath: status.podIPs
      {{- end }}
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with .probes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $root.Values.gatecheck }}
    {{- include "binder-egress.confined" (list .resources .securityContext) | nindent 4 }}
    {{- end }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 1Mi
{{- end }}
