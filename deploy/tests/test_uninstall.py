"""What Helm does to uninstall the chart: in which order, and what is left when it fails."""

from __future__ import annotations

import asyncio
import re
import unittest

import chart
import helm_sdkpy
from cases import EVERYTHING
from schemas import pod_spec


class Uninstallation(unittest.TestCase):
    def test_nodes_are_cleaned_once_the_agents_are_told_to_go(self):
        writes, left, error = chart.uninstall()
        self.assertIsNone(error)
        self.assertEqual(left, [])
        order = [f"{write.verb} {write.kind} {write.name}" for write in writes]
        steps = [
            "delete DaemonSet holdfast",
            # An agent that ends can still ask for its DaemonSet, or is told no: both mean "go".
            "delete Role holdfast-daemonset",
            # The account has its rights before anybody needs them.
            "create RoleBinding holdfast-cleanup",
            "create DaemonSet holdfast-cleanup",
            # It is there until the Job has seen it ready on each node.
            "create Job holdfast-cleanup",
            "delete DaemonSet holdfast-cleanup",
        ]
        self.assertEqual([step for step in order if step in steps], steps)

    def test_the_hook_needs_nothing_of_the_release(self):
        for values in ({}, EVERYTHING):
            rendered = chart.render(values)
            with chart.Cluster(chart.MANIFEST_CLUSTER) as server:
                configuration, _ = chart.install(server, values)
                server.writes.clear()
                uninstall = helm_sdkpy.Uninstall(configuration)
                asyncio.run(uninstall.run(chart.RELEASE, wait=False, timeout=chart.TIMEOUT_S))
                changes = [(write.verb, write.kind, write.name) for write in server.writes]
            first = min(changes.index(hook) for hook in changes if hook[0] == "create")
            gone = {change[1:] for change in changes[:first]}
            for document in rendered.objects:
                self.assertIn((document["kind"], document["metadata"]["name"]), gone)
            made = {change[1:] for change in changes if change[0] == "create"}
            needed = set()
            for hook in rendered.hooks:
                if hook["kind"] in ("DaemonSet", "Job"):
                    pod = pod_spec(hook)
                    needed.add(("ServiceAccount", pod["serviceAccountName"]))
                    for volume in pod.get("volumes", []):
                        self.assertEqual(set(volume) - {"name"}, {"hostPath"})
            # Without one some clusters refuse the priority, which the agents' one has allowed.
            if values:
                needed.add(("ResourceQuota", "holdfast-cleanup"))
                own = rendered.one("ResourceQuota", "holdfast-cleanup")
                self.assertEqual(own["spec"], rendered.one("ResourceQuota")["spec"])
            self.assertEqual(needed - made, set())

    def test_a_node_that_cannot_be_cleaned_makes_it_fail_and_keeps_nothing(self):
        writes, left, error = chart.uninstall(jobs_succeed=False)
        self.assertIsNotNone(error)
        self.assertIn("uninstallation completed with 1 error", str(error))
        self.assertIn("Job/holdfast/holdfast-cleanup not ready", str(error))
        self.assertIn(chart.Write("delete", "DaemonSet", "holdfast"), writes)
        # Of all that its Job alone is left: for its log.
        self.assertEqual(left, [("Job", "holdfast", "holdfast-cleanup")])

    def test_after_a_failure_there_is_no_release_and_the_next_one_has_room(self):
        with chart.Cluster(chart.MANIFEST_CLUSTER, jobs_succeed=False) as server:
            configuration, _ = chart.install(server, {})
            uninstall = helm_sdkpy.Uninstall(configuration)
            with self.assertRaises(helm_sdkpy.HelmError):
                asyncio.run(uninstall.run(chart.RELEASE, wait=False, timeout=chart.TIMEOUT_S))
            with self.assertRaisesRegex(helm_sdkpy.HelmError, "not found"):
                asyncio.run(uninstall.run(chart.RELEASE, wait=False, timeout=chart.TIMEOUT_S))
            # As the documents advise.
            configuration, _ = chart.install(server, {})
            uninstall = helm_sdkpy.Uninstall(configuration)
            server.jobs_succeed = True
            asyncio.run(uninstall.run(chart.RELEASE, wait=False, timeout=chart.TIMEOUT_S))
            self.assertEqual(list(server.objects), [])

    def test_the_hooks_pods_are_ready_only_where_no_agent_works(self):
        cleanup = chart.render().one("DaemonSet", "holdfast-cleanup")
        [container] = pod_spec(cleanup)["containers"]
        self.assertEqual(container["args"], ["cleanup", "--stay"])
        # One that was ready is not counted any more after the first look that finds an agent.
        self.assertEqual(container["readinessProbe"]["failureThreshold"], 1)
        self.assertEqual(container["readinessProbe"]["httpGet"]["path"], "/readyz")

    def test_what_an_interrupted_hook_leaves_is_named(self):
        rendered = chart.render({"resourceQuota": {"enabled": True}})
        short = {
            "quota": "ResourceQuota",
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
        # Agents may take all of their time to end.
        grace = pod_spec(chart.render().one("DaemonSet"))["terminationGracePeriodSeconds"]
        self.assertGreater(job["spec"]["activeDeadlineSeconds"], 2 * grace)
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
