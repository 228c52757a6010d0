{{/* Where the policy comes from: "files", "configMaps" or the example's name. */}}
{{- define "pointsman.policySource" -}}
{{- if .Values.policy.files }}files
{{- else if .Values.policy.configMaps.policy }}configMaps
{{- else }}{{ .Values.policy.example }}
{{- end }}
{{- end }}

{{/* The policy's files, as YAML: their text by their path. */}}
{{- define "pointsman.policyFiles" -}}
{{- $source := include "pointsman.policySource" . }}
{{- if eq $source "files" }}
{{- toYaml .Values.policy.files }}
{{- else if eq $source "helpdesk" }}
{{- range $path, $_ := .Files.Glob "files/helpdesk/**" }}
{{- $name := trimPrefix "files/helpdesk/" $path }}
{{- if ne $name "kustomization.yaml" }}
{{ $name | quote }}: {{ $.Files.Get $path | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The ConfigMaps, as YAML: the files of each by its name. There is one ConfigMap for each folder and one for each
large file, because a ConfigMap is limited to 1 MiB. */}}
{{- define "pointsman.policyMaps" -}}
{{- $maps := dict }}
{{- range $path, $text := include "pointsman.policyFiles" . | fromYaml }}
{{- $folder := dir $path | replace "." "" }}
{{- if not (has $folder (list "" "prompts" "tasks")) }}
{{- fail (printf "policy.files: '%s' is in the folder '%s'; files are in none, in prompts/ or in tasks/" $path $folder) }}
{{- end }}
{{- if gt (len $text) 1000000 }}
{{- fail (printf "policy.files: '%s' has %d bytes; a ConfigMap holds 1 MiB: split the file" $path (len $text)) }}
{{- end }}
{{- $map := empty $folder | ternary "pointsman-policy" (printf "pointsman-policy-%s" $folder) }}
{{- if gt (len $text) 200000 }}
{{- $map = printf "%s-%s" $map (base $path | lower | replace "_" "-" | replace "." "-") }}
{{- end }}
{{- $_ := set $maps $map (mergeOverwrite (get $maps $map | default dict) (dict (base $path) $text)) }}
{{- end }}
{{- toYaml $maps }}
{{- end }}

{{/* The names of the ConfigMaps, as YAML: a list for each folder. */}}
{{- define "pointsman.policyFolders" -}}
{{- if eq (include "pointsman.policySource" .) "configMaps" }}
{{- toYaml .Values.policy.configMaps }}
{{- else }}
{{- $folders := dict "policy" list "prompts" list "tasks" list }}
{{- range $map, $_ := include "pointsman.policyMaps" . | fromYaml }}
{{- $folder := hasPrefix "pointsman-policy-prompts" $map | ternary "prompts" (hasPrefix "pointsman-policy-tasks" $map | ternary "tasks" "policy") }}
{{- $_ := set $folders $folder (append (get $folders $folder) $map) }}
{{- end }}
{{- toYaml $folders }}
{{- end }}
{{- end }}

{{- define "pointsman.policyMounts" -}}
{{- range $folder, $maps := include "pointsman.policyFolders" . | fromYaml }}
{{- if $maps }}
- name: {{ eq $folder "policy" | ternary "policy" (printf "policy-%s" $folder) }}
  mountPath: {{ eq $folder "policy" | ternary "/etc/pointsman/config" (printf "/etc/pointsman/config/%s" $folder) }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{- define "pointsman.policyVolumes" -}}
{{- range $folder, $maps := include "pointsman.policyFolders" . | fromYaml }}
{{- if $maps }}
- name: {{ eq $folder "policy" | ternary "policy" (printf "policy-%s" $folder) }}
  projected:
    sources:
      {{- range $maps }}
      - configMap: {name: {{ . }}}
      {{- end }}
{{- end }}
{{- end }}
{{- end }}
