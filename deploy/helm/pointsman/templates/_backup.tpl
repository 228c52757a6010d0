{{/* Whether Redis, the collections and the adapters are among what is copied, as JSON. An external Redis and a bucket of
adapters have copies of their own. */}}
{{- define "pointsman.copied" -}}
{{- $adapters := and .Values.engines (not .Values.adapters.store.url) }}
{{- dict "redis" (include "pointsman.valkey" . | empty | not) "collections" .Values.retriever.enabled "adapters" (empty $adapters | not) | toJson }}
{{- end }}

{{/* The template of a pod that copies or restores; call with (dict "root" $ "init" STEPS "steps" STEPS), each step as
(dict "name" NAME "script" TEXT). A step may have an image, and "adapters" to mount the claim of the adapters. */}}
{{- define "pointsman.backupPod" -}}
metadata:
  {{- include "pointsman.podMetadata" (dict "root" .root "name" "backup" "of" dict) | nindent 2 }}
spec:
  {{- $given := dict "pod" (pick .root.Values.backup.pod "containers" "initContainers" "volumes") }}
  {{- include "pointsman.customized" (dict "of" $given "pod" (include "pointsman.backupSpec" .)) | nindent 2 }}
{{- end }}

{{- define "pointsman.backupSpec" -}}
{{- $root := .root }}
{{- $pod := deepCopy (omit $root.Values.backup.pod "containers" "initContainers" "volumes") }}
{{- $copied := include "pointsman.copied" $root | fromJson }}
{{- if and $copied.adapters (ne $root.Values.adapters.store.accessMode "ReadWriteMany") }}
{{- /* The claim can be mounted on one node only: that of a lora-server. */}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "app.kubernetes.io/name" "lora-server")) }}
{{- $near := dict "podAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) }}
{{- $_ := set $pod "affinity" (merge $near ($pod.affinity | default dict)) }}
{{- $engine := first (include "pointsman.engines" $root | fromYamlArray) }}
{{- with $engine.pod.tolerations }}{{ $_ := set $pod "tolerations" (concat . ($pod.tolerations | default list)) }}{{ end }}
{{- end }}
{{- $_ := set $pod "restartPolicy" "Never" }}
{{- include "pointsman.pod" (dict "root" $root "account" "backup" "grace" 30 "pod" $pod) | nindent 0 }}
{{- range $kind, $steps := dict "initContainers" .init "containers" .steps }}
{{- if $steps }}
{{ $kind }}:
  {{- range $steps }}
  - name: {{ .name }}
    image: {{ .image | default (include "pointsman.image" (dict "root" $root "name" "pointsman-gateway")) }}
    command: [sh, -euc, {{ .script | quote }}]
    workingDir: /tmp
    {{- include "pointsman.containerSecurity" $root | nindent 4 }}
    resources:
      requests: {cpu: 100m, memory: 256Mi, ephemeral-storage: 64Mi}
      limits: {memory: 1Gi, ephemeral-storage: 256Mi}
    {{- if and (has .name (list "upload" "download")) $root.Values.backup.secret }}
    {{- include "pointsman.envFrom" (list $root.Values.backup.secret) | nindent 4 }}
    {{- end }}
    env:
      - {name: HOME, value: /tmp}
      {{- if eq .name "redis" }}
      - name: REDISCLI_AUTH
        valueFrom: {secretKeyRef: {name: {{ include "pointsman.redisSecret" $root }}, key: password}}
      {{- end }}
      {{- if eq .name "collections" }}
      - {name: POINTSMAN_CLIENT_TOKEN_FILE, value: /etc/pointsman/tokens/operator}
      {{- with include "pointsman.clientTls" $root }}
      {{- trim . | nindent 6 }}
      {{- end }}
      {{- end }}
    volumeMounts:
      - {name: copy, mountPath: /copy}
      {{- if eq .name "adapters" }}
      - {name: adapters, mountPath: /var/lib/pointsman/adapters}
      {{- end }}
      {{- if eq .name "collections" }}
      - {name: tokens, mountPath: /etc/pointsman/tokens, readOnly: true}
      {{- if include "pointsman.tls" $root }}
      - {name: tls, mountPath: /etc/pointsman/tls, readOnly: true}
      {{- end }}
      {{- end }}
      - {name: tmp, mountPath: /tmp}
  {{- end }}
{{- end }}
{{- end }}
volumes:
  - name: copy # a copy may be larger than a node's disk has room
    ephemeral:
      volumeClaimTemplate:
        spec:
          {{- include "pointsman.claim" (dict "root" $root "storage" (merge (dict "accessMode" "ReadWriteOnce") $root.Values.backup.scratch)) | nindent 10 }}
  {{- if $copied.adapters }}
  - name: adapters
    persistentVolumeClaim: {claimName: {{ include "pointsman.adaptersClaim" $root }}}
  {{- end }}
  - name: tokens
    secret: {secretName: {{ $root.Values.secrets.tokens }}, defaultMode: 288, items: [{key: operator, path: operator}]}
  {{- if include "pointsman.tls" $root }}
  - name: tls
    secret: {secretName: {{ index $root.Values.tls.secrets "gateway" }}, defaultMode: 288}
  {{- end }}
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
{{- end }}
