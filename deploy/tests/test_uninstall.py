"""What Helm does to uninstall the chart: in which order, and what is left when it fails."""

from __future__ import annotations

import asyncio
import re
import unittest

import chart
import helm_sdkpy
from schemas import pod_spec


class Uninstallation(unittest.TestCase):
    def test_what_dead_agents_left_goes_before_the_agents_that_live(self):
        writes, left, error = chart.uninstall()
        self.assertIsNone(error)
        self.assertEqual(left, [])
        order = [f"{write.verb} {write.kind} {write.name}" for write in writes]
        steps = [
            # The account has its rights before anybody needs them.
            "create RoleBinding holdfast-cleanup",
            "create DaemonSet holdfast-cleanup",
            # It is there until the Job has seen it ready on each node.
            "create Job holdfast-cleanup",
            "delete DaemonSet holdfast-cleanup",
            "delete DaemonSet holdfast",
            # An agent that ends can still ask for its DaemonSet, or is told no: both mean "go".
            "delete Role holdfast-daemonset",
        ]
        self.assertEqual([step for step in order if step in steps], steps)

    def test_a_node_that_cannot_be_cleaned_keeps_everything_in_place(self):
        writes, left, error = chart.uninstall(jobs_succeed=False)
        self.assertIsNotNone(error)
        self.assertIn("Job/holdfast/holdfast-cleanup not ready", str(error))
        self.assertIn(("DaemonSet", "holdfast", "holdfast"), left)
        # Of the hook its Job alone is left: for its log.
        cleanup = [kind for kind, _, name in left if name == "holdfast-cleanup"]
        self.assertEqual(cleanup, ["Job"])
        self.assertNotIn(chart.Write("delete", "DaemonSet", "holdfast"), writes)

    def test_after_a_failure_only_another_uninstallation_goes_on(self):
        with chart.Cluster(chart.MANIFEST_CLUSTER, jobs_succeed=False) as server:
            configuration, _ = chart.install(server, {})
            upgrade = helm_sdkpy.Upgrade(configuration)
            uninstall = helm_sdkpy.Uninstall(configuration)
            with self.assertRaises(helm_sdkpy.HelmError):
                asyncio.run(uninstall.run(chart.RELEASE, wait=False, timeout=chart.TIMEOUT_S))
            with self.assertRaisesRegex(helm_sdkpy.HelmError, "has no deployed releases"):
                asyncio.run(upgrade.run(chart.RELEASE, str(chart.CHART), wait=False))
            server.jobs_succeed = True
            asyncio.run(uninstall.run(chart.RELEASE, wait=False, timeout=chart.TIMEOUT_S))
            self.assertEqual(list(server.objects), [])

    def test_what_an_interrupted_hook_leaves_is_named(self):
        rendered = chart.render()
        short = {
            "ds": "DaemonSet",
            "job": "Job",
            "sa": "ServiceAccount",
            "role": "Role",
            "rolebinding": "RoleBinding",
        }
        documents = (
            rendered.notes,
            (chart.DEPLOY / "README.md").read_text(),
            (chart.DEPLOY.parent / "docs/upgrade.md").read_text(),
        )
        for text in documents:
            [(kinds, key, value)] = re.findall(
                r"kubectl -n holdfast delete (\w+(?:,\w+)+) -l ([^=\s]+)=([\w-]+)", text
            )
            kinds = [short[kind] for kind in kinds.split(",")]
            self.assertEqual(sorted(kinds), sorted(hook["kind"] for hook in rendered.hooks))
            for hook in rendered.hooks:
                self.assertEqual(hook["metadata"]["labels"][key], value)
            for document in rendered.objects:
                self.assertNotEqual(document["metadata"]["labels"][key], value)

    def test_it_cannot_hang(self):
        job = chart.render().one("Job", "holdfast-cleanup")
        self.assertEqual(job["spec"]["activeDeadlineSeconds"], 120)
        # Helm's own --timeout, after which it would not say why.
        self.assertLess(job["spec"]["activeDeadlineSeconds"], 300)
        self.assertEqual(pod_spec(job)["restartPolicy"], "Never")
        self.assertGreater(job["spec"]["ttlSecondsAfterFinished"], 0)

    def test_without_the_hook_only_the_agents_go(self):
        writes, left, error = chart.uninstall({"cleanupHook": {"enabled": False}})
        self.assertEqual((left, error), ([], None))
        self.assertEqual({write.verb for write in writes}, {"delete"})


if __name__ == "__main__":
    unittest.main()
