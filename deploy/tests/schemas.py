"""What is wrong with manifests: by the API's schemas, and between one object and another."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
from kubernetes_validate.utils import all_versions, major_minor

Document = dict[str, Any]

POD_KINDS = ("DaemonSet", "Deployment", "Job")

# The Prometheus operator's; its schemas are not Kubernetes'. test_monitoring.py looks at them.
OPERATORS = "monitoring.coreos.com/v1"


def versions() -> list[str]:
    """The versions of Kubernetes whose schemas are there, such as 1.25, oldest first."""
    every = {major_minor(version) for version in all_versions()}
    return sorted(every, key=lambda version: [int(part) for part in version.split(".")])


def faults(documents: list[Document], version: str) -> list[str]:
    """What an API server of that version would not take, and what nobody would find out there."""
    found = []
    for document in documents:
        name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
        try:
            if document["apiVersion"] != OPERATORS:
                kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            found.append(f"{name} in {version}: {path}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            # It is made without a text.
            found.append(f"{name} in {version}: {error.message}")
        found += [f"{name}: {fault}" for fault in _loose_ends(document, documents)]
    return found


def pod_spec(document: Document) -> Document:
    return document["spec"]["template"]["spec"]


def _loose_ends(document: Document, documents: list[Document]) -> list[str]:
    """Names that lead nowhere: the schemas know only how a name looks."""
    there = {(other["kind"], other["metadata"]["name"]) for other in documents}
    wanted: list[tuple[str, str]] = []
    found = []
    if document["kind"].endswith("RoleBinding"):
        wanted.append((document["roleRef"]["kind"], document["roleRef"]["name"]))
        wanted += [(subject["kind"], subject["name"]) for subject in document["subjects"]]
    if document["kind"] in POD_KINDS:
        spec = pod_spec(document)
        if account := spec.get("serviceAccountName"):
            wanted.append(("ServiceAccount", account))
        volumes = [volume["name"] for volume in spec.get("volumes", [])]
        found += [f"two volumes {name}" for name in _twice(volumes)]
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                wanted.append(("ConfigMap", volume["configMap"]["name"]))
        for container in spec["containers"]:
            found += _container_faults(container, volumes)
        selector = document["spec"].get("selector", {}).get("matchLabels", {})
        labels = document["spec"]["template"]["metadata"]["labels"]
        if not selector.items() <= labels.items():
            found.append("its selector does not fit its pods' labels")
    missing = [one for one in wanted if one not in there]
    return found + [f"there is no {kind} {name}" for kind, name in missing]


def _container_faults(container: Document, volumes: list[str]) -> list[str]:
    mounts = [mount["name"] for mount in container.get("volumeMounts", [])]
    ports = [port["name"] for port in container.get("ports", [])]
    variables = [variable["name"] for variable in container.get("env", [])]
    found = [f"a mount of {name}, which is no volume" for name in mounts if name not in volumes]
    found += [f"two variables {name}" for name in _twice(variables)]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        port = container.get(probe, {}).get("httpGet", {}).get("port")
        if isinstance(port, str) and port not in ports:
            found.append(f"{probe} of port {port}, which is none")
    # kubelet takes a reference to a variable that comes later, or never, for plain text.
    known: set[str] = set()
    for variable in container.get("env", []):
        value = variable.get("value", "")
        found += [f"{variable['name']} refers to {name}" for name in _references(value) - known]
        known.add(variable["name"])
    for argument in container.get("args", []):
        found += [f"an argument refers to {name}" for name in _references(argument) - known]
    return found


def _references(text: str) -> set[str]:
    return {part.partition(")")[0] for part in text.split("$(")[1:]}


def _twice(names: list[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}
