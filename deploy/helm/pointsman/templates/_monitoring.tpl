{{/* The PromQL matchers of this installation's series, which the operator labels with the namespace of their pod. */}}
{{- define "pointsman.matchers" -}}
{{- with .Values.monitoring.cluster }}cluster="{{ . }}",{{ end }}namespace="{{ .Release.Namespace }}"
{{- end }}

{{/* A PromQL expression with these matchers in each selector; call with (dict "expr" EXPR "matchers" MATCHERS). */}}
{{- define "pointsman.scoped" -}}
{{- $name := `((?:\w+:)?pointsman[_:][\w:]*|vllm:\w+|\bup)` }}
{{- $braced := regexReplaceAll (printf `%s\{` $name) .expr (printf `${1}{%s,` .matchers) }}
{{- regexReplaceAll (printf `%s([^\w:{]|$)` $name) $braced (printf `${1}{%s}${2}` .matchers) }}
{{- end }}
