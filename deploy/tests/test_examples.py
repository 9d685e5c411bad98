"""The examples: what an operator applies unchanged."""

from __future__ import annotations

import unittest

import chart
from schemas import POD_KINDS, faults, pod_spec, versions

# How each mesh is asked to inject its proxy: place in the namespace's metadata, key, value.
INJECTION = {
    "istio": ("labels", "istio-injection", "enabled"),
    "linkerd": ("annotations", "linkerd.io/inject", "enabled"),
    "kuma": ("labels", "kuma.io/sidecar-injection", "enabled"),
}


class Examples(unittest.TestCase):
    def test_every_version_takes_them(self):
        found = sorted((chart.DEPLOY / "examples").glob("*.yaml"))
        self.assertEqual([path.stem for path in found], sorted(INJECTION))
        for path in found:
            documents = chart.parse(path.read_text())
            for version in (versions()[0], "1.30", versions()[-1]):
                with self.subTest(f"{path.name} in {version}"):
                    self.assertEqual(faults(documents, version), [])

    def test_each_is_meshed_and_held(self):
        for mesh, (place, key, value) in INJECTION.items():
            with self.subTest(mesh):
                documents = self._documents(mesh)
                [namespace] = [one for one in documents if one["kind"] == "Namespace"]
                metadata = namespace["metadata"]
                self.assertEqual(metadata[place][key], value)
                self.assertEqual(metadata["labels"]["holdfast.dev/hold"], "enabled")
                kinds = [document["kind"] for document in documents]
                self.assertEqual(kinds, ["Namespace", "Deployment", "Service", "Deployment", "Job"])
                for document in documents[1:]:
                    self.assertEqual(document["metadata"]["namespace"], metadata["name"])

    def test_each_shows_a_lost_race(self):
        for mesh in INJECTION:
            documents = self._documents(mesh)
            [service] = [one for one in documents if one["kind"] == "Service"]
            [port] = service["spec"]["ports"]
            url = f"http://{service['metadata']['name']}:{port['port']}/"
            dialling = {}
            for document in documents:
                if document["kind"] in POD_KINDS:
                    [container] = pod_spec(document)["containers"]
                    text = " ".join(container["args"])
                    self.assertNotRegex(text, "--retry|--fail", "the first connect decides")
                    if url in text:
                        dialling[document["kind"]] = document
            self.assertEqual(set(dialling), {"Deployment", "Job"}, mesh)
            self.assertEqual(pod_spec(dialling["Job"])["restartPolicy"], "Never")
            self.assertEqual(dialling["Job"]["spec"]["backoffLimit"], 0)

    def test_images_have_a_version_and_no_registry(self):
        for mesh in INJECTION:
            for document in self._documents(mesh):
                if document["kind"] in POD_KINDS:
                    for container in pod_spec(document)["containers"]:
                        repository, _, tag = container["image"].partition(":")
                        self.assertNotIn(".", repository)
                        self.assertRegex(tag, r"^\d")

    @staticmethod
    def _documents(mesh: str) -> list[dict]:
        return chart.parse((chart.DEPLOY / "examples" / f"{mesh}.yaml").read_text())


if __name__ == "__main__":
    unittest.main()
