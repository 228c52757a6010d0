{{/* The spec of the Job that downloads an engine's model; call with (dict "root" $ "engine" ENGINE "claim" NAME). */}}
{{- define "pointsman.modelJob" -}}
{{- $engine := .engine }}
{{- /* Files that the engine's variables may name, such as a CA; not claims, which may be another node's. */}}
{{- $names := list }}
{{- $volumes := list }}
{{- range $engine.pod.volumes }}
{{- if or .secret .configMap .projected }}{{ $volumes = append $volumes . }}{{ $names = append $names .name }}{{ end }}
{{- end }}
{{- $mounts := list }}
{{- range $engine.container.volumeMounts }}{{ if has .name $names }}{{ $mounts = append $mounts . }}{{ end }}{{ end }}
{{- $more := dict "pod" (dict "volumes" $volumes) "container" (dict "volumeMounts" $mounts "env" ($engine.container.env | default list)) }}
backoffLimit: 10
template:
  metadata:
    {{- include "pointsman.podMetadata" (dict "root" .root "name" "model" "of" $engine) | nindent 4 }}
  spec:
    {{- include "pointsman.customized" (dict "of" $more "pod" (include "pointsman.modelPod" .)) | nindent 4 }}
{{- end }}

{{- define "pointsman.modelPod" -}}
{{- $engine := .engine }}
{{- $pod := dict "restartPolicy" "OnFailure" }}
{{- if ne $engine.model.accessMode "ReadWriteMany" }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $engine.pod $field }}{{ $_ := set $pod $field . }}{{ end }}
{{- end }}
{{- /* The claim can be mounted on one node only, and the engine's pod may already wait on one. */}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "pointsman/engine" $engine.name)) }}
{{- $near := dict "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) }}
{{- $_ := set $pod "affinity" (merge $near ($pod.affinity | default dict)) }}
{{- end }}
{{- include "pointsman.pod" (dict "root" .root "account" "lora-server" "grace" 30 "pod" $pod) }}
containers:
  - name: model
    image: {{ $engine.image }}
    # The engine's environment has Hugging Face's library; the lora-server's environment has the one for S3.
    command: [{{ hasPrefix "hf://" $engine.model.source | ternary "/opt/engine/bin/python" "/opt/pointsman/venv/bin/python" }}, -m, pointsman_lora_server.fetch_model]
    args: [{{ $engine.model.source | quote }}, {{ $engine.modelFolder }}]
    {{- include "pointsman.containerSecurity" . | nindent 4 }}
    {{- with $engine.envFromSecrets }}
    {{- include "pointsman.envFrom" . | nindent 4 }}
    {{- end }}
    env:
      - {name: PYTHONPATH, value: /opt/pointsman/src}
      - {name: HOME, value: /tmp}
      {{- $variables := dict }}
      {{- range $name, $value := $engine.env }}
      {{- if not (regexMatch "^(POINTSMAN_|VLLM_|HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE)" $name) }}{{ $_ := set $variables $name $value }}{{ end }}
      {{- end }}
      {{- include "pointsman.variables" $variables | trim | nindent 6 }}
    resources:
      requests: {cpu: 500m, memory: 1Gi, ephemeral-storage: 1Gi}
      limits: {memory: 4Gi, ephemeral-storage: 4Gi}
    volumeMounts:
      - {name: base-model, mountPath: /var/lib/pointsman/base-model}
      - {name: tmp, mountPath: /tmp}
      - {name: shm, mountPath: /dev/shm}
volumes:
  - name: base-model
    persistentVolumeClaim: {claimName: {{ .claim }}}
  - name: tmp
    emptyDir: {sizeLimit: 4Gi}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- end }}

{{/* The spec of the Job that creates the first key and loads documents and adapters. Each container retries until it
succeeds; all three are idempotent. */}}
{{- define "pointsman.seedJob" -}}
{{- $seed := include "pointsman.seed" . | fromYaml }}
{{- $image := include "pointsman.image" (dict "root" . "name" "pointsman-gateway") }}
{{- $steps := list }}
{{- if include "pointsman.firstKey" . }}
{{- $steps = append $steps (dict "name" "first-key" "commands" (list (printf `pointsman keys create "first key" --tenant %s --key-file /etc/pointsman/first-key/key --redis "$POINTSMAN_GATEWAY_REDIS_URL"` .Values.gateway.firstKey.tenant))) }}
{{- end }}
{{- $ingests := list }}
{{- range $number, $each := $seed.documents }}
{{- $ingests = append $ingests (printf "pointsman ingest %s /seed/documents-%d --retriever retriever:8082" $each.collection $number) }}
{{- end }}
{{- $registers := list }}
{{- range $seed.adapters }}
{{- $registers = append $registers (printf "pointsman adapters register %s %s --alias %s --lora-server %s" .name (empty .image | ternary .folder (printf "/seed/%s" .name)) (.alias | default "prod") (include "pointsman.loraServer" $)) }}
{{- end }}
{{- range $name, $commands := dict "documents" $ingests "adapters" $registers }}
{{- if $commands }}{{ $steps = append $steps (dict "name" $name "commands" $commands) }}{{ end }}
{{- end }}
backoffLimit: 20
template:
  metadata:
    {{- include "pointsman.podMetadata" (dict "root" . "name" "seed" "of" dict) | nindent 4 }}
  spec:
    {{- include "pointsman.pod" (dict "root" . "account" "seed" "grace" 30 "pod" (dict "restartPolicy" "OnFailure")) | nindent 4 }}
    {{- if $ingests }}
    initContainers:
      {{- range $number, $each := $seed.documents }}
      {{- include "pointsman.copies" (list (dict "name" (printf "documents-%d" $number) "image" $each.image "folder" $each.folder)) | trim | nindent 6 }}
      {{- end }}
    {{- end }}
    containers:
      {{- range $steps }}
      - name: {{ .name }}
        image: {{ $image }}
        command: [sh, -ec, {{ join "\n" .commands | quote }}]
        workingDir: /tmp
        {{- include "pointsman.containerSecurity" . | nindent 8 }}
        {{- include "pointsman.smallResources" . | nindent 8 }}
        env:
          - name: POINTSMAN_GATEWAY_REDIS_URL
            valueFrom: {secretKeyRef: {name: {{ include "pointsman.redisSecret" $ }}, key: url}}
          - {name: POINTSMAN_CLIENT_TOKEN_FILE, value: /etc/pointsman/tokens/operator}
          {{- with include "pointsman.clientTls" $ }}
          {{- trim . | nindent 10 }}
          {{- end }}
        volumeMounts:
          {{- if eq .name "first-key" }}
          - {name: first-key, mountPath: /etc/pointsman/first-key, readOnly: true}
          {{- end }}
          {{- if eq .name "documents" }}
          - {name: seed, mountPath: /seed, readOnly: true}
          {{- end }}
          - {name: tokens, mountPath: /etc/pointsman/tokens, readOnly: true}
          {{- if include "pointsman.tls" $ }}
          - {name: tls, mountPath: /etc/pointsman/tls, readOnly: true}
          {{- end }}
          - {name: tmp, mountPath: /tmp}
      {{- end }}
    volumes:
      {{- if include "pointsman.firstKey" . }}
      - name: first-key
        secret: {secretName: {{ include "pointsman.firstKeySecret" . }}, defaultMode: 288}
      {{- end }}
      {{- if $ingests }}
      - name: seed
        emptyDir: {sizeLimit: 1Gi}
      {{- end }}
      - name: tokens
        secret: {secretName: {{ $.Values.secrets.tokens }}, defaultMode: 288, items: [{key: operator, path: operator}]}
      {{- if include "pointsman.tls" . }}
      - name: tls
        secret: {secretName: {{ index $.Values.tls.secrets "gateway" }}, defaultMode: 288}
      {{- end }}
      - name: tmp
        emptyDir: {sizeLimit: 64Mi}
{{- end }}

{{- define "pointsman.clientTls" -}}
{{- if include "pointsman.tls" . }}
- {name: POINTSMAN_CLIENT_TLS_CA, value: /etc/pointsman/tls/ca.crt}
- {name: POINTSMAN_CLIENT_TLS_CERTIFICATE, value: /etc/pointsman/tls/tls.crt}
- {name: POINTSMAN_CLIENT_TLS_KEY, value: /etc/pointsman/tls/tls.key}
{{- end }}
{{- end }}
