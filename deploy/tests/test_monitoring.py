"""How the agents are scraped, and what is said when something is wrong with them."""

from __future__ import annotations

import json
import unittest

import chart
import yaml
from schemas import pod_spec

MONITORING = chart.CHART / "monitoring"


class Monitoring(unittest.TestCase):
    maxDiff = None

    def agent(self, values: dict) -> tuple[dict, dict]:
        """Annotations and container of the agents' pods."""
        rendered = chart.render(values).one("DaemonSet")
        container, *_ = pod_spec(rendered)["containers"]
        return rendered["spec"]["template"]["metadata"]["annotations"], container

    def test_metrics_are_served_on_the_pods_address_unless_switched_off(self):
        annotations, container = self.agent({})
        port = {"name": "metrics", "containerPort": 9464, "protocol": "TCP"}
        self.assertIn(port, container["ports"])
        self.assertIn({"name": "HOLDFAST_METRICS_ADDRESS", "value": "9464"}, container["env"])
        self.assertEqual([key for key in annotations if key.startswith("prometheus.io/")], [])

        _, container = self.agent({"metrics": {"enabled": False, "pods": True}})
        self.assertEqual([port["name"] for port in container["ports"]], ["health"])
        names = {variable["name"] for variable in container["env"]}
        self.assertEqual(names & {"HOLDFAST_METRICS_ADDRESS", "HOLDFAST_POD_METRICS"}, set())

        values = {"metrics": {"address": "[::]", "port": 1234, "pods": True, "annotations": True}}
        annotations, container = self.agent(values)
        self.assertIn({"name": "HOLDFAST_METRICS_ADDRESS", "value": "[::]:1234"}, container["env"])
        self.assertIn({"name": "HOLDFAST_POD_METRICS", "value": "true"}, container["env"])
        scrape = {key: value for key, value in annotations.items() if "prometheus.io" in key}
        expected = {"scrape": "true", "port": "1234", "path": "/metrics"}
        self.assertEqual(scrape, {f"prometheus.io/{key}": expected[key] for key in expected})

    def test_nothing_of_the_operators_is_there_unless_asked_for(self):
        kinds = {document["kind"] for document in chart.render().objects}
        self.assertEqual(kinds & {"PodMonitor", "PrometheusRule"}, set())

    def test_the_pod_monitor_finds_the_agents_and_nobody_else(self):
        labels = {"release": "prometheus"}
        values = {"podMonitor": {"enabled": True, "interval": "30s", "labels": labels}}
        rendered = chart.render({"monitoring": values})
        monitor = rendered.one("PodMonitor")
        self.assertEqual(monitor["metadata"]["namespace"], chart.NAMESPACE)
        self.assertEqual(monitor["metadata"]["labels"]["release"], "prometheus")
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        for kind, name, chosen in (
            ("DaemonSet", "holdfast", True),
            ("DaemonSet", "holdfast-cleanup", False),
            ("Job", "holdfast-cleanup", False),
        ):
            pods = rendered.one(kind, name)["spec"]["template"]["metadata"]["labels"].items()
            self.assertEqual(selector <= pods, chosen, (kind, name))
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        container, *_ = pod_spec(rendered.one("DaemonSet"))["containers"]
        self.assertIn(endpoint["port"], [port["name"] for port in container["ports"]])
        self.assertEqual(endpoint["interval"], "30s")
        # Without it the namespaces of the holds would be exported_namespace.
        self.assertIs(endpoint["honorLabels"], True)
        [relabeling] = endpoint["relabelings"]
        self.assertEqual(relabeling["targetLabel"], "node")

        every_minute = chart.render({"monitoring": {"podMonitor": {"enabled": True}}})
        [endpoint] = every_minute.one("PodMonitor")["spec"]["podMetricsEndpoints"]
        self.assertNotIn("interval", endpoint)

    def test_the_rules_are_those_of_the_file(self):
        expected = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
        rule = chart.render({"monitoring": {"prometheusRule": {"enabled": True}}})
        self.assertEqual(rule.one("PrometheusRule")["spec"], expected)

        wiki = "https://wiki.example.com/holdfast"
        values = {"prometheusRule": {"enabled": True, "runbook": wiki, "labels": {"a": "b"}}}
        rule = chart.render({"monitoring": values}).one("PrometheusRule")
        self.assertEqual(rule["metadata"]["labels"]["a"], "b")
        [group] = rule["spec"]["groups"]
        for alert in group["rules"]:
            url = f"{wiki}#{alert['alert'].lower()}"
            self.assertEqual(alert["annotations"]["runbook_url"], url)

    def test_the_dashboard_is_that_of_the_file(self):
        values = {"monitoring": {"dashboard": {"enabled": True}}}
        dashboard = chart.render(values).one("ConfigMap", "holdfast-dashboard")
        self.assertEqual(dashboard["metadata"]["labels"]["grafana_dashboard"], "1")
        expected = json.loads((MONITORING / "dashboard.json").read_text())
        self.assertEqual(json.loads(dashboard["data"]["holdfast.json"]), expected)

    def test_what_lies_beside_the_chart_is_the_charts(self):
        self.assertEqual((chart.DEPLOY / "monitoring").resolve(), MONITORING)


if __name__ == "__main__":
    unittest.main()
