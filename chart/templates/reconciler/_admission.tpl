{{- /* The admission policies. Named templates take the root context, unless they say otherwise. */}}

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
{{- $account := include "binder-egress.accountName" (list . "reconciler" .Values.reconciler.serviceAccount) -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ $account }}
{{- end }}
