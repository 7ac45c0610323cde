{{- /* CIDRs and their exceptions. Named templates take the root context, unless they say otherwise. */}}

{{- /*
binder-egress.cidr.groups: the groups of a CIDR's address, as {"list": [number, …], "width": bits of a group, "prefix": length}, JSON.
IPv4 has 4 groups of 8 bits, IPv6 8 of 16 bits. Takes the CIDR.
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
binder-egress.cidr.inside: "true" if a CIDR lies inside another and is smaller, else nothing. The API server refuses a policy with an `except` that
does not. Takes (list inner outer).
*/}}
{{- define "binder-egress.cidr.inside" -}}
{{- $inner := include "binder-egress.cidr.groups" (index . 0) | fromJson -}}
{{- $outer := include "binder-egress.cidr.groups" (index . 1) | fromJson -}}
{{- $inside := and (eq $inner.width $outer.width) (gt $inner.prefix $outer.prefix) -}}
{{- if $inside -}}
{{- range $i, $group := $outer.list -}}
{{- /* Of each group, only the bits that the outer prefix covers count: shift the others out. */ -}}
{{- $bits := sub $outer.prefix (mul $i $outer.width) | max 0 | min $outer.width | int -}}
{{- $shift := index (list 1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536) (sub $outer.width $bits | int) -}}
{{- if ne (div (index $inner.list $i) $shift) (div $group $shift) }}{{ $inside = false }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $inside }}true{{ end -}}
{{- end }}

{{- /*
binder-egress.banned: the entries of bannedAddresses, each as {"cidr", "v6", "start", "prefix"}, JSON list. `start` is the first 32 bits of the address,
which are enough to tell which part of the address space it lies in.
*/}}
{{- define "binder-egress.banned" -}}
{{- $found := dict -}}
{{- range $list := .Values.bannedAddresses -}}
{{- range $address := $list | default list -}}
{{- $cidr := contains "/" $address | ternary $address (contains ":" $address | ternary (print $address "/128") (print $address "/32")) -}}
{{- $_ := set $found $cidr (include "binder-egress.cidr.start" $cidr | fromJson) -}}
{{- end -}}
{{- end -}}
{{- $entries := list -}}
{{- range $cidr := keys $found | sortAlpha }}{{ $entries = append $entries (get $found $cidr) }}{{ end -}}
{{ toJson $entries }}
{{- end }}

{{- /* binder-egress.cidr.start: a CIDR as an entry of binder-egress.banned, JSON. */}}
{{- define "binder-egress.cidr.start" -}}
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

{{- /*
binder-egress.netpol.blocks: a CIDR without its exceptions, as one line of JSON {"cidr", "except"} or, with more than `limit` exceptions, several that
add up to the same. Exceptions cannot be spread over rules of one CIDR, for rules add up: so the CIDR is halved until each half has few enough.
Takes a dict: v6, start, prefix (as in binder-egress.banned, prefix at most 32), cidr (its text, empty for a half), except (entries as in
binder-egress.banned, all inside), limit.
*/}}
{{- define "binder-egress.netpol.blocks" -}}
{{- if or (le (len .except) .limit) (ge (int .prefix) 30) -}}
{{- $cidr := .cidr -}}
{{- if and (not $cidr) .v6 -}}
{{- $cidr = printf "%x:%x::/%d" (div .start 65536) (mod .start 65536) (int .prefix) -}}
{{- else if not $cidr -}}
{{- $cidr = printf "%d.%d.%d.%d/%d" (div .start 16777216) (mod (div .start 65536) 256) (mod (div .start 256) 256) (mod .start 256) (int .prefix) -}}
{{- end -}}
{{- $except := list -}}
{{- range .except }}{{ $except = append $except .cidr }}{{ end -}}
{{ dict "cidr" $cidr "except" $except | toJson }}
{{ else -}}
{{- $prefix := add .prefix 1 -}}
{{- $size := int64 1 -}}
{{- range until (sub 32 $prefix | int) }}{{ $size = mul $size 2 }}{{ end -}}
{{- range $start := list (int64 .start) (add .start $size) -}}
{{- $end := add $start $size -}}
{{- $inside := list -}}
{{- $gone := false -}}
{{- range $.except -}}
{{- $at := int64 .start -}}
{{- if le (int64 .prefix) (int64 $prefix) -}}
{{- /* As large as this half, or larger: all of it is an exception, or nothing. */ -}}
{{- if and (le $at $start) (or (lt (int64 .prefix) (int64 $prefix)) (eq $at $start)) }}{{ $gone = true }}{{ end -}}
{{- else if and (ge $at $start) (lt $at $end) -}}
{{- $inside = append $inside . -}}
{{- end -}}
{{- end -}}
{{- if not $gone -}}
{{ include "binder-egress.netpol.blocks" (dict "v6" $.v6 "start" $start "prefix" $prefix "cidr" "" "except" $inside "limit" $.limit) }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /*
binder-egress.netpol.reachable: what of some CIDRs is left, as a JSON list of lists of {"cidr", "except"}: a list for each CIDR, with several entries where it
was divided. Takes a dict: root, cidrs, except (maps), banned (entries of binder-egress.banned).
*/}}
{{- define "binder-egress.netpol.reachable" -}}
{{- $except := .except -}}
{{- $banned := .banned -}}
{{- $found := list -}}
{{- range $cidr := include "binder-egress.enabledKeys" .cidrs | fromJsonArray -}}
{{- $whole := include "binder-egress.cidr.start" $cidr | fromJson -}}
{{- $inside := list -}}
{{- range include "binder-egress.enabledKeys" $except | fromJsonArray -}}
{{- if include "binder-egress.cidr.inside" (list . $cidr) }}{{ $inside = append $inside (include "binder-egress.cidr.start" . | fromJson) }}{{ end -}}
{{- end -}}
{{- $gone := false -}}
{{- range $banned -}}
{{- if eq .v6 $whole.v6 -}}
{{- /* Everything lies inside a whole address family. */ -}}
{{- if or (and (eq (int $whole.prefix) 0) (gt (int .prefix) 0)) (include "binder-egress.cidr.inside" (list .cidr $cidr)) -}}
{{- $inside = append $inside . -}}
{{- else if or (eq .cidr $cidr) (include "binder-egress.cidr.inside" (list $cidr .cidr)) -}}
{{- $gone = true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $gone -}}
{{- $lines := merge (dict "cidr" $cidr "except" ($inside | uniq) "limit" 2500) $whole | include "binder-egress.netpol.blocks" | trim | splitList "\n" -}}
{{- $blocks := list -}}
{{- range $lines }}{{ if . }}{{ $blocks = append $blocks (fromJson .) }}{{ end }}{{ end -}}
{{- if $blocks }}{{ $found = append $found $blocks }}{{ end -}}
{{- end -}}
{{- end -}}
{{ toJson $found }}
{{- end }}

{{- /* binder-egress.netpol.block: the rule of one block. Takes (list block ports), the ports as YAML text. */}}
{{- define "binder-egress.netpol.block" -}}
- to:
    - ipBlock:
        cidr: {{ (index . 0).cidr | quote }}
        {{- with (index . 0).except }}
        except:
          {{- range . }}
          - {{ . | quote }}
          {{- end }}
        {{- end }}
  {{- with index . 1 }}
  ports:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}
