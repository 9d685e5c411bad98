//! What the agent asks the API server for, and what its roles grant: the same.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Instant};

use serde_json::{Value, json};
use testbed::{
    PodSpec, Resource,
    api::{Access, Rule},
    apps, backend_v4,
};

use crate::common::{
    SOON, assert_released, dials, enabled_node, events, eventually, lists, options, wait_for,
};

/// Where the agent's roles are, from the workspace's root.
const MANIFEST: &str = "deploy/holdfast.yaml";

/// The role that the agent always has.
const ROLE: &str = "holdfast";

/// The role in the agent's own namespace, for `--on-exit auto`.
const DAEMONSET_ROLE: &str = "holdfast-daemonset";

const NAMESPACE: &str = "holdfast";

const TAINT: &str = "holdfast.dev/agent-not-ready";

/// All that an agent with the extras may do.
pub(crate) fn all_rules() -> Vec<Rule> {
    [rules(ROLE), rules(DAEMONSET_ROLE), vec![taint_rule()]].concat()
}

/// The rules of the role with this name.
fn rules(name: &str) -> Vec<Rule> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", MANIFEST].iter().collect();
    let text = fs::read_to_string(path).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let is_role = |document: &&Value| {
        matches!(document["kind"].as_str(), Some("ClusterRole" | "Role"))
            && document["metadata"]["name"] == name
    };
    let roles: Vec<&Value> = documents.iter().filter(is_role).collect();
    let [role] = roles[..] else { panic!("{name} is there {} times", roles.len()) };
    let mut rules: Vec<Rule> = serde_json::from_value(role["rules"].clone()).unwrap();
    let namespace = role["metadata"]["namespace"].as_str();
    assert_eq!(role["kind"] == "Role", namespace.is_some(), "{role}");
    for rule in &mut rules {
        rule.namespace = namespace.map(str::to_owned);
    }
    rules
}

/// What the agent needs to remove the start-up taint. The manifest has no role for it: the chart
/// adds one with `startupTaint.enabled`. Which node is its own, no role can say.
fn taint_rule() -> Rule {
    Rule {
        api_groups: vec![String::new()],
        resources: vec!["nodes".to_owned()],
        verbs: vec!["get".to_owned(), "patch".to_owned()],
        ..Rule::default()
    }
}

/// Asserts that every piece of the rules was used, and nothing else asked for.
fn assert_equal(asked: &BTreeSet<Access>, rules: &[Rule]) {
    for access in asked {
        assert!(rules.iter().any(|rule| rule.allows(access)), "not granted: {access:?}");
    }
    for piece in rules.iter().flat_map(Rule::pieces) {
        assert!(asked.iter().any(|access| piece.allows(access)), "granted in vain: {piece:?}");
    }
}

/// An agent's whole life on a server that grants these rules; gives what was asked for.
fn life(rules: &[Rule], with_extras: bool) -> BTreeSet<Access> {
    let node = enabled_node();
    let api = node.api();
    api.grant(rules.to_vec());
    let taints = json!([
        {"key": TAINT, "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
    ]);
    let name = node.name();
    api.put(Resource::Nodes, json!({"metadata": {"name": name}, "spec": {"taints": taints}}));
    let metadata = json!({"name": "holdfast", "namespace": NAMESPACE});
    api.put(Resource::DaemonSets, json!({"metadata": metadata}));
    let extras = ["--remove-startup-taint", "--daemonset=holdfast/holdfast", "--on-exit=auto"];
    let chosen = if with_extras { &extras[..] } else { &[] };
    let options = chosen.iter().fold(options(), |options, extra| options.arg(*extra));
    let agent = node.start_agent(&options).unwrap();
    agent.wait_message(SOON, "agent armed").unwrap();

    // An Event, and one that counts it.
    let mode = "holdfast.dev/mode";
    let spec = PodSpec::new("shop", "cart").annotation(mode, "wait");
    let pod = node.create_pod(spec).unwrap();
    eventually("an Event", || events(&node, &pod).len() == 1);
    pod.patch(&json!({"metadata": {"annotations": {mode: "waits"}}}));
    eventually("its repetition", || events(&node, &pod)[0]["series"]["count"].is_number());

    let app = dials(&pod, "app", backend_v4());
    wait_for(&agent, &pod, "connect held");
    let proxy = pod.start_proxy().unwrap();
    assert_released(&app, proxy.wait_ready(SOON).unwrap(), "cart");
    wait_for(&agent, &pod, "gate detached");

    // Watches that break, and begin again with a list.
    let expired = Instant::now();
    api.expire_history();
    eventually("another list", || lists(&node, expired, "namespaces") > 0);
    api.stop();
    agent.wait_message(SOON, "watch interrupted; trying again").unwrap();
    let watches = api.requests("watch", "namespaces");
    api.resume().unwrap();
    eventually("another watch", || api.requests("watch", "namespaces") > watches);

    let keys = || {
        let node = api.get(Resource::Nodes, None, name).unwrap();
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints.into_iter().map(|taint| taint["key"].clone()).collect::<Vec<_>>()
    };
    if with_extras {
        agent.wait_message(SOON, "start-up taint removed").unwrap();
        assert_eq!(keys(), ["node.kubernetes.io/unreachable"]);
    } else {
        assert_eq!(keys(), [TAINT, "node.kubernetes.io/unreachable"]);
    }
    assert!(agent.stop(SOON).unwrap().success());
    if with_extras {
        // Its DaemonSet is there, so another agent is to go on with its gates.
        let stays = "stopping; gates stay as they are until another agent takes them over";
        assert_eq!(agent.logged(stays).len(), 1);
    }
    api.accesses()
}

#[test]
fn the_cluster_role_is_what_the_agent_asks_for() {
    let rules = rules(ROLE);
    assert_equal(&life(&rules, false), &rules);
}

#[test]
fn what_the_extras_ask_for_is_in_roles_of_their_own() {
    let own = rules(DAEMONSET_ROLE);
    assert!(own.iter().all(|rule| rule.namespace.as_deref() == Some(NAMESPACE)), "{own:?}");
    let rules = [rules(ROLE), own, vec![taint_rule()]].concat();
    assert_equal(&life(&rules, true), &rules);
}

#[test]
fn without_the_right_the_taint_stays_and_one_warning_says_why() {
    let node = enabled_node();
    node.api().grant(rules(ROLE));
    let taints = json!([{"key": TAINT, "effect": "NoSchedule"}]);
    let object = json!({"metadata": {"name": node.name()}, "spec": {"taints": taints}});
    node.api().put(Resource::Nodes, object);
    let agent = node.start_agent(&options().env("HOLDFAST_REMOVE_STARTUP_TAINT", "true")).unwrap();
    let warning = agent.wait_log(SOON, |line| line["level"] == "WARN").unwrap();
    let text = warning.to_string();
    assert!(text.contains("grant get and patch on nodes"), "{text}");
    assert!(text.contains("cannot get resource"), "{text}");
    // Everything else works.
    let pod = node.create_pod(PodSpec::new("shop", "cart")).unwrap();
    let app = pod.start_container("app", apps::connect(backend_v4()).unwrap()).unwrap();
    wait_for(&agent, &pod, "connect held");
    let proxy = pod.start_proxy().unwrap();
    proxy.wait_ready(SOON).unwrap();
    assert!(app.wait_attempt(SOON).unwrap().is_connected());
}
