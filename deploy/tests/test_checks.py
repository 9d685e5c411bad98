"""That the checks find something: each is shown manifests with one fault."""

from __future__ import annotations

import unittest

import chart
import yaml
from broken import broken_copy
from schemas import faults, versions

OLDEST, *_, NEWEST = versions()


class Checks(unittest.TestCase):
    BREAKS = [
        ("readOnlyRootFilesystem: true", "readonlyRootFilesystem: true", "readonlyRootFilesystem"),
        ("hostPID: true", 'hostPID: "yes"', "hostPID"),
        ("/readyz\n              port: health", "/readyz\n              port: web", "port web"),
        ("bpffs\n              mountPath", "bpf\n              mountPath", "bpf, which is no volume"),
        ("serviceAccountName: holdfast", "serviceAccountName: agent", "no ServiceAccount agent"),
        ("$(POD_NAMESPACE)/holdfast", "$(NAMESPACE)/holdfast", "refers to NAMESPACE"),
        ("- name: HOLDFAST_LOG_FORMAT", "- name: HOLDFAST_LOG", "two variables HOLDFAST_LOG"),
        ("type: Directory", "type: [Directory]", "hostPath"),
    ]

    def test_each_fault_is_found(self):
        for right, wrong, expected in self.BREAKS:
            with self.subTest(wrong), broken_copy("templates/daemonset.yaml", right, wrong) as copy:
                documents = list(yaml.safe_load_all(chart.render(chart=copy).manifest))
                self.assertIn(expected, " ".join(faults(list(filter(None, documents)), NEWEST)))

    def test_a_kind_that_a_version_does_not_have_is_found(self):
        policy = {"apiVersion": "policy/v1beta1", "kind": "PodSecurityPolicy", "metadata": {}}
        policy["metadata"]["name"] = "restricted"
        self.assertIn("find schema for kind PodSecurityPolicy", faults([policy], OLDEST)[0])

    def test_a_key_that_is_there_twice_is_found(self):
        with (
            broken_copy("templates/daemonset.yaml", "hostPID:", "hostPID: x\n      hostPID:") as copy,
            self.assertRaisesRegex(ValueError, "there twice.*hostPID"),
        ):
            chart.parse(chart.render(chart=copy).manifest)


if __name__ == "__main__":
    unittest.main()
