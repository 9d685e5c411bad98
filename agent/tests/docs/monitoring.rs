//! Alerts and dashboard: what they ask for is there, and what fires is explained.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use holdfast::metrics::descriptions;
use serde::Deserialize;
use serde_json::Value;
use testbed::promtool;

use crate::files;

const ALERTS: &str = "deploy/monitoring/alerts.yaml";
const ALERT_TESTS: &str = "deploy/tests/alerts_test.yaml";
const DASHBOARD: &str = "deploy/monitoring/dashboard.json";
const RUNBOOK: &str = "docs/runbook.md";

/// Metrics of others that the alerts need: kube-state-metrics' and cAdvisor's.
const FOREIGN: [&str; 4] = [
    "kube_daemonset_status_desired_number_scheduled",
    "kube_daemonset_status_number_ready",
    "container_memory_working_set_bytes",
    "container_spec_memory_limit_bytes",
];

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    alert: String,
    expr: String,
    #[serde(default, rename = "for")]
    _for: String,
    labels: std::collections::BTreeMap<String, String>,
    annotations: std::collections::BTreeMap<String, String>,
}

fn alerts() -> Vec<Alert> {
    let rules: Rules = serde_saphyr::from_str(&files::read(Path::new(ALERTS))).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&files::read(Path::new(DASHBOARD))).unwrap()
}

/// All strings under this key, wherever they are.
fn strings(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => strings(value, key, found),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|value| strings(value, key, found)),
        _ => {}
    }
}

fn expressions() -> Vec<String> {
    let mut found = Vec::new();
    strings(&dashboard(), "expr", &mut found);
    found
}

/// The names in a query that are metrics', by how those begin.
fn metrics(query: &str) -> BTreeSet<String> {
    query
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| {
            ["holdfast_", "process_", "kube_", "container_"].iter().any(|one| word.starts_with(one))
        })
        .map(str::to_owned)
        .collect()
}

/// Every name under which something can be asked for.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for metric in descriptions() {
        if metric.kind == "histogram" {
            known.extend(["bucket", "sum", "count"].map(|part| format!("{}_{part}", metric.name)));
        } else {
            known.insert(metric.name);
        }
    }
    known
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn in_checkout(path: &str) -> PathBuf {
    files::root().join(path)
}

#[test]
fn alerts_are_rules_and_fire_when_they_should() {
    run(promtool().unwrap().args(["check", "rules"]).arg(in_checkout(ALERTS)));
    run(promtool().unwrap().args(["test", "rules"]).arg(in_checkout(ALERT_TESTS)));
    let tests = files::read(Path::new(ALERT_TESTS));
    for Alert { alert, .. } in alerts() {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is never seen to fire");
        let silent = format!("alertname: {alert}, exp_alerts: []}}");
        assert!(tests.contains(&silent), "{alert} is never seen not to fire");
    }
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    let runbook = files::read(Path::new(RUNBOOK));
    let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let alerts = alerts();
    let names: Vec<&str> = alerts.iter().map(|one| one.alert.as_str()).collect();
    assert_eq!(names, sections, "one section for each, in the same order");
    for Alert { alert, labels, annotations, .. } in &alerts {
        assert!(["critical", "warning"].contains(&&*labels["severity"]), "{alert}");
        assert!(!annotations["summary"].is_empty() && !annotations["description"].is_empty());
        let url = format!("{RUNBOOK}#{}", alert.to_lowercase());
        assert_eq!(annotations["runbook_url"], url);
        let section = runbook.split(&format!("\n## {alert}\n")).nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        for part in ["**Means**", "**Look**", "**Mend**"] {
            assert!(section.contains(part), "{alert} has no {part}");
        }
    }
}

#[test]
fn what_alerts_dashboard_and_runbook_ask_for_is_there() {
    let known = known();
    for Alert { alert, expr, .. } in alerts() {
        let asked = metrics(&expr);
        assert!(!asked.is_empty(), "{alert}");
        for metric in asked {
            assert!(known.contains(&metric) || FOREIGN.contains(&&*metric), "{alert}: {metric}");
        }
    }
    for expression in expressions() {
        for metric in metrics(&expression) {
            assert!(known.contains(&metric), "{expression}: {metric}");
        }
    }
    for metric in metrics(&files::read(Path::new(RUNBOOK))) {
        assert!(known.contains(&metric), "{RUNBOOK}: {metric}");
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let shown: BTreeSet<String> =
        expressions().iter().flat_map(|expression| metrics(expression)).collect();
    for metric in descriptions() {
        let asked = match metric.kind.as_str() {
            "histogram" => format!("{}_bucket", metric.name),
            _ => metric.name,
        };
        assert!(shown.contains(&asked), "{asked}");
    }
}

#[test]
fn the_dashboard_can_be_imported_anywhere() {
    let dashboard = dashboard();
    // An id or a source of data would be those of one installation.
    assert!(dashboard.get("id").is_none_or(Value::is_null));
    let mut uids = Vec::new();
    strings(&dashboard["panels"], "uid", &mut uids);
    strings(&dashboard["templating"], "uid", &mut uids);
    assert!(uids.len() > 10 && uids.iter().all(|uid| uid == "${datasource}"), "{uids:?}");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(variables[0]["name"], "datasource");
    assert_eq!(variables[0]["type"], "datasource");
    // Grafana 9.5's; later ones bring older dashboards up to date when they import them.
    assert_eq!(dashboard["schemaVersion"], 38);

    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut cells = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "panels overlap: {panel}");
        }
    }
}

#[test]
fn promtool_can_read_what_the_dashboard_asks() {
    // As recording rules, with what Grafana puts in place of its variables.
    let rules: Vec<Value> = expressions()
        .iter()
        .enumerate()
        .map(|(number, expression)| {
            let expression = expression
                .replace("$__rate_interval", "5m")
                .replace("$instance", ".*")
                .replace("$namespace", ".*");
            assert!(!expression.contains('$'), "{expression}");
            serde_json::json!({ "record": format!("dashboard:{number}"), "expr": expression })
        })
        .collect();
    assert!(rules.len() > 30);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("dashboard.yaml");
    // JSON is YAML.
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&file, groups.to_string()).unwrap();
    run(promtool().unwrap().args(["check", "rules"]).arg(&file));
}
