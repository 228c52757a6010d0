{{/* The start of each pod's spec; call with (dict "root" $ "account" NAME "grace" SECONDS "pod" MORE). Conforms to Pod
Security `restricted`, and has neither a token for the API server nor the variables of service links (VLLM_PORT). */}}
{{- define "pointsman.pod" -}}
{{- $security := dict "runAsNonRoot" true "runAsUser" 10001 "runAsGroup" 10001 "fsGroup" 10001 "fsGroupChangePolicy" "OnRootMismatch" "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- $spec := dict "serviceAccountName" .account "automountServiceAccountToken" false "enableServiceLinks" false "terminationGracePeriodSeconds" .grace "securityContext" $security }}
{{- with .root.Values.images.pullSecrets }}{{ $_ := set $spec "imagePullSecrets" . }}{{ end }}
{{- $own := deepCopy .pod }}
{{- $shared := deepCopy .root.Values.podDefaults }}
{{- with concat ($shared.tolerations | default list) ($own.tolerations | default list) }}{{ $_ := set $own "tolerations" . }}{{ end }}
{{- toYaml (mergeOverwrite $spec $shared $own) }}
{{- end }}

{{/* A pod's spec with the values `pod` and `container` of its service; call with (dict "of" VALUES "pod" TEXT). Lists of
containers, volumes, mounts, variables, ports and tolerations are appended to the chart's, all else is merged and takes
precedence. */}}
{{- define "pointsman.customized" -}}
{{- $spec := fromYaml .pod }}
{{- with $spec.Error }}{{ fail . }}{{ end }}
{{- $main := dict "of" (first $spec.containers) "with" (.of.container | default dict) "lists" (list "env" "envFrom" "ports" "volumeMounts") }}
{{- $whole := dict "of" $spec "with" (.of.pod | default dict) "lists" (list "containers" "initContainers" "tolerations" "volumes") }}
{{- range $target := list $main $whole }}
{{- range $field, $value := $target.with }}
{{- if has $field $target.lists }}
{{- $_ := set $target.of $field (concat (get $target.of $field | default list) $value) }}
{{- else }}
{{- $_ := mergeOverwrite $target.of (dict $field $value) }}
{{- end }}
{{- end }}
{{- end }}
{{- $lists := dict "volumes" $spec.volumes "variables" (first $spec.containers).env "containers" (concat $spec.containers ($spec.initContainers | default list)) }}
{{- range $what, $list := $lists }}
{{- $names := list }}
{{- range $list }}
{{- if has .name $names }}{{ fail (printf "pod or container: two %s of '%s' are called %s; one is the chart's or twice yours" $what (first $spec.containers).name .name) }}{{ end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}
{{- toYaml $spec }}
{{- end }}

{{/* A quantity, such as 250m or 2Gi, as a plain number. */}}
{{- define "pointsman.amount" -}}
{{- if kindIs "string" . }}
{{- $number := regexFind `^[0-9.]+` . }}
{{- mulf ($number | float64) (get (dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0) (trimPrefix $number .)) }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{- define "pointsman.containerSecurity" -}}
imagePullPolicy: IfNotPresent
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Resources of containers that only copy files or send a few calls. */}}
{{- define "pointsman.smallResources" -}}
resources:
  requests: {cpu: 50m, memory: 128Mi, ephemeral-storage: 64Mi}
  limits: {memory: 512Mi, ephemeral-storage: 1Gi}
{{- end }}

{{/* Text whose listeners use IPv6 if the pods have only such addresses; call with (list $ TEXT). */}}
{{- define "pointsman.listening" -}}
{{ index . 1 | replace "0.0.0.0" ((index . 0).Values.ipv6 | ternary "[::]" "0.0.0.0") }}
{{- end }}

{{/* Environment entries: the lines of a file, overridden by a map, in which an empty value removes an entry. Call with
(dict "root" $ "file" FILE "set" MAP). */}}
{{- define "pointsman.env" -}}
{{- $root := .root }}
{{- $entries := dict }}
{{- range .root.Files.Lines .file }}
{{- if contains "=" . }}
{{- $pair := splitn "=" 2 . }}
{{- $_ := set $entries $pair._0 (include "pointsman.listening" (list $root $pair._1)) }}
{{- end }}
{{- end }}
{{- with .root.Values.tracing.endpoint }}
{{- $_ := set $entries "OTEL_EXPORTER_OTLP_ENDPOINT" . }}
{{- $_ := set $entries "OTEL_TRACES_SAMPLER" "parentbased_traceidratio" }}
{{- $_ := set $entries "OTEL_TRACES_SAMPLER_ARG" $root.Values.tracing.ratio }}
{{- end }}
{{- range $name, $value := .set }}
{{- $_ := set $entries $name $value }}
{{- end }}
{{- include "pointsman.variables" $entries }}
{{- end }}

{{/* Environment entries of a map. */}}
{{- define "pointsman.variables" -}}
{{- range $name, $value := . }}
{{- if ne (toString $value) "" }}
{{- /* Numbers in values are floats, and 1000000 would become 1e+06. */}}
{{- $whole := and (kindIs "float64" $value) (eq (toString (floor $value)) (toString $value)) }}
- {name: {{ $name }}, value: {{ $whole | ternary (int64 $value) $value | toString | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "pointsman.envFrom" -}}
envFrom:
{{- range . }}
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{/* The three probes; call with (dict "live" PROBE "ready" PROBE "start" ATTEMPTS "period" SECONDS). They use plain HTTP
at the metrics port, because a kubelet's gRPC probe supports no TLS. */}}
{{- define "pointsman.probes" -}}
startupProbe:
  {{ toYaml .live | nindent 2 | trim }}
  periodSeconds: {{ .period }}
  timeoutSeconds: 2
  failureThreshold: {{ .start }}
readinessProbe:
  {{ toYaml .ready | nindent 2 | trim }}
  periodSeconds: 3
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  {{ toYaml .live | nindent 2 | trim }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* A ServiceAccount without rights; call with (dict "root" $ "name" NAME "annotations" MAP). */}}
{{- define "pointsman.account" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  labels:
    {{- include "pointsman.labels" . | nindent 4 }}
  {{- with .annotations }}
  annotations: {{ toJson . }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{/* Lets one pod at a time be evicted, and an unhealthy pod always; call with (dict "root" $ "name" NAME). */}}
{{- define "pointsman.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    {{- include "pointsman.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {app.kubernetes.io/name: {{ .name }}}
{{- end }}

{{/* Spreads the pods of one workload over nodes and zones, if there are several; call with NAME. */}}
{{- define "pointsman.spread" -}}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {matchLabels: {app.kubernetes.io/name: {{ $ }}}}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{/* The spec of a claim; call with (dict "root" $ "storage" {size, accessMode, storageClass}). */}}
{{- define "pointsman.claim" -}}
accessModes: [{{ .storage.accessMode }}]
{{- with .storage.storageClass | default .root.Values.storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources: {requests: {storage: {{ .storage.size }}}}
{{- end }}

{{/* Init containers that copy folders of images to /seed/NAME; call with a list of {name, image, folder}. */}}
{{- define "pointsman.copies" -}}
{{- range . }}
{{- if .image }}
- name: copy-{{ .name }}
  image: {{ .image }}
  command: [cp, -rL, {{ trimSuffix "/" .folder }}/., /seed/{{ .name }}]
  {{- include "pointsman.containerSecurity" . | nindent 2 }}
  {{- include "pointsman.smallResources" . | nindent 2 }}
  volumeMounts:
    - {name: seed, mountPath: /seed}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end }}
{{- end }}

{{/* The number of replicas; call with (dict "root" $ "kind" KIND "name" NAME "scaled" BOOLEAN "replicas" N). An
autoscaler's current number is repeated: if the field were removed, the API server would set it to 1. */}}
{{- define "pointsman.replicas" -}}
{{- if not .scaled }}
replicas: {{ .replicas }}
{{- else }}
{{- with lookup "apps/v1" .kind .root.Release.Namespace .name }}
replicas: {{ .spec.replicas }}
{{- end }}
{{- end }}
{{- end }}
