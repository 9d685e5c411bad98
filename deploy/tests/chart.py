"""The chart as Helm renders it, and the manifest for kubectl made from it.

    python3 deploy/tests/chart.py [--check]

writes deploy/holdfast.yaml, or says how it differs. `cargo xtask chart` runs it with all it needs.
"""

from __future__ import annotations

import asyncio
import difflib
import os
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
# Made from deploy/chart by `cargo xtask chart`; change that, not this. The chart has every choice, and is
# for older clusters too.
"""

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
    values = yaml.safe_load(MANIFEST_VALUES.read_text())
    rendered = render(values, chart=chart)
    container, *_ = rendered.one("DaemonSet")["spec"]["template"]["spec"]["containers"]
    # Helm leaves the white space of what it leaves out.
    lines = [line.rstrip() for line in rendered.manifest.strip().splitlines()]
    body = "\n".join(line for line in lines if not line.startswith("# Source: ") and line)
    return HEADER.format(image=container["image"]) + body + "\n"


def difference(chart: Path = CHART) -> list[str]:
    """How deploy/holdfast.yaml differs from what the chart makes."""
    is_there = MANIFEST.read_text() if MANIFEST.exists() else ""
    lines = difflib.unified_diff(
        is_there.splitlines(),
        manifest(chart).splitlines(),
        "deploy/holdfast.yaml",
        "rendered from deploy/chart",
        lineterm="",
    )
    return list(lines)


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if lines := difference():
            print("\n".join(lines))
            print("error: deploy/holdfast.yaml is not the chart's; `cargo xtask chart` writes it")
            return 1
    elif arguments:
        print(__doc__, file=sys.stderr)
        return 64
    elif difference():
        MANIFEST.write_text(manifest())
        print("deploy/holdfast.yaml is new; look at the difference before you commit it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
