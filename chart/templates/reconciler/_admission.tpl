{{- /* The admission policies. */}}

{{- /*
binder-egress.admission: "true" if an admission policy is to be made: it is on, there are pods to protect, and the cluster has that
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
