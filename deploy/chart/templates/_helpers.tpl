{{/*
Names are fixed, not the release's: a node can have one agent only, so a second release must fail, and
it does, on the ClusterRole that is there already.
*/}}

{{- define "holdfast.labels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: holdfast
{{- end }}

{{/* Of everything that the release owns: (list CONTEXT NAME). */}}
{{- define "holdfast.ownLabels" -}}
{{- $context := index . 0 -}}
{{ include "holdfast.labels" (index . 1) }}
app.kubernetes.io/version: {{ $context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $context.Values.managedBy | default $context.Release.Service | quote }}
{{- end }}

{{- define "holdfast.image" -}}
{{- with .Values.image -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* An injector's proxy in these pods would be one more thing that they have to wait for. */}}
{{- define "holdfast.unmeshedLabels" -}}
sidecar.istio.io/inject: "false"
kuma.io/sidecar-injection: disabled
{{- end }}

{{- define "holdfast.unmeshedAnnotations" -}}
linkerd.io/inject: disabled
{{- end }}

{{/* Since 1.30 this is a field of the security context. */}}
{{- define "holdfast.appArmorField" -}}
{{- if semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version }}true{{ end }}
{{- end }}

{{/* What the agent's config file says. */}}
{{- define "holdfast.config" -}}
{{- if .Values.config }}{{ toYaml .Values.config }}{{ else }}{{ .Files.Get "config.yaml" | trim }}{{ end }}
{{- end }}

{{/* For how long a sentry stays; 0s: there is none. */}}
{{- define "holdfast.sentryFor" -}}
{{- with .Values.sentry }}{{ if .enabled }}{{ .for }}{{ else }}0s{{ end }}{{ end }}
{{- end }}

{{/* The agents' nodes; of the hook's Job too: on another the image may not run. */}}
{{- define "holdfast.nodeChoice" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
# By default not to EKS Fargate and virtual nodes: they have no kernel to put an agent into, and its pod
# would wait there for ever.
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "holdfast.podPlacement" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- include "holdfast.nodeChoice" . }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Without an address: the port of all addresses, of both families. */}}
{{- define "holdfast.healthAddress" -}}
{{- with .Values.health }}{{ with .address }}{{ . }}:{{ end }}{{ .port }}{{ end }}
{{- end }}

{{- define "holdfast.metricsAddress" -}}
{{- with .Values.metrics }}{{ with .address }}{{ . }}:{{ end }}{{ .port }}{{ end }}
{{- end }}

{{- define "holdfast.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where the priority class is forbidden outside of kube-system but for those who have a quota of it. */}}
{{- define "holdfast.quota" -}}
# Not a limit but a permission: more pods than the largest cluster has nodes, twice, for a rollout.
hard:
  pods: 10k
scopeSelector:
  matchExpressions:
    - scopeName: PriorityClass
      operator: In
      values: [{{ .Values.priorityClassName | quote }}]
{{- end }}

{{/* A part of the uninstallation, of the weight given: nothing of the release is there any more. */}}
{{- define "holdfast.hook" -}}
helm.sh/hook: post-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
