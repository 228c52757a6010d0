{{/* An engine over several nodes; call with (dict "root" $ "engine" ENGINE "labels" MAP "own" MAP). The first node of each
group has the lora-server, which starts vLLM; the others have vLLM's workers. LeaderWorkerSet makes a headless Service of
its own name for them. */}}
{{- define "pointsman.engineGroup" -}}
{{- $engine := .engine }}
{{- $leader := include "pointsman.customized" (dict "of" $engine "pod" (include "pointsman.loraServerPod" (dict "root" .root "engine" $engine))) }}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: {{ $engine.workload }}-nodes
  labels: {{ toJson .labels }}
spec:
  replicas: {{ $engine.replicas }}
  startupPolicy: LeaderCreated # the lora-server is ready only once all nodes have joined
  leaderWorkerTemplate:
    size: {{ $engine.nodes }}
    restartPolicy: None # the lora-server restarts its engine, and vLLM's workers end with it and join the next
    leaderTemplate:
      metadata:
        {{- include "pointsman.podMetadata" (dict "root" .root "name" "lora-server" "of" $engine "labels" .own) | nindent 8 }}
      spec:
        {{- $leader | nindent 8 }}
    workerTemplate:
      metadata:
        {{- include "pointsman.podMetadata" (dict "root" .root "name" "engine-node" "of" $engine "labels" .own) | nindent 8 }}
      spec:
        {{- include "pointsman.nodePod" $leader | nindent 8 }}
{{- end }}

{{/* The pod of a further node, from that of the first: the same engine without what only the lora-server needs. */}}
{{- define "pointsman.nodePod" -}}
{{- $pod := fromYaml . }}
{{- $own := list "tokens" "tls" "seed" "kubernetes-api" }}
{{- $container := first $pod.containers }}
{{- range list "ports" "startupProbe" "readinessProbe" "livenessProbe" "lifecycle" }}{{ $_ := unset $container . }}{{ end }}
{{- $_ := set $container "name" "engine-node" }}
{{- $_ := set $container "command" (list "python" "-m" "pointsman_lora_server.engine_node") }}
{{- $mounts := list }}
{{- range $container.volumeMounts }}{{ if not (has .name $own) }}{{ $mounts = append $mounts . }}{{ end }}{{ end }}
{{- $_ := set $container "volumeMounts" $mounts }}
{{- $settings := list }}
{{- range $container.env }}{{ if not (regexMatch "_(REDIS_URL|TOKENS|CONFIG_MAP|TLS_[A-Z_]+)$" .name) }}{{ $settings = append $settings . }}{{ end }}{{ end }}
{{- $_ := set $container "env" $settings }}
{{- $volumes := list }}
{{- range $pod.volumes }}{{ if not (has .name $own) }}{{ $volumes = append $volumes . }}{{ end }}{{ end }}
{{- $_ := set $pod "volumes" $volumes }}
{{- $waits := list }}
{{- range $pod.initContainers }}{{ if not (hasPrefix "copy-" .name) }}{{ $waits = append $waits . }}{{ end }}{{ end }}
{{- if $waits }}{{ $_ := set $pod "initContainers" $waits }}{{ else }}{{ $_ := unset $pod "initContainers" }}{{ end }}
{{- toYaml $pod }}
{{- end }}
