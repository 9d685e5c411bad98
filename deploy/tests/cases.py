"""Values of the chart: all at a time, those that contradict each other, those that are none."""

from __future__ import annotations

# Every optional part at a time, as far as they go together.
EVERYTHING = {
    "image": {
        "repository": "registry.example.com:5000/mesh/holdfast",
        "tag": "1.2.3",
        "digest": "sha256:" + "ab" * 32,
        "pullPolicy": "Always",
        "pullSecrets": [{"name": "pull"}],
    },
    "config": {
        "hold": "enabled",
        "timeout": "90s",
        # Larger than what a float is written as without an exponent in some engines.
        "profiles": [
            {
                "name": "own",
                "containers": ["own-proxy"],
                "uid": {"default": 1000650000},
                "ready": ["tcp://:6000"],
                "ports": [6000],
            }
        ],
    },
    "logLevel": "info,holdfast::reconcile=debug",
    "logFormat": "json",
    "sentry": {"enabled": True, "for": "1h", "resources": {"limits": {"cpu": 1}}},
    "startupTaint": {"enabled": True},
    "cleanupHook": {"enabled": True, "activeDeadlineSeconds": 60},
    "health": {"address": "[::]", "port": 9000},
    "metrics": {"address": "[::]", "port": 9001, "pods": True, "annotations": True},
    "monitoring": {
        "podMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "runbook": "https://wiki.example.com/holdfast"},
        "dashboard": {"enabled": True},
    },
    "runtimeRoots": ["/run/k0s/containerd"],
    "updateStrategy": {"rollingUpdate": {"maxSurge": 2}},
    "resources": {"limits": {"cpu": 1}},
    "tolerations": [
        {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "holdfast.dev/agent-not-ready", "operator": "Exists"},
    ],
    "nodeSelector": {"mesh": "yes"},
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "virtual", "operator": "DoesNotExist"}]}
                ]
            }
        }
    },
    "priorityClassName": "system-cluster-critical",
    "resourceQuota": {"enabled": True},
    "podAnnotations": {"example.com/team": "mesh"},
    "podLabels": {"team": "mesh"},
    "extraCapabilities": ["SYS_RESOURCE"],
    "extraArgs": ["--max-sockets=1024"],
    "extraEnv": [{"name": "RUST_BACKTRACE", "value": "1"}],
    "extraVolumes": [{"name": "snap", "hostPath": {"path": "/var/snap"}}],
    "extraVolumeMounts": [{"name": "snap", "mountPath": "/host/snap", "readOnly": True}],
    "managedBy": "somebody",
}

# Values that are right one by one, and what Helm says to them together.
CONTRADICTIONS = [
    (
        {"extraEnv": [{"name": "HOLDFAST_LOG", "value": "debug"}]},
        "extraEnv: HOLDFAST_LOG is not to be set here: use logLevel",
    ),
    (
        {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        "extraEnv: A is not to be set here: it is there twice",
    ),
    (
        {"extraVolumes": [{"name": "snap", "emptyDir": {}}, {"name": "snap", "emptyDir": {}}]},
        "extraVolumes: the name snap is taken",
    ),
    (
        {"extraVolumeMounts": [{"name": "snap", "mountPath": "/snap"}]},
        "extraVolumeMounts: there is no volume snap",
    ),
    ({"podLabels": {"app.kubernetes.io/name": "x"}}, "podLabels: app.kubernetes.io/name is set"),
    (
        {"podLabels": {"sidecar.istio.io/inject": "true"}},
        "podLabels: sidecar.istio.io/inject is set",
    ),
    (
        {"podLabels": {"istio.io/dataplane-mode": "ambient"}},
        "podLabels: istio.io/dataplane-mode=ambient would give the agents a mesh's proxy",
    ),
    (
        {"podAnnotations": {"consul.hashicorp.com/connect-inject": "true"}},
        "podAnnotations: consul.hashicorp.com/connect-inject=true would give",
    ),
    (
        {"extraEnv": [{"name": "HOLDFAST_BPFFS", "value": "/run/bpf"}]},
        "extraEnv: HOLDFAST_BPFFS is not to be set here: the uninstallation cleans /sys/fs/bpf",
    ),
    (
        {"extraArgs": ["--bpffs=/run/bpf"]},
        "extraArgs: --bpffs is not to be set here: the uninstallation cleans /sys/fs/bpf",
    ),
    (
        {"extraArgs": ["--bpffs", "/run/bpf"]},
        "extraArgs: --bpffs is not to be set here: the uninstallation cleans /sys/fs/bpf",
    ),
    (
        {"extraArgs": ["--cgroup-root=/sys/fs/cgroup/a"]},
        "set HOLDFAST_CGROUP_ROOT in extraEnv",
    ),
    ({"extraArgs": ["--sentry-for=1h"]}, "extraArgs: --sentry-for is not to be set here"),
    (
        {"extraEnv": [{"name": "HOLDFAST_SENTRY_FOR", "value": "1h"}]},
        "extraEnv: HOLDFAST_SENTRY_FOR is not to be set here: use sentry",
    ),
    (
        {"health": {"address": "127.0.0.1"}},
        "health.address: kubelet asks at the pod's address",
    ),
    (
        {"health": {"address": "localhost"}},
        "health.address: kubelet asks at the pod's address",
    ),
    (
        {"health": {"address": "[::1]"}},
        "health.address: kubelet asks at the pod's address",
    ),
    ({"metrics": {"port": 8686}}, "metrics.port: 8686 is health.port"),
    (
        {"metrics": {"enabled": False, "annotations": True}},
        "metrics.annotations: there are no metrics to scrape",
    ),
    (
        {"metrics": {"enabled": False}, "monitoring": {"podMonitor": {"enabled": True}}},
        "monitoring.podMonitor: there are no metrics to scrape",
    ),
    (
        {"metrics": {"enabled": False}, "monitoring": {"prometheusRule": {"enabled": True}}},
        "monitoring.prometheusRule: there are no metrics to watch",
    ),
    (
        {"metrics": {"address": "127.0.0.1"}, "monitoring": {"podMonitor": {"enabled": True}}},
        "monitoring.podMonitor: Prometheus asks at the pod's address",
    ),
    (
        {"metrics": {"annotations": True}, "podAnnotations": {"prometheus.io/port": "1"}},
        "podAnnotations: prometheus.io/port is set by the chart, see metrics.annotations",
    ),
    (
        {"extraEnv": [{"name": "HOLDFAST_METRICS_ADDRESS", "value": "1"}]},
        "extraEnv: HOLDFAST_METRICS_ADDRESS is not to be set here: use metrics",
    ),
    ({"podAnnotations": {"checksum/config": "x"}}, "podAnnotations: checksum/config is set"),
    (
        {"privileged": True, "extraCapabilities": ["SYS_RESOURCE"]},
        "extraCapabilities: a privileged agent has every capability",
    ),
    (
        {"updateStrategy": {"type": "OnDelete"}},
        "updateStrategy: OnDelete knows no rollingUpdate",
    ),
    (
        {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}},
        "updateStrategy: with maxSurge maxUnavailable must be 0",
    ),
    (
        {"updateStrategy": {"rollingUpdate": {"maxSurge": "0%"}}},
        "updateStrategy: with maxSurge and maxUnavailable 0",
    ),
    (
        {"startupTaint": {"enabled": True}, "tolerations": [{"key": "dedicated", "value": "x"}]},
        "startupTaint: no agent would come to a node with holdfast.dev/agent-not-ready",
    ),
    (
        {
            "startupTaint": {"enabled": True},
            "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
        },
        "startupTaint: no agent would come to a node with holdfast.dev/agent-not-ready",
    ),
    ({"namespace": {"create": True}}, "namespace.create is for manifests that kubectl applies"),
    (
        {"resourceQuota": {"enabled": True}, "priorityClassName": ""},
        "resourceQuota: there is no priorityClassName",
    ),
]

# Values that the schema refuses, and the key that its answer has to name.
VIOLATIONS = [
    ({"logLvl": "debug"}, "logLvl"),
    ({"image": {"repositry": "x"}}, "repositry"),
    ({"image": {"repository": "holdfast:1.0"}}, "/image/repository"),
    ({"image": {"repository": "a.b:5000/holdfast:1.0"}}, "/image/repository"),
    ({"image": {"digest": "sha256:12"}}, "/image/digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"image": {"pullSecrets": ["name"]}}, "/image/pullSecrets/0"),
    ({"config": "hold: enabled"}, "/config"),
    ({"config": {"holds": "enabled"}}, "holds"),
    ({"config": {"hold": True}}, "/config/hold"),
    ({"config": {"observe": "on"}}, "/config/observe"),
    ({"config": {"mode": "Hold"}}, "/config/mode"),
    ({"config": {"timeout": 90}}, "/config/timeout"),
    ({"config": {"timeout": "0s"}}, "/config/timeout"),
    ({"logFormat": "xml"}, "/logFormat"),
    ({"onExit": "leave"}, "/onExit"),
    ({"sentry": {"for": "25h"}}, "/sentry/for"),
    ({"sentry": {"for": "0s"}}, "/sentry/for"),
    ({"sentry": {"resources": {"memory": "1Gi"}}}, "memory"),
    ({"startupTaint": True}, "/startupTaint"),
    ({"startupTaint": {"enabled": "yes"}}, "/startupTaint/enabled"),
    ({"cleanupHook": {"activeDeadlineSeconds": 59}}, "/cleanupHook/activeDeadlineSeconds"),
    ({"health": {"port": 0}}, "/health/port"),
    ({"health": {"address": "::"}}, "/health/address"),
    ({"metrics": {"port": "9464"}}, "/metrics/port"),
    ({"metrics": {"pod": True}}, "pod"),
    ({"monitoring": {"podMonitor": True}}, "/monitoring/podMonitor"),
    ({"monitoring": {"podMonitor": {"interval": "30"}}}, "/monitoring/podMonitor/interval"),
    ({"monitoring": {"prometheusRule": {"runbook": ""}}}, "/monitoring/prometheusRule/runbook"),
    ({"monitoring": {"serviceMonitor": {}}}, "serviceMonitor"),
    ({"runtimeRoots": []}, "/runtimeRoots"),
    ({"runtimeRoots": ["/var/snap"]}, "/runtimeRoots/0"),
    ({"updateStrategy": {"type": "Recreate"}}, "/updateStrategy/type"),
    ({"updateStrategy": {"rollingUpdate": {"maxSurge": -1}}}, "/updateStrategy/rollingUpdate"),
    ({"updateStrategy": {"rollingUpdate": {"maxSurge": "00%"}}}, "/updateStrategy/rollingUpdate"),
    ({"resources": {"memory": "1Gi"}}, "memory"),
    ({"extraCapabilities": ["CAP_SYS_RESOURCE"]}, "/extraCapabilities/0"),
    ({"extraCapabilities": ["ALL"]}, "/extraCapabilities/0"),
    ({"extraEnv": {"A": "1"}}, "/extraEnv"),
    ({"extraVolumeMounts": [{"name": "run"}]}, "mountPath"),
    ({"namespace": {"name": "x"}}, "name"),
    ({"podLabels": {"a": 1}}, "/podLabels/a"),
]
