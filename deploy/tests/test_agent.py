"""That the manifests, the documents and the agent speak of the same: it is asked itself."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import chart
import yaml
from schemas import pod_spec

# `cargo xtask chart` builds it.
AGENT = os.environ.get("HOLDFAST_BINARY", "")

README = (chart.DEPLOY / "README.md").read_text()


def agent(*arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    # What the shell that runs the tests has set is nothing that a pod has.
    own = {key: value for key, value in os.environ.items() if not key.startswith("HOLDFAST_")}
    command = [*wrapper, AGENT, *arguments]
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=60)


def help_of(command: str) -> str:
    shown = agent(command, "--help")
    assert shown.returncode == 0, f"holdfast {command} --help: {shown.stderr}"
    return shown.stdout


def variables(help_text: str) -> set[str]:
    # A line may end anywhere.
    return set(re.findall(r"\[env:\s+(\w+)=", help_text))


def options(help_text: str) -> set[str]:
    return set(re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]*)", help_text, re.M))


class Agent(unittest.TestCase):
    def setUp(self):
        self.assertTrue(Path(AGENT).is_file(), "HOLDFAST_BINARY is none: use `cargo xtask chart`")
        self.rendered = chart.render({"startupTaint": {"enabled": True}})
        self.container, *_ = pod_spec(self.rendered.one("DaemonSet"))["containers"]

    def test_every_variable_of_the_manifest_is_an_option(self):
        # For references in other variables only, so that a name in them is never out of date.
        internal = {"POD_NAME", "POD_NAMESPACE"}
        known = variables(help_of("run"))
        self.assertIn("HOLDFAST_CONFIG", known)
        given = {variable["name"] for variable in self.container["env"]}
        self.assertEqual(given - internal - known, set())
        # Without these it does not work, or does not know itself.
        self.assertLessEqual({"NODE_NAME", "POD_UID"}, given)

    def test_the_sentry_takes_the_variables_of_the_manifest(self):
        _, sentry = pod_spec(self.rendered.one("DaemonSet"))["containers"]
        self.assertEqual(sentry["args"], ["sentry"])
        given = {variable["name"]: variable.get("value") for variable in sentry["env"]}
        self.assertEqual(set(given) - variables(help_of("sentry")), set())
        # Without it a pod that is replaced may end seconds late.
        self.assertIn("POD_UID", given)
        for time in ("1s", "9999s", "999m", "24h", given["HOLDFAST_SENTRY_FOR"]):
            chart.render({"sentry": {"for": time}})
            refused = agent("sentry", "--sentry-for", time, "--cgroup-root", "/nonexistent")
            self.assertNotIn("--sentry-for", refused.stderr, time)
        wrong = agent("sentry", "--sentry-for", "25h")
        self.assertIn("it must be a duration up to 24h", wrong.stderr)

    def test_the_agent_takes_the_values_of_the_manifest(self):
        literal = [
            f"{variable['name']}={variable['value'].replace('$(POD_NAMESPACE)', 'holdfast')}"
            for variable in self.container["env"]
            if "value" in variable and variable["name"] != "HOLDFAST_CONFIG"
        ]
        self.assertGreater(len(literal), 4)
        # It gets past its options, and ends for want of a cluster or of a right.
        ended = agent("run", wrapper=("env", *literal, "NODE_NAME=a", "KUBECONFIG=/nonexistent"))
        self.assertIn("kubeconfig /nonexistent", ended.stderr)
        wrong = agent("run", wrapper=("env", *literal, "NODE_NAME=a", "HOLDFAST_LOG_FORMAT=xml"))
        self.assertIn("invalid value 'xml'", wrong.stderr)

    def test_the_hooks_arguments_are_options(self):
        known = help_of("cleanup")
        for hook in self.rendered.hooks:
            if hook["kind"] not in ("DaemonSet", "Job"):
                continue
            with self.subTest(hook["kind"]):
                [container] = pod_spec(hook)["containers"]
                command, *arguments = container["args"]
                self.assertEqual(command, "cleanup")
                given = {argument for argument in arguments if argument.startswith("--")}
                self.assertEqual(given - options(known), set())
                own = {v["name"] for v in container.get("env", []) if v["name"] != "POD_NAMESPACE"}
                self.assertEqual(own - variables(known), set())

    def test_its_capabilities_are_those_that_it_asks_for_and_the_readme_explains(self):
        # What it misses when it has none.
        dropped = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        refused = agent("run", "--node-name", "a", wrapper=dropped)
        self.assertEqual(refused.returncode, 77, refused.stderr)
        asked = set(re.findall(r"CAP_(\w+), needed", refused.stderr))
        capabilities = self.container["securityContext"]["capabilities"]
        self.assertEqual(capabilities["drop"], ["ALL"])
        self.assertEqual(set(capabilities["add"]), asked)
        self.assertEqual(set(re.findall(r"^\| `CAP_(\w+)` \|", README, re.M)), asked)
        text = self.rendered.manifest
        for name in asked:
            self.assertRegex(text, rf"# .*\n +- {name}\n", "each has its reason above it")

    def test_its_directories_are_those_that_the_readme_explains(self):
        volumes = pod_spec(self.rendered.one("DaemonSet"))["volumes"]
        host = {one["name"]: one["hostPath"] for one in volumes if "hostPath" in one}
        mounts = {mount["name"]: mount for mount in self.container["volumeMounts"]}
        given = {
            (path["path"], mounts[name].get("readOnly", False)) for name, path in host.items()
        }
        rows = re.findall(r"^\| `(/[^`]+)` of the host(, read-only)? \|", README, re.M)
        self.assertEqual(given, {(path, bool(read_only)) for path, read_only in rows})
        # None of them may come to be by being asked for.
        self.assertEqual({path["type"] for path in host.values()}, {"Directory"})
        for root in self._variable("HOLDFAST_RUNTIME_ROOT").split(","):
            self.assertTrue(root.startswith(mounts["run"]["mountPath"] + "/"), root)

    def test_its_commands_are_answered_in_a_directory_that_is_its_own(self):
        [socket] = set(re.findall(r"\[default:\s+(/\S+/admin\.sock)", help_of("run")))
        directory = socket.rpartition("/")[0]
        [mount] = [one for one in self.container["volumeMounts"] if one["mountPath"] == directory]
        self.assertFalse(mount.get("readOnly", False))
        volumes = {one["name"]: one for one in pod_spec(self.rendered.one("DaemonSet"))["volumes"]}
        # In memory: a node's disk may be full just when somebody asks.
        self.assertEqual(volumes[mount["name"]]["emptyDir"]["medium"], "Memory")
        self.assertIn("sizeLimit", volumes[mount["name"]]["emptyDir"])
        # A place that is named and can never be had keeps the agent from its start; the usual one does not.
        self.assertNotIn("HOLDFAST_ADMIN_SOCKET", {one["name"] for one in self.container["env"]})

    def test_the_runtimes_are_those_that_the_agent_looks_for_by_itself_and_k0s(self):
        [default] = re.findall(
            r"HOLDFAST_RUNTIME_ROOT=\]\s+\[default:\s+([^\]]+)\]", help_of("run")
        )
        given = self._variable("HOLDFAST_RUNTIME_ROOT").split(",")
        own = [f"/host{root}" for root in re.split(r"[\s,]+", default)]
        self.assertEqual(given, [*own, "/host/run/k0s/containerd"])

    def test_it_understands_the_config_file_that_the_chart_writes(self):
        for values in ({}, {"config": {"hold": "enabled", "timeout": "90s", "guard": "enabled"}}):
            self.assertEqual(self._reads(self._config(values)).stderr, "")
        profile = {
            "name": "own",
            "containers": ["own-proxy"],
            # A float with an exponent in engines that know no integers.
            "uid": {"default": 1000650000},
            "ready": ["tcp://:6000"],
            "ports": [6000],
        }
        config = self._config({"config": {"profiles": [profile]}})
        self.assertEqual(yaml.safe_load(config)["profiles"], [profile])
        self.assertIn("own", self._reads(config).stdout)

    def test_every_key_of_the_config_file_is_listed_and_checked_by_the_schema(self):
        unknown = self._reads("no-such-key: 1\n").stderr
        [expected] = re.findall(r"expected one of (.*) at line", unknown)
        keys = set(expected.split(", "))
        self.assertGreater(len(keys), 6, unknown)
        schema = yaml.safe_load((chart.CHART / "values.schema.json").read_text())
        self.assertEqual(set(schema["properties"]["config"]["properties"]), keys)
        text = (chart.CHART / "config.yaml").read_text()
        listed = re.findall(r"^# ([a-z-]+: \S+)", text, re.M)
        self.assertEqual({line.partition(":")[0] for line in listed}, keys)
        self.assertEqual(self._reads("\n".join(listed)).stderr, "", "each line works as it stands")
        for key, rule in schema["properties"]["config"]["properties"].items():
            for value in rule.get("enum", []):
                self.assertEqual(self._reads(f"{key}: {value}\n").stderr, "")

    def test_the_schema_takes_the_timeouts_that_the_agent_takes(self):
        schema = yaml.safe_load((chart.CHART / "values.schema.json").read_text())
        pattern = schema["properties"]["config"]["properties"]["timeout"]["pattern"]
        taken = ["1s", "90s", "90 sec", "1m 30s", "1m30s", "2m", "60min", "1h", "1 hour", "3600s"]
        refused = ["", "0s", "90", "s", "1d", "-5s", "999ms", "61m", "2h", "3601s", "1h1s"]
        for text in [*taken, "1500ms", "3600000ms", *refused, "3600001ms", "60m1s"]:
            with self.subTest(text):
                agents = self._reads(f'timeout: "{text}"\n')
                self.assertEqual(re.search(pattern, text) is not None, agents.stderr == "")
        for text in taken:
            self.assertIsNotNone(re.search(pattern, text), text)

    def _variable(self, name: str) -> str:
        [value] = [one["value"] for one in self.container["env"] if one["name"] == name]
        return value

    @staticmethod
    def _config(values: dict) -> str:
        return chart.render(values).one("ConfigMap")["data"]["config.yaml"]

    @staticmethod
    def _reads(config: str) -> subprocess.CompletedProcess[str]:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(config)
            file.flush()
            return agent("profiles", "--config", file.name)


if __name__ == "__main__":
    unittest.main()
