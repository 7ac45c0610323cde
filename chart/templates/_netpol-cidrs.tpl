{{- /*
CIDRs and their exceptions. The API server refuses a policy with an `except` outside of its CIDR, so each exception is compared with
each CIDR. Helm has no function for that. It is not done elsewhere either: the addresses are the operators' values, which only Helm
reads before it writes the policies, and a process that wrote policies in Helm's place could open the gate. Thousands of banned
addresses go through these templates, so no loop over them may be quadratic: `append` and `uniq` go through their whole list each
time, `set` does not.
*/}}

{{- /*
binder-egress.cidr.groups: the groups of a CIDR's address, as JSON {"list": [number, …], "width": bits of a group, "prefix":
length}. IPv4 has 4 groups of 8 bits, IPv6 8 groups of 16 bits. Takes the CIDR.
*/}}
{{- define "binder-egress.cidr.groups" -}}
{{- $address := splitList "/" . | first -}}
{{- $groups := list -}}
{{- if contains ":" . -}}
{{- $halves := splitList "::" $address -}}
{{- $left := without (splitList ":" (first $halves)) "" -}}
{{- $right := ternary list (without (splitList ":" (last $halves)) "") (eq (len $halves) 1) -}}
{{- range $left }}{{ $groups = append $groups (int64 (print "0x" .)) }}{{ end -}}
{{- range untilStep (add (len $left) (len $right) | int) 8 1 }}{{ $groups = append $groups 0 }}{{ end -}}
{{- range $right }}{{ $groups = append $groups (int64 (print "0x" .)) }}{{ end -}}
{{- else -}}
{{- range splitList "." $address }}{{ $groups = append $groups (int64 .) }}{{ end -}}
{{- end -}}
{{- dict "list" $groups "width" (ternary 16 8 (contains ":" .)) "prefix" (splitList "/" . | last | int64) | toJson -}}
{{- end }}

{{- /*
binder-egress.cidr.overlap: "true" if one of two CIDRs lies inside the other or they are the same, however they are written, else
nothing. Takes a list of both.
*/}}
{{- define "binder-egress.cidr.overlap" -}}
{{- $one := include "binder-egress.cidr.groups" (index . 0) | fromJson -}}
{{- $other := include "binder-egress.cidr.groups" (index . 1) | fromJson -}}
{{- $overlap := eq $one.width $other.width -}}
{{- if $overlap -}}
{{- $prefix := min $one.prefix $other.prefix -}}
{{- range $i, $group := $other.list -}}
{{- /* Only the bits of each group that the shorter prefix covers count. The others are shifted out. */ -}}
{{- $bits := sub $prefix (mul $i $other.width) | max 0 | min $other.width | int -}}
{{- $shift := index (list 1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536) (sub $other.width $bits | int) -}}
{{- if ne (div (index $one.list $i) $shift) (div $group $shift) }}{{ $overlap = false }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $overlap }}true{{ end -}}
{{- end }}

{{- /*
binder-egress.cidr.inside: "true" if a CIDR lies inside another and is smaller, else nothing. Takes (list inner outer).
*/}}
{{- define "binder-egress.cidr.inside" -}}
{{- $prefixes := list -}}
{{- range . }}{{ $prefixes = splitList "/" . | last | int64 | append $prefixes }}{{ end -}}
{{- if gt (first $prefixes) (last $prefixes) }}{{ include "binder-egress.cidr.overlap" . }}{{ end -}}
{{- end }}

{{- /*
binder-egress.cidr.entry: a CIDR with numbers for comparison, as JSON {"cidr", "v6", "start": the first 32 bits of its address,
"prefix"}. Takes the CIDR.
*/}}
{{- define "binder-egress.cidr.entry" -}}
{{- $v6 := contains ":" . -}}
{{- $start := int64 0 -}}
{{- if $v6 -}}
{{- $groups := (include "binder-egress.cidr.groups" . | fromJson).list -}}
{{- $start = add (mul (index $groups 0 | int64) 65536) (index $groups 1 | int64) -}}
{{- else -}}
{{- range splitList "." (splitList "/" . | first) }}{{ $start = add (mul $start 256) (int64 .) }}{{ end -}}
{{- end -}}
{{- dict "cidr" . "v6" $v6 "start" $start "prefix" (splitList "/" . | last | int64) | toJson -}}
{{- end }}

{{- /* binder-egress.banned: the entries of bannedAddresses as binder-egress.cidr.entry has them, each once, as a JSON list.
Decision: D-114. */}}
{{- define "binder-egress.banned" -}}
{{- $found := dict -}}
{{- range $list := .Values.bannedAddresses -}}
{{- range $address := $list | default list -}}
{{- $host := contains ":" $address | ternary "/128" "/32" -}}
{{- $_ := set $found (contains "/" $address | ternary $address (print $address $host)) true -}}
{{- end -}}
{{- end -}}
[{{ range $i, $cidr := keys $found | sortAlpha }}{{ if $i }},{{ end }}{{ include "binder-egress.cidr.entry" $cidr }}{{ end }}]
{{- end }}

{{- /*
binder-egress.cidr.exceptions: the closed parts of a CIDR, as JSON {"closed": all of it is banned, "except": [CIDR, …]}. Refuses
more than 2,500 exceptions (D-205). Takes a dict: cidr, except (a map {CIDR: true|false}), banned (as binder-egress.banned), where
(the value with the CIDR, for the refusal; empty if no value has it, and then there is no limit).
*/}}
{{- define "binder-egress.cidr.exceptions" -}}
{{- $cidr := .cidr -}}
{{- $outer := include "binder-egress.cidr.entry" $cidr | fromJson -}}
{{- $powers := list (int64 1) -}}
{{- range until 32 }}{{ $powers = append $powers (last $powers | mul 2) }}{{ end -}}
{{- $prefix := int64 $outer.prefix -}}
{{- $size := sub 32 $prefix | max 0 | int | index $powers -}}
{{- /* Without the bits behind the prefix, which the API server ignores: 198.51.100.7/24 begins at 198.51.100.0. */ -}}
{{- $start := div (int64 $outer.start) $size | mul $size -}}
{{- $end := add $start $size -}}
{{- $inside := dict -}}
{{- range include "binder-egress.enabledKeys" .except | fromJsonArray -}}
{{- if include "binder-egress.cidr.inside" (list . $cidr) }}{{ $_ := set $inside . true }}{{ end -}}
{{- end -}}
{{- $closed := false -}}
{{- range .banned -}}
{{- if eq .v6 $outer.v6 -}}
{{- $at := int64 .start -}}
{{- $bits := int64 .prefix -}}
{{- if and (gt $bits $prefix) (le $prefix 32) -}}
{{- if and (ge $at $start) (lt $at $end) }}{{ $_ := set $inside .cidr true }}{{ end -}}
{{- else if le $bits 32 -}}
{{- /* As wide as the CIDR, or wider. */ -}}
{{- $shift := sub 32 $bits | int | index $powers -}}
{{- if eq (div $at $shift) (div $start $shift) }}{{ $closed = true }}{{ end -}}
{{- else if eq $at $start -}}
{{- /* Two IPv6 networks with the same first 32 bits. */ -}}
{{- if include "binder-egress.cidr.overlap" (list .cidr $cidr) -}}
{{- if gt $bits $prefix }}{{ $_ := set $inside .cidr true }}{{ else }}{{ $closed = true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .where (gt (len $inside) 2500) (not $closed) -}}
{{- $found := printf "%s.cidrs: %s has %d exceptions from except and bannedAddresses" .where $cidr (len $inside) -}}
{{- fail (print $found ", and 2,500 is the limit for one CIDR: join neighbouring addresses into networks, or list parts of the "
  "CIDR instead, such as 0.0.0.0/1 and 128.0.0.0/1 for 0.0.0.0/0.") -}}
{{- end -}}
{{ dict "closed" $closed "except" (keys $inside | sortAlpha) | toJson }}
{{- end }}
