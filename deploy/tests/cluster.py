"""An API server with as much of the API as Helm needs to install a chart and to uninstall it.

It keeps what it is sent, in order, and plays the one controller that an uninstallation waits for:
Jobs end at once, well or badly.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

# Every kind that the chart may use: API group and version, plural, whether it has a namespace.
KINDS = {
    "Namespace": ("v1", "namespaces", False),
    "ResourceQuota": ("v1", "resourcequotas", True),
    "ServiceAccount": ("v1", "serviceaccounts", True),
    "ConfigMap": ("v1", "configmaps", True),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "Role": ("rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings", True),
    "DaemonSet": ("apps/v1", "daemonsets", True),
    "Job": ("batch/v1", "jobs", True),
    "PodMonitor": ("monitoring.coreos.com/v1", "podmonitors", True),
    "PrometheusRule": ("monitoring.coreos.com/v1", "prometheusrules", True),
}

PATH = re.compile(
    r"/(?:api|apis)/(?P<version>v1|[^/]+/v1)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?$"
)


@dataclass(frozen=True)
class Write:
    """One change that the API server was asked for."""

    verb: str
    kind: str
    name: str


class Cluster:
    """The server; use it in a `with` statement."""

    def __init__(self, version: str, jobs_succeed: bool = True):
        self.version = version
        self.jobs_succeed = jobs_succeed
        self.writes: list[Write] = []
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._closed = False
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        # Whoever ends the server waits for one turn of its loop.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> Cluster:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self) -> str:
        server = f"http://127.0.0.1:{self._server.server_port}"
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": {"server": server}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
                "users": [{"name": "test", "user": {}}],
            }
        )

    def kind_of(self, version: str, plural: str) -> str | None:
        for kind, (kind_version, kind_plural, _) in KINDS.items():
            if (version, plural) == (kind_version, kind_plural):
                return kind
        return None

    def create(self, kind: str, namespace: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Stores an object; None if there is one of that name."""
        name = body["metadata"]["name"]
        with self._changed:
            if (kind, namespace, name) in self.objects:
                return None
            body = copy.deepcopy(body)
            body["metadata"] |= {"uid": f"{kind}-{name}", "resourceVersion": "1"}
            if KINDS[kind][2]:
                body["metadata"]["namespace"] = namespace
            if kind == "Job":
                ended = "Complete" if self.jobs_succeed else "Failed"
                body["status"] = {
                    "startTime": "2024-01-01T00:00:00Z",
                    "succeeded": int(self.jobs_succeed),
                    "failed": int(not self.jobs_succeed),
                    "conditions": [{"type": ended, "status": "True"}],
                }
            self.objects[kind, namespace, name] = body
            self._record("create", "ADDED", kind, body)
            return body

    def delete(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """Removes an object; None if there is none."""
        with self._changed:
            body = self.objects.pop((kind, namespace, name), None)
            if body is not None:
                self._record("delete", "DELETED", kind, body)
            return body

    def _record(self, verb: str, event: str, kind: str, body: dict[str, Any]) -> None:
        self.writes.append(Write(verb, kind, body["metadata"]["name"]))
        self._events.append((event, body))
        self._changed.notify_all()

    def select(self, kind: str, namespace: str | None) -> list[dict[str, Any]]:
        with self._changed:
            return [
                body
                for (of_kind, of_namespace, _), body in self.objects.items()
                if of_kind == kind and namespace in (None, of_namespace)
            ]

    def watch(self, kind: str) -> Iterator[dict[str, Any]]:
        """What is there of a kind, a bookmark, then what happens, until the server ends."""
        with self._changed:
            there, seen = self.select(kind, None), len(self._events)
        yield from ({"type": "ADDED", "object": body} for body in there)
        # Clients that ask for what is there as events wait for this one.
        metadata = {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}}
        bookmark = {"kind": kind, "apiVersion": KINDS[kind][0], "metadata": metadata}
        yield {"type": "BOOKMARK", "object": bookmark}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._events) > seen)
                if self._closed:
                    return
                new, seen = self._events[seen:], len(self._events)
            for event, body in new:
                if body["kind"] == kind:
                    yield {"type": event, "object": body}


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"
    # An answer is sent in two parts; the second would wait 40 ms for the client's ACK of the first.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/version":
            major, minor, *_ = self.cluster.version.split(".")
            version = f"v{self.cluster.version}"
            self._send(200, {"major": major, "minor": minor, "gitVersion": version})
        elif path == "/api":
            self._send(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            self._send(200, self._groups())
        elif path == "/openapi/v2":
            # Helm would check hooks against it; the tests do that, with the real schemas. Nothing at
            # all is a Protocol Buffers message without any field.
            self._send_bytes(200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", b"")
        elif (version := path.removeprefix("/apis/").removeprefix("/api/")) in self._versions():
            self._send(200, self._resources(version))
        elif (place := PATH.match(path)) is None:
            self._not_found()
        elif place["name"] is None:
            self._list(place, watch="watch=" in query)
        else:
            kind = self.cluster.kind_of(place["version"], place["plural"])
            key = (kind, place["namespace"] or "", place["name"])
            found = self.cluster.objects.get(key)
            self._send(200, found) if found else self._not_found()

    def do_POST(self) -> None:
        self._create(json.loads(self._body()))

    def do_PATCH(self) -> None:
        # A server-side apply, which here always makes something new.
        self._create(yaml.safe_load(self._body()))

    def _create(self, body: dict[str, Any]) -> None:
        place = PATH.match(self.path.partition("?")[0])
        kind = place and self.cluster.kind_of(place["version"], place["plural"])
        if kind is None:
            self._not_found()
        elif created := self.cluster.create(kind, place["namespace"] or "", body):
            self._send(201, created)
        else:
            self._send(409, {"kind": "Status", "reason": "AlreadyExists", "code": 409})

    def do_DELETE(self) -> None:
        self._body()
        place = PATH.match(self.path.partition("?")[0])
        kind = place and self.cluster.kind_of(place["version"], place["plural"])
        if kind and self.cluster.delete(kind, place["namespace"] or "", place["name"]):
            self._send(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})
        else:
            self._not_found()

    def _list(self, place: re.Match[str], watch: bool) -> None:
        kind = self.cluster.kind_of(place["version"], place["plural"])
        if kind is None:
            self._not_found()
        elif watch:
            self._watch(kind)
        else:
            self._send(
                200,
                {
                    "kind": f"{kind}List",
                    "apiVersion": place["version"],
                    "metadata": {"resourceVersion": "1"},
                    "items": self.cluster.select(kind, place["namespace"]),
                },
            )

    def _watch(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for event in self.cluster.watch(kind):
                self.wfile.write(json.dumps(event).encode() + b"\n")
                self.wfile.flush()
        except OSError:
            pass  # Helm has seen enough.

    @staticmethod
    def _versions() -> set[str]:
        return {version for version, _, _ in KINDS.values()}

    def _groups(self) -> dict[str, Any]:
        groups = []
        for version in sorted(self._versions() - {"v1"}):
            group = {"groupVersion": version, "version": "v1"}
            name = version.partition("/")[0]
            groups.append({"name": name, "versions": [group], "preferredVersion": group})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    @staticmethod
    def _resources(version: str) -> dict[str, Any]:
        verbs = ["create", "delete", "get", "list", "patch", "watch"]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": [
                {
                    "name": plural,
                    "singularName": "",
                    "namespaced": namespaced,
                    "kind": kind,
                    "verbs": verbs,
                }
                for kind, (kind_version, plural, namespaced) in KINDS.items()
                if kind_version == version
            ],
        }

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _not_found(self) -> None:
        self._send(
            404,
            {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "NotFound",
                "message": f"{self.path} not found",
                "code": 404,
            },
        )

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_bytes(status, "application/json", json.dumps(body).encode())

    def _send_bytes(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
