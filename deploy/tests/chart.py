"""The chart as Helm renders it, and the manifests for kubectl made from it.

    python3 deploy/tests/chart.py [--check]

writes deploy/holdfast.yaml and deploy/cleanup.yaml, or says how they differ. `cargo xtask chart`
runs it with all it needs.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Helm keeps releases in the cluster but for this; its library reads it when Python starts.
if os.environ.get("HELM_DRIVER") != "memory":
    sys.exit("error: HELM_DRIVER=memory is not set; run this by `cargo xtask chart`")

import helm_sdkpy
import yaml
from cluster import Cluster, Write

DEPLOY = Path(__file__).resolve().parent.parent
CHART = DEPLOY / "chart"
MANIFEST = DEPLOY / "holdfast.yaml"
CLEANUP = DEPLOY / "cleanup.yaml"
MANIFEST_VALUES = DEPLOY / "holdfast.values.yaml"

NAMESPACE = "holdfast"
RELEASE = "holdfast"

# The manifest has the field for AppArmor, which is 1.30's, and nothing newer.
MANIFEST_CLUSTER = "1.30.0"

HEADER = """\
# holdfast for Kubernetes 1.30 and later, without helm:
#
#   kubectl apply -f holdfast.yaml     # with your image's name in place of {image}
#   kubectl delete -f holdfast.yaml    # agents that are deleted open every gate, and leave nothing
#
# What an agent leaves that dies meanwhile, or was dead: cleanup.yaml.
#
# Made from deploy/chart by `cargo xtask chart`; change that, not this. The chart has every choice, and is
# for older clusters too.
"""

# A namespace of its own, which can be deleted whatever else there is.
CLEANUP_NAMESPACE = "holdfast-cleanup"

CLEANUP_HEADER = """\
# Removes on every node what agents of holdfast have left that died there. Afterwards, without helm:
#
#   kubectl delete -f holdfast.yaml
#   kubectl apply -f cleanup.yaml      # with your image's name in place of {image}
#   kubectl -n holdfast-cleanup rollout status daemonset/holdfast-cleanup    # done: all nodes are clean
#   kubectl delete -f cleanup.yaml
#
# Where an agent works it changes nothing, and is not ready. Made from deploy/chart by `cargo xtask chart`; change
# that, not this.
"""

# What makes an object a hook to helm, and nothing to kubectl.
HOOK = re.compile(r"^  annotations:\n(?:    (?:helm\.sh/|# ).*\n)+", re.MULTILINE)

# Helm waits for hooks; against the cluster of the tests that takes milliseconds.
TIMEOUT_S = 30

Document = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """A release as Helm stores it."""

    manifest: str
    hook_manifests: list[str]
    notes: str

    @property
    def objects(self) -> list[Document]:
        return parse(self.manifest)

    @property
    def hooks(self) -> list[Document]:
        return [hook for text in self.hook_manifests for hook in parse(text)]

    def one(self, kind: str, name: str = "holdfast") -> Document:
        """The object of that kind and name, a hook or not."""
        [found] = [
            document
            for document in self.objects + self.hooks
            if (document["kind"], document["metadata"]["name"]) == (kind, name)
        ]
        return found


def parse(text: str) -> list[Document]:
    return [document for document in yaml.load_all(text, _Strict) if document]


class _Strict(yaml.SafeLoader):
    """Refuses a key that is there twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if duplicates := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"{node.start_mark}: keys that are there twice: {duplicates}")
        return super().construct_mapping(node, deep)


def install(
    cluster: Cluster, values: Document, chart: Path = CHART, namespace: str = NAMESPACE
) -> tuple[helm_sdkpy.Configuration, Rendered]:
    configuration = helm_sdkpy.Configuration(namespace, kubeconfig=cluster.kubeconfig())
    action = helm_sdkpy.Install(configuration)
    run = action.run(RELEASE, str(chart), values=values, wait=False, timeout=TIMEOUT_S)
    release = asyncio.run(run)
    hooks = [hook["manifest"] for hook in release.get("hooks") or []]
    rendered = Rendered(release["manifest"], hooks, release["info"].get("notes", ""))
    return configuration, rendered


def render(
    values: Document | None = None,
    cluster: str = MANIFEST_CLUSTER,
    chart: Path = CHART,
    namespace: str = NAMESPACE,
) -> Rendered:
    """What `helm install` makes in a cluster of that version.

    Raises helm_sdkpy.HelmError if Helm refuses.
    """
    with Cluster(cluster) as server:
        return install(server, values or {}, chart, namespace)[1]


def uninstall(
    values: Document | None = None, jobs_succeed: bool = True
) -> tuple[list[Write], list[tuple[str, str, str]], helm_sdkpy.HelmError | None]:
    """What `helm uninstall` asks the API server for, what is left then, and why it failed."""
    with Cluster(MANIFEST_CLUSTER, jobs_succeed) as server:
        configuration, _ = install(server, values or {})
        server.writes.clear()
        action = helm_sdkpy.Uninstall(configuration)
        error = None
        try:
            asyncio.run(action.run(RELEASE, wait=False, timeout=TIMEOUT_S))
        except helm_sdkpy.HelmError as failure:
            error = failure
        return server.writes, list(server.objects), error


def manifest(chart: Path = CHART) -> str:
    """The text of deploy/holdfast.yaml."""
    rendered = render(manifest_values(), chart=chart)
    return HEADER.format(image=image(rendered, "holdfast")) + text_of(rendered.manifest)


def cleanup(chart: Path = CHART) -> str:
    """The text of deploy/cleanup.yaml: the hook's pods, for which kubectl waits as the Job does."""
    values = manifest_values()
    texts = render(values, chart=chart, namespace=CLEANUP_NAMESPACE).manifest.split("---\n")
    [namespace] = [text for text in texts if "\nkind: Namespace\n" in text]
    hook = {key: value for key, value in values.items() if key not in ("namespace", "cleanupHook")}
    rendered = render(hook, chart=chart, namespace=CLEANUP_NAMESPACE)
    kinds = {parse(text)[0]["kind"]: HOOK.sub("", text) for text in rendered.hook_manifests}
    documents = [namespace, kinds["ServiceAccount"], kinds["DaemonSet"]]
    header = CLEANUP_HEADER.format(image=image(rendered, "holdfast-cleanup"))
    return header + "".join(f"---\n{text_of(text)}" for text in documents)


def manifest_values() -> Document:
    return yaml.safe_load(MANIFEST_VALUES.read_text())


def image(rendered: Rendered, name: str) -> str:
    container, *_ = rendered.one("DaemonSet", name)["spec"]["template"]["spec"]["containers"]
    return container["image"]


def text_of(rendered: str) -> str:
    # Helm leaves the white space of what it leaves out.
    lines = [line.rstrip() for line in rendered.strip().splitlines()]
    return "\n".join(line for line in lines if not line.startswith("# Source: ") and line) + "\n"


def manifests(chart: Path = CHART) -> dict[Path, str]:
    return {MANIFEST: manifest(chart), CLEANUP: cleanup(chart)}


def difference(chart: Path = CHART) -> list[str]:
    """How the manifests differ from what the chart makes."""
    lines = []
    for path, text in manifests(chart).items():
        is_there = path.read_text() if path.exists() else ""
        lines += difflib.unified_diff(
            is_there.splitlines(),
            text.splitlines(),
            f"deploy/{path.name}",
            "rendered from deploy/chart",
            lineterm="",
        )
    return lines


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if lines := difference():
            print("\n".join(lines))
            print("error: the manifests are not the chart's; `cargo xtask chart` writes them")
            return 1
    elif arguments:
        print(__doc__, file=sys.stderr)
        return 64
    else:
        for path, text in manifests().items():
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
                print(f"deploy/{path.name} is new; look at the difference before you commit it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
