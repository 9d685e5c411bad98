"""The chart: what it renders and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
import unittest
from pathlib import Path

import chart
import helm_sdkpy
import yaml
from broken import broken_copy
from cases import CONTRADICTIONS, EVERYTHING, VIOLATIONS
from schemas import faults, pod_spec, versions

OLDEST, *_, NEWEST = versions()
# Around the version in which AppArmor's profile became a field.
BEFORE_APP_ARMOR_FIELD, SINCE_APP_ARMOR_FIELD = "1.29", "1.30"


class Chart(unittest.TestCase):
    maxDiff = None

    def test_its_version_is_the_workspaces(self):
        workspace = tomllib.loads((chart.DEPLOY.parent / "Cargo.toml").read_text())
        version = workspace["workspace"]["package"]["version"]
        metadata = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
        self.assertEqual((metadata["version"], metadata["appVersion"]), (version, version))

    def test_a_manifest_that_is_not_the_charts_is_told(self):
        self.assertEqual(chart.difference(), [])
        with broken_copy("templates/daemonset.yaml", "hostPID: true", "hostPID: false") as copy:
            difference = chart.difference(copy)
        self.assertIn("-      hostPID: true", difference)
        self.assertIn("+      hostPID: false", difference)
        stay = ("[cleanup, --stay]", "[cleanup]")
        with broken_copy("templates/cleanup.yaml", *stay) as copy:
            self.assertIn("+          args: [cleanup]", chart.difference(copy))

    def test_every_supported_version_takes_the_default(self):
        self.assertGreater(len(versions()), 10)
        for version in versions():
            with self.subTest(version):
                rendered = chart.render(cluster=f"{version}.0")
                self.assertEqual(faults(rendered.objects + rendered.hooks, version), [])

    def test_every_version_since_1_30_takes_the_manifests_for_kubectl(self):
        since = versions()[versions().index(SINCE_APP_ARMOR_FIELD) :]
        for manifest in (chart.MANIFEST, chart.CLEANUP):
            documents = chart.parse(manifest.read_text())
            self.assertEqual(documents[0]["kind"], "Namespace")
            for version in since:
                self.assertEqual(faults(documents, version), [])
            self.assertIn("appArmorProfile", " ".join(faults(documents, BEFORE_APP_ARMOR_FIELD)))

    def test_without_helm_the_hooks_pods_clean_all_the_same(self):
        text = chart.CLEANUP.read_text()
        self.assertNotIn("helm.sh", text)
        namespace, account, daemonset = chart.parse(text)
        hook = chart.render().one("DaemonSet", "holdfast-cleanup")
        self.assertEqual(daemonset["spec"], hook["spec"])
        self.assertEqual(account["metadata"]["name"], pod_spec(daemonset)["serviceAccountName"])
        # Not the agents' own, with which they would be deleted.
        places = {one["metadata"]["namespace"] for one in (account, daemonset)}
        self.assertEqual(places, {namespace["metadata"]["name"]})
        self.assertNotEqual(places, {chart.NAMESPACE})

    def test_everything_at_a_time_is_taken(self):
        for version in (OLDEST, BEFORE_APP_ARMOR_FIELD, SINCE_APP_ARMOR_FIELD, NEWEST):
            with self.subTest(version):
                rendered = chart.render(EVERYTHING, f"{version}.0")
                self.assertEqual(faults(rendered.objects + rendered.hooks, version), [])

    def test_every_value_has_an_effect(self):
        default = yaml.safe_load((chart.CHART / "values.yaml").read_text())
        # What `everything` leaves out: it contradicts the rest.
        others = {
            "onExit": {"onExit": "keep"},
            "privileged": {"privileged": True},
            "namespace": {"namespace": {"create": True}, "cleanupHook": {"enabled": False}},
        }
        self.assertEqual(set(default), set(EVERYTHING) | set(others))
        plain = chart.render()
        for key in default:
            with self.subTest(key):
                values = others.get(key) or {key: EVERYTHING[key]}
                if key == "extraVolumeMounts":
                    values |= {"extraVolumes": EVERYTHING["extraVolumes"]}
                changed = chart.render(values)
                before, after = plain.objects + plain.hooks, changed.objects + changed.hooks
                self.assertNotEqual(before, after)

    def test_contradictory_values_are_refused_with_the_reason(self):
        for values, reason in CONTRADICTIONS:
            with self.subTest(values), self.assertRaises(helm_sdkpy.HelmError) as refused:
                chart.render(values)
            self.assertIn(reason, str(refused.exception))

    def test_the_names_of_the_charts_own_volumes_are_taken(self):
        volumes = pod_spec(chart.render().one("DaemonSet"))["volumes"]
        self.assertGreater(len(volumes), 4)
        for name in (volume["name"] for volume in volumes):
            with self.subTest(name):
                with self.assertRaises(helm_sdkpy.HelmError) as refused:
                    chart.render({"extraVolumes": [{"name": name, "emptyDir": {}}]})
                reason = f"extraVolumes: the name {name} is taken"
                self.assertIn(reason, str(refused.exception))
                # What is there can be mounted at another place as well.
                mount = {"name": name, "mountPath": "/elsewhere"}
                rendered = chart.render({"extraVolumeMounts": [mount]})
                container, *_ = pod_spec(rendered.one("DaemonSet"))["containers"]
                self.assertIn(mount, container["volumeMounts"])

    def test_what_a_refusal_advises_works(self):
        on_delete = {"type": "OnDelete", "rollingUpdate": None}
        one_by_one = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}}
        for strategy, expected in (
            (on_delete, {"type": "OnDelete"}),
            (one_by_one, {"type": "RollingUpdate", **one_by_one}),
        ):
            rendered = chart.render({"updateStrategy": strategy})
            self.assertEqual(rendered.one("DaemonSet")["spec"]["updateStrategy"], expected)
            self.assertEqual(faults(rendered.objects, NEWEST), [])
        # As deploy/holdfast.yaml has it.
        values = {"namespace": {"create": True}, "cleanupHook": {"enabled": False}}
        self.assertEqual(chart.render(values).hooks, [])

    def test_values_that_are_none_are_refused_with_the_key(self):
        for values, key in VIOLATIONS:
            with self.subTest(values), self.assertRaises(helm_sdkpy.HelmError) as refused:
                chart.render(values)
            self.assertIn("values don't meet the specifications", str(refused.exception))
            self.assertRegex(str(refused.exception), rf"'{key}\b|'{key}'")

    def test_helms_own_linter_has_nothing_to_complain_of(self):
        # Helm's support.Severity. It recommends an icon, which would be the address of a picture.
        information, failure = 1, 3
        self.assertEqual(worst_of_lint(chart.CHART), information)
        with broken_copy("templates/daemonset.yaml", "hostPID: true", "hostPID: {{ x") as copy:
            self.assertEqual(worst_of_lint(copy), failure)

    def test_clusters_that_are_too_old_are_refused(self):
        with self.assertRaisesRegex(helm_sdkpy.HelmError, "kubeVersion: >=1.25.0-0"):
            chart.render(cluster="1.24.17")
        # Vendors' versions count as what they are.
        chart.render(cluster="1.25.16-gke.1041000")

    def test_every_value_is_explained_and_in_the_schema(self):
        text = (chart.CHART / "values.yaml").read_text()
        schema = json.loads((chart.CHART / "values.schema.json").read_text())
        default = yaml.safe_load(text)
        self.assertEqual(set(default) | {"global"}, set(schema["properties"]))
        explained = set(re.findall(r"^ *# -- .*\n(?:^ *# .*\n)*^ *(\w+):", text, re.M))
        own_objects = {
            key
            for key, value in schema["properties"].items()
            if value.get("properties") and key not in ("config", "updateStrategy", "resources")
        }
        for key, value in default.items():
            for name in value if key in own_objects else [key]:
                with self.subTest(f"{key}.{name}"):
                    self.assertIn(name, explained)

    def test_another_config_means_new_agents_and_nothing_else_does(self):
        def checksum(values: dict) -> str:
            template = chart.render(values).one("DaemonSet")["spec"]["template"]
            return template["metadata"]["annotations"]["checksum/config"]

        default = checksum({})
        self.assertNotEqual(default, checksum({"config": {"guard": "enabled"}}))
        self.assertEqual(default, checksum({"logLevel": "debug", "podLabels": {"a": "b"}}))

    def test_the_image_is_named_as_it_was_asked_for(self):
        def images(image: dict) -> set[str]:
            rendered = chart.render({"image": image})
            documents = [*rendered.objects, *rendered.hooks]
            return {
                container["image"]
                for document in documents
                if document["kind"] in ("DaemonSet", "Job")
                for container in pod_spec(document)["containers"]
            }

        version = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["appVersion"]
        digest = "sha256:" + "0" * 64
        self.assertEqual(images({}), {f"holdfast:{version}"})
        self.assertEqual(images({"repository": "a.b:5/c", "tag": "d"}), {"a.b:5/c:d"})
        self.assertEqual(images({"digest": digest}), {f"holdfast:{version}@{digest}"})

    def test_the_account_may_do_what_the_agent_does_and_no_more(self):
        core, events = {"apiGroups": [""]}, {"apiGroups": ["events.k8s.io"]}
        rules = [
            core | {"resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
            events | {"resources": ["events"], "verbs": ["create", "patch"]},
        ]
        own = {
            "apiGroups": ["apps"],
            "resources": ["daemonsets"],
            "resourceNames": ["holdfast"],
            "verbs": ["get"],
        }
        taint = core | {"resources": ["nodes"], "verbs": ["get", "patch"]}
        for values, expected in (
            ({}, {"holdfast": rules, "holdfast-daemonset": [own]}),
            # With another value too: agents that run ask until they are replaced.
            ({"onExit": "keep"}, {"holdfast": rules, "holdfast-daemonset": [own]}),
            ({"onExit": "detach"}, {"holdfast": rules, "holdfast-daemonset": [own]}),
            (
                {"startupTaint": {"enabled": True}},
                {
                    "holdfast": rules,
                    "holdfast-daemonset": [own],
                    "holdfast-startup-taint": [taint],
                },
            ),
        ):
            with self.subTest(values):
                roles = {
                    document["metadata"]["name"]: document["rules"]
                    for document in chart.render(values).objects
                    if document["kind"] in ("ClusterRole", "Role")
                }
                self.assertEqual(roles, expected)

    def test_the_hook_goes_where_agents_go_and_nowhere_else(self):
        def choice(pod: dict) -> dict:
            return {key: pod.get(key) for key in ("nodeSelector", "affinity")}

        for values in ({}, EVERYTHING, {"nodeSelector": None, "affinity": None}):
            rendered = chart.render(values)
            agent = pod_spec(rendered.one("DaemonSet"))
            self.assertEqual(choice(agent) == choice({}), values.get("affinity", ()) is None)
            cleanup = pod_spec(rendered.one("DaemonSet", "holdfast-cleanup"))
            self.assertEqual(choice(cleanup), choice(agent))
            self.assertEqual(cleanup["tolerations"], agent["tolerations"])
            job = pod_spec(rendered.one("Job", "holdfast-cleanup"))
            self.assertEqual(choice(job), choice(agent))
            # Not to a node that does not answer, which the agents tolerate.
            unbound = [{"operator": "Exists", "effect": "NoSchedule"}]
            self.assertEqual(job["tolerations"], unbound)

    def test_nodes_without_a_kernel_get_no_agent(self):
        affinity = pod_spec(chart.render().one("DaemonSet"))["affinity"]["nodeAffinity"]
        # Only a requirement keeps a DaemonSet from counting the node.
        [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        out = {rule["key"]: (rule["operator"], rule["values"]) for rule in term["matchExpressions"]}
        self.assertEqual(
            out,
            {
                "eks.amazonaws.com/compute-type": ("NotIn", ["fargate"]),
                "type": ("NotIn", ["virtual-kubelet"]),
            },
        )

    def test_one_node_that_is_not_ready_does_not_stop_an_upgrade(self):
        strategy = chart.render().one("DaemonSet")["spec"]["updateStrategy"]
        self.assertEqual(strategy["rollingUpdate"], {"maxSurge": "10%", "maxUnavailable": 0})

    def test_health_is_served_at_the_pods_address_of_either_family(self):
        for health, expected in (
            ({}, "8686"),
            ({"port": 9000}, "9000"),
            ({"address": "0.0.0.0"}, "0.0.0.0:8686"),
            ({"address": "[::]", "port": 9000}, "[::]:9000"),
        ):
            rendered = chart.render({"health": health})
            for name in ("holdfast", "holdfast-cleanup"):
                container, *_ = pod_spec(rendered.one("DaemonSet", name))["containers"]
                given = {one["name"]: one.get("value") for one in container["env"]}
                self.assertEqual(given["HOLDFAST_HEALTH_ADDRESS"], expected)

    def test_all_pods_get_the_labels_and_annotations_that_are_asked_for(self):
        # One that only says no is no mesh's proxy.
        own = {"team": "mesh", "istio.io/dataplane-mode": "none"}
        rendered = chart.render({"podLabels": own, "podAnnotations": {"example.com/team": "mesh"}})
        pods = [
            document["spec"]["template"]["metadata"]
            for document in rendered.objects + rendered.hooks
            if document["kind"] in ("DaemonSet", "Job")
        ]
        self.assertEqual(len(pods), 3)
        for pod in pods:
            self.assertLessEqual(own.items(), pod["labels"].items())
            self.assertEqual(pod["annotations"]["example.com/team"], "mesh")

    def test_the_values_for_microk8s_that_the_documents_tell_are_taken(self):
        text = (chart.DEPLOY.parent / "docs/requirements.md").read_text()
        [block] = re.findall(r"```yaml\n(extraVolumes.*?)```", text, re.S)
        rendered = chart.render(yaml.safe_load(block))
        self.assertEqual(faults(rendered.objects, NEWEST), [])
        container, *_ = pod_spec(rendered.one("DaemonSet"))["containers"]
        _, root = container["args"][-1].split("=")
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        self.assertTrue(any(root.startswith(f"{mount}/") for mount in mounts), root)

    def test_the_command_for_openshift_names_every_account(self):
        text = (chart.DEPLOY.parent / "docs/install.md").read_text()
        [command] = re.findall(r"^oc adm policy add-scc-to-user (.*)$", text, re.M)
        rendered = chart.render()
        accounts = {
            document["metadata"]["name"]
            for document in rendered.objects + rendered.hooks
            if document["kind"] == "ServiceAccount"
        }
        self.assertEqual(set(re.findall(r"-z (\S+)", command)), accounts)

    def test_names_that_look_like_numbers_stay_names(self):
        rendered = chart.render({"priorityClassName": "1", "managedBy": "2"}, namespace="007")
        documents = rendered.objects + rendered.hooks
        self.assertEqual(faults(documents, NEWEST), [])
        places = {document["metadata"].get("namespace", "007") for document in documents}
        self.assertEqual(places, {"007"})
        self.assertEqual(pod_spec(rendered.one("DaemonSet"))["priorityClassName"], "1")

    def test_only_the_agent_and_the_hooks_job_get_a_token(self):
        rendered = chart.render()
        hooks = {hook["kind"]: hook for hook in rendered.hooks}
        for document, token in (
            (rendered.one("DaemonSet"), True),
            (hooks["DaemonSet"], False),
            (hooks["Job"], True),
        ):
            self.assertIs(pod_spec(document)["automountServiceAccountToken"], token)
        for name in ("holdfast", "holdfast-cleanup"):
            account = rendered.one("ServiceAccount", name)
            self.assertIs(account["automountServiceAccountToken"], False)

    def test_nobody_is_privileged_unless_asked_for(self):
        def contexts(values: dict) -> dict[str, dict]:
            rendered = chart.render(values)
            return {
                container["name"]: container["securityContext"]
                for document in rendered.objects + rendered.hooks
                if document["kind"] in ("DaemonSet", "Job")
                for container in pod_spec(document)["containers"]
            }

        default = contexts({})
        for context in default.values():
            self.assertFalse(context.get("privileged", False))
            self.assertFalse(context["allowPrivilegeEscalation"])
            self.assertTrue(context["readOnlyRootFilesystem"])
            self.assertEqual(context["capabilities"]["drop"], ["ALL"])
            self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})
        # To remove pins takes none, but root's files; the Job only asks the API server.
        self.assertNotIn("add", default["cleanup"]["capabilities"])
        self.assertNotIn("add", default["wait"]["capabilities"])
        self.assertTrue(default["wait"]["runAsNonRoot"])
        # The API server refuses an escalation that is forbidden and possible at a time.
        fallback = contexts({"privileged": True})
        for name in ("agent", "sentry", "cleanup"):
            self.assertTrue(fallback[name]["privileged"])
            self.assertNotIn("allowPrivilegeEscalation", fallback[name])
            self.assertNotIn("capabilities", fallback[name])
        self.assertEqual(fallback["wait"], default["wait"])

    def test_only_clusters_before_1_30_are_given_app_armors_annotation(self):
        key = "container.apparmor.security.beta.kubernetes.io"
        for version, old in ((BEFORE_APP_ARMOR_FIELD, True), (SINCE_APP_ARMOR_FIELD, False)):
            template = chart.render(cluster=f"{version}.0").one("DaemonSet")["spec"]["template"]
            for container in template["spec"]["containers"]:
                annotation = template["metadata"]["annotations"].get(f"{key}/{container['name']}")
                profile = container["securityContext"].get("appArmorProfile")
                self.assertEqual(annotation, "unconfined" if old else None)
                self.assertEqual(profile, None if old else {"type": "Unconfined"})

    def test_the_sentry_is_the_agents_neighbour_with_less_rights(self):
        agent, sentry = pod_spec(chart.render().one("DaemonSet"))["containers"]
        self.assertEqual((agent["name"], sentry["name"]), ("agent", "sentry"))
        self.assertEqual(sentry["image"], agent["image"])
        rights = [set(one["securityContext"]["capabilities"]["add"]) for one in (agent, sentry)]
        self.assertLess(rights[1], rights[0])
        mounts = {mount["name"]: mount for mount in agent["volumeMounts"]}
        for mount in sentry["volumeMounts"]:
            self.assertEqual(mount, mounts[mount["name"]])
        self.assertEqual({mount["name"] for mount in sentry["volumeMounts"]}, {"cgroup", "bpffs"})

        def times(values: dict) -> list[str]:
            containers = pod_spec(chart.render(values).one("DaemonSet"))["containers"]
            variables = [variable for one in containers for variable in one["env"]]
            return [one["value"] for one in variables if one["name"] == "HOLDFAST_SENTRY_FOR"]

        self.assertEqual(times({}), ["10m", "10m"])
        self.assertEqual(times({"sentry": {"for": "1h"}}), ["1h", "1h"])
        # Then an agent that ends posts none, either.
        self.assertEqual(times({"sentry": {"enabled": False}}), ["0s"])

    def test_no_object_of_a_release_can_be_mistaken_for_anothers(self):
        rendered = chart.render()
        selectors = []
        for document in rendered.objects + rendered.hooks:
            labels = document["metadata"]["labels"]
            self.assertEqual(labels["app.kubernetes.io/part-of"], "holdfast")
            self.assertEqual(labels["app.kubernetes.io/managed-by"], "Helm")
            if document["kind"] in ("DaemonSet", "Job"):
                selectors.append(document["spec"].get("selector", {}).get("matchLabels"))
        pods = [
            document["spec"]["template"]["metadata"]["labels"]
            for document in rendered.objects + rendered.hooks
            if document["kind"] in ("DaemonSet", "Job")
        ]
        for selector in filter(None, selectors):
            self.assertEqual(sum(selector.items() <= labels.items() for labels in pods), 1)

    def test_notes_tell_what_to_do_next(self):
        notes = chart.render().notes
        for command in (
            "kubectl -n holdfast rollout status daemonset/holdfast",
            "kubectl label namespace NAME holdfast.dev/hold=enabled",
            "helm uninstall holdfast -n holdfast",
            # Both reasons for which no pod may come.
            "kubectl label namespace holdfast pod-security.kubernetes.io/enforce=privileged",
            "--reset-then-reuse-values --set resourceQuota.enabled=true",
            # What an uninstallation that failed means.
            "uninstallation completed with 1 error",
            "a second `helm uninstall` finds no release",
        ):
            self.assertIn(command, notes)
        allowed = chart.render({"resourceQuota": {"enabled": True}}).notes
        self.assertNotIn("insufficient quota", allowed)
        self.assertNotIn("Note:", notes)
        # The hook removes it.
        self.assertNotIn("Note:", chart.render({"onExit": "keep"}).notes)
        keep = {"onExit": "keep", "cleanupHook": {"enabled": False}}
        self.assertIn("Note: with onExit=keep", chart.render(keep).notes)
        self.assertIn("Note: with onExit=detach", chart.render({"onExit": "detach"}).notes)
        self.assertIn("Note: the agents run privileged", chart.render({"privileged": True}).notes)

    def test_notes_tell_of_a_runbook_that_no_link_leads_to(self):
        def notes(**rule: object) -> str:
            return chart.render({"monitoring": {"prometheusRule": rule}}).notes

        self.assertIn('runbook_url is "docs/runbook.md"', notes(enabled=True))
        self.assertIn("--set monitoring.prometheusRule.runbook=ADDRESS", notes(enabled=True))
        address = "https://wiki.example.com/holdfast"
        self.assertNotIn("runbook", notes(enabled=True, runbook=address))
        self.assertNotIn("runbook", notes(enabled=False))


def worst_of_lint(path: Path) -> int:
    with chart.Cluster(f"{NEWEST}.0") as server:
        configuration = helm_sdkpy.Configuration("default", kubeconfig=server.kubeconfig())
        linted = asyncio.run(helm_sdkpy.Lint(configuration).run(str(path)))
    return max((message["Severity"] for message in linted["Messages"] or []), default=0)


if __name__ == "__main__":
    unittest.main()
