{{- /* Pods that try with packets what a user pod reaches: the canary, and those of `helm test`. Named templates take the root context, unless they say otherwise. */}}

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
{{- range $name, $target := .Values.gatecheck.shut -}}
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
{{- $ours := dict "binder-egress/gatecheck" (index . 1) -}}
{{ merge $ours $root.Values.userPods.labels $root.Values.gatecheck.podLabels $root.Values.commonLabels | toYaml }}
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
  {{- include "binder-egress.podSecurityContext" (list 10001 $root.Values.gatecheck.podSecurityContext) | nindent 2 }}
  {{- with $root.Values.gatecheck.sysctls }}
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
{{- with include "binder-egress.scheduling" $root.Values.gatecheck }}
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
      {{- toYaml $root.Values.gatecheck.resources | nindent 6 }}
    securityContext:
      {{- include "binder-egress.securityContext" $root.Values.gatecheck.securityContext | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 1Mi
{{- end }}
