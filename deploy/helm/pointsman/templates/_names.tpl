{{/* Labels of every object; call with (dict "root" $ "name" NAME). */}}
{{- define "pointsman.labels" -}}
app.kubernetes.io/name: {{ .name }}
{{ include "pointsman.commonLabels" .root }}
{{- end }}

{{- define "pointsman.commonLabels" -}}
app.kubernetes.io/part-of: pointsman
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- range $key, $value := .Values.commonLabels }}
{{ $key }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* The metadata of a pod's template; call with (dict "root" $ "name" NAME "of" VALUES "labels" MAP "annotations" MAP).
It has neither the chart's version nor commonLabels: pods restart only if they themselves change. */}}
{{- define "pointsman.podMetadata" -}}
labels:
  app.kubernetes.io/name: {{ .name }}
  app.kubernetes.io/part-of: pointsman
  app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with merge dict (.labels | default dict) (.of.podLabels | default dict) }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with merge dict (.annotations | default dict) (.of.podAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The reference of one of our images; call with (dict "root" $ "name" NAME). */}}
{{- define "pointsman.image" -}}
{{- $images := .root.Values.images -}}
{{- $registry := $images.registry | trimSuffix "/" -}}
{{- $digest := index $images.digests .name -}}
{{- with $registry }}{{ . }}/{{ end }}{{ .name }}:{{ $images.tag | default .root.Chart.AppVersion }}{{ with $digest }}@{{ . }}{{ end }}
{{- end }}

{{/* Engines with their defaults, as YAML: a list. Objects of the engine "local" have no suffix in their names. */}}
{{- define "pointsman.engines" -}}
{{- range .Values.engines }}
{{- $suffix := eq .name "local" | ternary "" (printf "-%s" .name) }}
{{- $engine := mergeOverwrite (deepCopy $.Values.engineDefaults) (deepCopy .) (dict "workload" (printf "lora-server%s" $suffix)) }}
{{- $claim := include "pointsman.claimName" (dict "name" (printf "base-model%s" $suffix) "storage" $engine.model) }}
{{- $_ := set $engine "modelClaim" (hasPrefix "pvc:" $engine.model.source | ternary (trimPrefix "pvc:" $engine.model.source) $claim) }}
{{- $_ := set $engine "pod" (include "pointsman.gpuPod" $engine | fromJson) }}
{{- /* Each source has a folder of its own: while the next model is downloaded, engines can restart with theirs. */}}
{{- $folder := contains "://" $engine.model.source | ternary (printf "/var/lib/pointsman/base-model/%s" (sha256sum $engine.model.source | trunc 12)) "/var/lib/pointsman/base-model" }}
{{- $_ := set $engine "modelFolder" (eq $engine.model.source "image" | ternary "/opt/pointsman/models/smollm2-135m" $folder) }}
{{- $_ := set $engine "ownImage" $engine.image }}
{{- $_ := set $engine "image" ($engine.image | default (include "pointsman.image" (dict "root" $ "name" (printf "pointsman-lora-server-%s" $engine.kind)))) }}
{{- $_ := set $engine "arguments" (include "pointsman.engineArguments" $engine) }}
- {{ toJson $engine }}
{{- end }}
{{- end }}

{{/* Whether a lora-server here starts its engine: "true" or nothing. */}}
{{- define "pointsman.startsEngines" -}}
{{- range include "pointsman.engines" . | fromYamlArray }}{{ if not .attach.url }}true{{ end }}{{ end }}
{{- end }}

{{/* The ports of the engines that run elsewhere, as a list in YAML. */}}
{{- define "pointsman.attachedPorts" -}}
{{- $ports := list }}
{{- range include "pointsman.engines" . | fromYamlArray }}
{{- with .attach.url }}{{ $ports = append $ports (include "pointsman.port" (dict "url" . "default" (hasPrefix "https:" . | ternary "443" "80")) | int) }}{{ end }}
{{- end }}
{{- $ports | uniq | toJson }}
{{- end }}

{{/* More arguments of an engine's vLLM, as one line of a shell. All its GPUs share the model, if no argument says how. */}}
{{- define "pointsman.engineArguments" -}}
{{- $arguments := list }}
{{- $count := int .gpu.count }}
{{- $nodes := int .nodes }}
{{- if not (regexMatch `(^| )(--[a-z]+[-_]parallel[-_]size|-tp|-pp|-dp)( |=|$)` (join " " .extraArgs)) }}
{{- if gt $count 1 }}{{ $arguments = append $arguments (printf "--tensor-parallel-size=%d" $count) }}{{ end }}
{{- if gt $nodes 1 }}{{ $arguments = append $arguments (printf "--pipeline-parallel-size=%d" $nodes) }}{{ end }}
{{- end }}
{{- if gt $nodes 1 }}
{{- $arguments = concat $arguments (list (printf "--nnodes=%d" $nodes) "--node-rank=$(LWS_WORKER_INDEX)" "--master-addr=$(LWS_LEADER_ADDRESS)") }}
{{- end }}
{{- range .extraArgs }}
{{- $arguments = append $arguments (regexMatch "[\"{}]" . | ternary (squote .) .) }}
{{- end }}
{{- join " " $arguments }}
{{- end }}

{{/* The number of GPUs that an engine's extraArgs ask for: the product of their parallelisms. */}}
{{- define "pointsman.usedGpus" -}}
{{- $uses := 1 }}
{{- $arguments := join " " .extraArgs }}
{{- /* With one of these, engines elsewhere are part of the data parallelism. */}}
{{- $spread := regexMatch `(^| )(--data[-_]parallel[-_](size[-_]local|rank|start[-_]rank|address|external[-_]lb|hybrid[-_]lb)|-dpl|-dpn|-dpr|-dpa|-dpe|-dph)( |=|$)` $arguments }}
{{- range regexFindAll `(^| )(--(tensor|pipeline|data)[-_]parallel[-_]size|-tp|-pp|-dp)[ =][0-9]+` $arguments -1 }}
{{- if not (and $spread (regexMatch `data|-dp` .)) }}{{ $uses = mul $uses (regexFind `[0-9]+$` .) }}{{ end }}
{{- end }}
{{- $uses }}
{{- end }}

{{/* A claim's name; call with (dict "name" NAME "storage" {accessMode}). The access mode of an existing claim cannot be
changed, so each mode has a claim of its own. */}}
{{- define "pointsman.claimName" -}}
{{ .name }}{{ get (dict "ReadWriteMany" "-rwx" "ReadWriteOncePod" "-rwop") .storage.accessMode }}
{{- end }}

{{- define "pointsman.adaptersClaim" -}}
{{ with .Values.adapters.store }}{{ .existingClaim | default (include "pointsman.claimName" (dict "name" "adapters" "storage" .)) }}{{ end }}
{{- end }}

{{/* The port of a URL; call with (dict "url" URL "default" PORT). */}}
{{- define "pointsman.port" -}}
{{ regexFind `:\d+$` (urlParse .url).host | trimPrefix ":" | default .default }}
{{- end }}

{{/* The `pod` of what has `gpu` and `pod`: with GPUs, it tolerates the taint of their nodes. As JSON. */}}
{{- define "pointsman.gpuPod" -}}
{{- $pod := deepCopy .pod }}
{{- if gt (int .gpu.count) 0 }}
{{- /* Parts of a GPU, such as nvidia.com/mig-3g.40gb, are on nodes with the taint of whole ones. */}}
{{- $whole := hasPrefix "nvidia.com/" .gpu.resource | ternary "nvidia.com/gpu" .gpu.resource }}
{{- range list .gpu.resource $whole | uniq }}
{{- $_ := set $pod "tolerations" (append ($pod.tolerations | default list) (dict "key" . "operator" "Exists" "effect" "NoSchedule")) }}
{{- end }}
{{- end }}
{{- toJson $pod }}
{{- end }}

{{/* The `resources` with the GPUs in `gpu`, as JSON. */}}
{{- define "pointsman.gpuResources" -}}
{{- $gpu := dict .gpu.resource (toString .gpu.count) }}
{{- gt (int .gpu.count) 0 | ternary (mergeOverwrite (deepCopy .resources) (dict "requests" $gpu "limits" $gpu)) .resources | toJson }}
{{- end }}

{{/* The first lora-server's address. */}}
{{- define "pointsman.loraServer" -}}
{{- with first (include "pointsman.engines" . | fromYamlArray) }}{{ .workload }}:8083{{ end }}
{{- end }}

{{- define "pointsman.redisSecret" -}}
{{ .Values.redis.existingSecret | default "pointsman-redis" }}
{{- end }}

{{/* Whether the services use TLS: "true" or nothing. */}}
{{- define "pointsman.tls" -}}
{{ ne .Values.tls.mode "off" | ternary "true" "" }}
{{- end }}

{{/* Documents and adapters of the example and of the values, as YAML: {documents: [], adapters: []}. */}}
{{- define "pointsman.seed" -}}
{{- $documents := .Values.seed.documents }}
{{- $adapters := .Values.seed.adapters }}
{{- if and .Values.seed.example (eq (include "pointsman.policySource" .) "helpdesk") }}
{{- $image := include "pointsman.image" (dict "root" . "name" "pointsman-gateway") }}
{{- $folder := "/opt/pointsman/examples/helpdesk" }}
{{- $documents = append $documents (dict "collection" "handbook" "image" $image "folder" (printf "%s/handbook" $folder)) }}
{{- range list "triage" "policy" "voice" }}
{{- $adapters = append $adapters (dict "name" . "image" $image "folder" (printf "%s/adapters/%s" $folder .) "alias" "prod") }}
{{- end }}
{{- end }}
documents: {{ ternary $documents list .Values.retriever.enabled | toJson }}
adapters: {{ ternary $adapters list (not (empty .Values.engines)) | toJson }}
{{- end }}

{{/* Whether Valkey runs here: "true" or nothing. */}}
{{- define "pointsman.valkey" -}}
{{ ne .Values.redis.mode "external" | ternary "true" "" }}
{{- end }}

{{/* Whether there is anything to load: "true" or nothing. */}}
{{- define "pointsman.seeds" -}}
{{- $seed := include "pointsman.seed" . | fromYaml }}
{{- if or (include "pointsman.firstKey" .) $seed.documents $seed.adapters }}true{{ end }}
{{- end }}

{{- define "pointsman.firstKey" -}}
{{- $key := .Values.gateway.firstKey }}
{{- if and $key.enabled (eq .Values.gateway.auth "on") (or .Values.secrets.generate $key.existingSecret) }}true{{ end }}
{{- end }}

{{/* Whether `helm test` can have a request answered: "true" or nothing. */}}
{{- define "pointsman.asks" -}}
{{- if and .Values.test.enabled (or (include "pointsman.firstKey" .) (ne .Values.gateway.auth "on")) }}true{{ end }}
{{- end }}

{{- define "pointsman.firstKeySecret" -}}
{{ .Values.gateway.firstKey.existingSecret | default "pointsman-first-key" }}
{{- end }}
