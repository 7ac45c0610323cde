{{- /* The admission policies. */}}

{{- /*
binder-egress.hasAdmission: "true" if the cluster has ValidatingAdmissionPolicy. A tool that only renders may not know the cluster's
kinds, so there the version counts too. In a cluster it does not: if the kind is switched off, the installation would fail.
*/}}
{{- define "binder-egress.hasAdmission" -}}
{{- $version := and (not (include "binder-egress.canLookup" .)) (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- if or $version (.Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy") }}true{{ end }}
{{- end }}

{{- /*
binder-egress.admission: "true" if an admission policy is to be created: it is on, there are pods to protect, and the cluster has
that kind. Takes (list root on).
*/}}
{{- define "binder-egress.admission" -}}
{{- $root := index . 0 -}}
{{- if and (index . 1) (include "binder-egress.running" $root) (include "binder-egress.hasAdmission" $root) }}true{{ end }}
{{- end }}

{{- /* binder-egress.missingAdmission: the admission policies that are on in the values but are not created, as a JSON list. */}}
{{- define "binder-egress.missingAdmission" -}}
{{- $missing := list -}}
{{- range $name, $on := .Values.admissionPolicies -}}
{{- if and $on (not (include "binder-egress.hasAdmission" $)) }}{{ $missing = append $missing $name }}{{ end -}}
{{- end -}}
{{ toJson $missing }}
{{- end }}

{{- /* binder-egress.admission.account: the user name of the reconciler's ServiceAccount. */}}
{{- define "binder-egress.admission.account" -}}
{{- $account := include "binder-egress.accountName" (list . "reconciler" .Values.reconciler.serviceAccount) -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ $account }}
{{- end }}
