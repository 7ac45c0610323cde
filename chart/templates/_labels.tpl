{{- /* Labels of objects and pods. Only matchLabels goes into selectors. Named templates take the root context, unless they say otherwise. */}}

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
