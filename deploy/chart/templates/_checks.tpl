{{/*
Values that are right one by one and wrong together, which the schema cannot tell. The API server
would refuse some of them with less clear words; the others would do something that nobody wants.
*/}}
{{- define "holdfast.checks" -}}
{{- $variables := dict
  "NODE_NAME" "it comes from the pod"
  "POD_NAME" "it comes from the pod"
  "POD_NAMESPACE" "it comes from the pod"
  "POD_UID" "it comes from the pod"
  "HOLDFAST_BPFFS" "the uninstallation cleans /sys/fs/bpf, and no other"
  "HOLDFAST_CONFIG" "use config"
  "HOLDFAST_DAEMONSET" "use onExit"
  "HOLDFAST_HEALTH_ADDRESS" "use health"
  "HOLDFAST_LOG" "use logLevel"
  "HOLDFAST_LOG_FORMAT" "use logFormat"
  "HOLDFAST_METRICS_ADDRESS" "use metrics"
  "HOLDFAST_ON_EXIT" "use onExit"
  "HOLDFAST_POD_METRICS" "use metrics.pods"
  "HOLDFAST_REMOVE_STARTUP_TAINT" "use startupTaint.enabled"
  "HOLDFAST_RUNTIME_ROOT" "use runtimeRoots"
  "HOLDFAST_SENTRY_FOR" "use sentry"
-}}
{{- range .Values.extraEnv }}
  {{- if hasKey $variables .name }}
    {{- fail (printf "extraEnv: %s is not to be set here: %s" .name (get $variables .name)) }}
  {{- end }}
  {{- $_ := set $variables .name "it is there twice" }}
{{- end }}

{{- range .Values.extraArgs }}
  {{- if regexMatch "^--bpffs(=|$)" . }}
    {{- fail "extraArgs: --bpffs is not to be set here: the uninstallation cleans /sys/fs/bpf, and no other" }}
  {{- end }}
  {{- if and $.Values.sentry.enabled (regexMatch "^--cgroup-root(=|$)" .) }}
    {{- fail "extraArgs: --cgroup-root is the agent's alone, and the sentry needs it as well; set HOLDFAST_CGROUP_ROOT in extraEnv" }}
  {{- end }}
  {{- if regexMatch "^--sentry-for(=|$)" . }}
    {{- fail "extraArgs: --sentry-for is not to be set here: use sentry" }}
  {{- end }}
{{- end }}

{{- with .Values.health.address }}
  {{- if or (eq . "localhost") (hasPrefix "127." .) (regexMatch "^\\[[0:]*:0*1\\]$" .) }}
    {{- fail (printf "health.address: kubelet asks at the pod's address, and nobody is there if it is served on %s; leave it empty, for all addresses" .) }}
  {{- end }}
{{- end }}

{{- with .Values.metrics }}
  {{- if and .enabled (eq (int .port) (int $.Values.health.port)) }}
    {{- fail (printf "metrics.port: %v is health.port; choose another" .port) }}
  {{- end }}
  {{- if and $.Values.monitoring.prometheusRule.enabled (not .enabled) }}
    {{- fail "monitoring.prometheusRule: there are no metrics to watch; set metrics.enabled=true" }}
  {{- end }}
  {{- $local := or (eq .address "localhost") (hasPrefix "127." .address) (regexMatch "^\\[[0:]*:0*1\\]$" .address) }}
  {{- range $name, $wants := dict "metrics.annotations" .annotations "monitoring.podMonitor" $.Values.monitoring.podMonitor.enabled }}
    {{- if and $wants (not $.Values.metrics.enabled) }}
      {{- fail (printf "%s: there are no metrics to scrape; set metrics.enabled=true" $name) }}
    {{- end }}
    {{- if and $wants $local }}
      {{- fail (printf "%s: Prometheus asks at the pod's address, and nobody is there if metrics are served on %s; leave metrics.address empty" $name $.Values.metrics.address) }}
    {{- end }}
  {{- end }}
{{- end }}

{{- $volumes := dict -}}
{{- range list "config" "cgroup" "bpffs" "run" "admin" }}{{ $_ := set $volumes . true }}{{ end -}}
{{- range .Values.extraVolumes }}
  {{- if hasKey $volumes .name }}
    {{- fail (printf "extraVolumes: the name %s is taken; choose another" .name) }}
  {{- end }}
  {{- $_ := set $volumes .name true }}
{{- end }}
{{- range .Values.extraVolumeMounts }}
  {{- if not (hasKey $volumes .name) }}
    {{- fail (printf "extraVolumeMounts: there is no volume %s; add it to extraVolumes" .name) }}
  {{- end }}
{{- end }}

{{- range $key, $_ := .Values.podLabels }}
  {{- if or (hasPrefix "app.kubernetes.io/" $key) (has $key (list "sidecar.istio.io/inject" "kuma.io/sidecar-injection")) }}
    {{- fail (printf "podLabels: %s is set by the chart" $key) }}
  {{- end }}
{{- end }}
{{- range $key, $_ := .Values.podAnnotations }}
  {{- if has $key (list "checksum/config" "linkerd.io/inject" "container.apparmor.security.beta.kubernetes.io/agent" "container.apparmor.security.beta.kubernetes.io/cleanup") }}
    {{- fail (printf "podAnnotations: %s is set by the chart" $key) }}
  {{- end }}
{{- end }}

{{- if .Values.metrics.annotations }}
  {{- range list "prometheus.io/scrape" "prometheus.io/port" "prometheus.io/path" }}
    {{- if hasKey $.Values.podAnnotations . }}
      {{- fail (printf "podAnnotations: %s is set by the chart, see metrics.annotations" .) }}
    {{- end }}
  {{- end }}
{{- end }}

{{- /* Keys by which meshes inject a proxy, be it a label's or an annotation's. */}}
{{- $injection := list
  "consul.hashicorp.com/connect-inject"
  "dapr.io/enabled"
  "flomesh.io/sidecar-injection"
  "istio.io/dataplane-mode"
  "istio.io/rev"
  "kuma.io/sidecar-injection"
  "linkerd.io/inject"
  "openservicemesh.io/sidecar-injection"
  "sidecar.istio.io/inject"
-}}
{{- range $kind := list "podLabels" "podAnnotations" }}
  {{- range $key, $value := index $.Values $kind }}
    {{- if and (has $key $injection) (not (has $value (list "false" "disabled" "none"))) }}
      {{- fail (printf "%s: %s=%s would give the agents a mesh's proxy, for which they would have to wait themselves; leave it out" $kind $key $value) }}
    {{- end }}
  {{- end }}
{{- end }}

{{- if and .Values.privileged .Values.extraCapabilities }}
  {{- fail "extraCapabilities: a privileged agent has every capability; set privileged=false or leave extraCapabilities empty" }}
{{- end }}

{{- if .Values.startupTaint.enabled }}
  {{- $taint := "holdfast.dev/agent-not-ready" }}
  {{- $tolerated := false }}
  {{- range .Values.tolerations }}
    {{- $key := or (eq (.key | default "") $taint) (and (not .key) (eq (.operator | default "") "Exists")) }}
    {{- if and $key (eq (.effect | default "NoSchedule") "NoSchedule") }}
      {{- $tolerated = true }}
    {{- end }}
  {{- end }}
  {{- if not $tolerated }}
    {{- fail (printf "startupTaint: no agent would come to a node with %s to remove it; add that to tolerations" $taint) }}
  {{- end }}
{{- end }}

{{- if and .Values.resourceQuota.enabled (not .Values.priorityClassName) }}
  {{- fail "resourceQuota: there is no priorityClassName to allow; set one or resourceQuota.enabled=false" }}
{{- end }}

{{- $strategy := .Values.updateStrategy -}}
{{- $rolling := $strategy.rollingUpdate | default dict -}}
{{- if eq $strategy.type "OnDelete" }}
  {{- if $rolling }}
    {{- fail "updateStrategy: OnDelete knows no rollingUpdate; set updateStrategy.rollingUpdate=null" }}
  {{- end }}
{{- else }}
  {{- $surge := has (toString ($rolling.maxSurge | default 0)) (list "0" "0%") | not }}
  {{- $unavailable := has (toString (dig "maxUnavailable" 1 $rolling)) (list "0" "0%") | not }}
  {{- if and $surge $unavailable }}
    {{- fail "updateStrategy: with maxSurge maxUnavailable must be 0: a DaemonSet does the one or the other" }}
  {{- else if not (or $surge $unavailable) }}
    {{- fail "updateStrategy: with maxSurge and maxUnavailable 0 no agent could ever be replaced" }}
  {{- end }}
{{- end }}

{{- if and .Values.namespace.create .Values.cleanupHook.enabled }}
  {{- fail "namespace.create is for manifests that kubectl applies, and to kubectl the hook is no hook: it would run at once; set cleanupHook.enabled=false too, or let helm make the namespace (--create-namespace)" }}
{{- end }}
{{- end }}
