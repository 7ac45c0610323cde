{{- /*
Labels of objects and pods. `commonLabels` and a component's own labels are not in any selector: selectors cannot be changed, and
other pods may have the same labels.
*/}}

{{- /*
binder-egress.matchLabels: the labels by which Services, policies and Deployments select a component. Takes (list root component).
*/}}
{{- define "binder-egress.matchLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "binder-egress.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* binder-egress.labels: the labels of an object. Takes (list root component). */}}
{{- define "binder-egress.labels" -}}
{{ include "binder-egress.moreLabels" (list (index . 0) (index . 1) dict) }}
{{- end }}

{{- /*
binder-egress.moreLabels: the labels of an object, with the operator's labels; ours win. Takes (list root component labels).
*/}}
{{- define "binder-egress.moreLabels" -}}
{{- $root := index . 0 -}}
{{- $ours := include "binder-egress.matchLabels" (list $root (index . 1)) | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/version" ($root.Chart.AppVersion | replace "+" "_" | trunc 63) -}}
{{- $_ := set $ours "app.kubernetes.io/part-of" "binder-egress" -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $chart := printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- $_ := set $ours "helm.sh/chart" $chart -}}
{{ merge $ours (index . 2) $root.Values.commonLabels | toYaml }}
{{- end }}

{{- /* binder-egress.podLabels: the labels of a pod; ours win. Takes (list root component podLabels). */}}
{{- define "binder-egress.podLabels" -}}
{{- $ours := include "binder-egress.matchLabels" (list (index . 0) (index . 1)) | fromYaml -}}
{{ merge $ours (index . 2 | default dict) (index . 0).Values.commonLabels | toYaml }}
{{- end }}

{{- /* binder-egress.metadata: the metadata of a component's main objects. Takes (list root component). */}}
{{- define "binder-egress.metadata" -}}
metadata:
  name: {{ include "binder-egress.fullname" (index . 0) }}-{{ index . 1 }}
  labels:
    {{- include "binder-egress.labels" . | nindent 4 }}
{{- end }}

{{- /* binder-egress.service: the Service of a component with one port. Takes (list root component name-of-the-port port). */}}
{{- define "binder-egress.service" -}}
apiVersion: v1
kind: Service
{{ include "binder-egress.metadata" . }}
spec:
  selector:
    {{- include "binder-egress.matchLabels" . | nindent 4 }}
  ports:
    - name: {{ index . 2 }}
      port: {{ index . 3 }}
      targetPort: {{ index . 2 }}
      protocol: TCP
{{- end }}

{{- /* binder-egress.pdb: the PodDisruptionBudget of a component, if its values have one. Takes (list root component). */}}
{{- define "binder-egress.pdb" -}}
{{- with (get (index . 0).Values (index . 1)).pdb }}
{{- if .enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
{{ include "binder-egress.metadata" $ }}
spec:
  maxUnavailable: {{ .maxUnavailable }}
  # No pod is ready while Redis is away. Nodes can be drained then, too.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "binder-egress.matchLabels" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end }}
