//! What may explain a case that does not hold.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use kube::{Api, Client, ResourceExt as _, api::LogParams};

use super::{install::Installed, rollout};

/// Of each container.
const LAST_LINES: i64 = 8;
/// Of the agent's log, about one pod.
const AGENT_LINES: usize = 20;
/// Of the agent's log, in which these are looked for.
const AGENT_LOG_LINES: i64 = 5000;

/// The states of the pod's containers, the last lines of their logs, and what the agent of its node
/// has said about it.
pub(super) async fn about(client: &Client, installed: &Installed, pod: &Pod) -> Vec<String> {
    let mut lines = states(pod);
    lines.extend(last_lines(client, pod).await);
    lines.extend(agent_lines(client, installed, pod).await);
    lines
}

/// One line for each container.
pub(super) fn states(pod: &Pod) -> Vec<String> {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("unknown");
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let mut lines =
        vec![format!("pod {} on {}: {phase}", pod.name_any(), node.unwrap_or("no node"))];
    let conditions = status.conditions.unwrap_or_default();
    lines.extend(conditions.iter().filter(|one| one.status == "False").filter_map(|one| {
        one.message.as_ref().map(|message| format!("not {}: {message}", one.type_))
    }));
    let containers = status.init_container_statuses.into_iter().chain(status.container_statuses);
    lines.extend(containers.flatten().map(|container| state(&container)));
    lines
}

fn state(container: &ContainerStatus) -> String {
    let ContainerStatus { name, ready, restart_count, .. } = container;
    let what = match &container.state {
        Some(ContainerState { running: Some(_), .. }) => "running".to_owned(),
        Some(ContainerState { terminated: Some(end), .. }) => {
            format!("ended with {}", end.exit_code)
        }
        Some(ContainerState { waiting: Some(waiting), .. }) => {
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("waits: {} {}", of(&waiting.reason), of(&waiting.message))
        }
        _ => "not known".to_owned(),
    };
    let ready = if *ready { "ready" } else { "not ready" };
    format!("container {name}: {}, {ready}, {restart_count} restarts", what.trim_end())
}

/// The ends of the logs of its containers.
pub(super) async fn last_lines(client: &Client, pod: &Pod) -> Vec<String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut lines = Vec::new();
    for container in spec.init_containers.unwrap_or_default().iter().chain(&spec.containers) {
        let name = &container.name;
        // Whatever keeps a log from being read shows in the container's state.
        let log = log(client, pod, name, LAST_LINES).await.unwrap_or_default();
        lines.extend(log.lines().map(|line| format!("{name}: {line}")));
    }
    lines
}

async fn agent_lines(client: &Client, installed: &Installed, pod: &Pod) -> Vec<String> {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let agents = match rollout::pods(client, installed).await {
        Ok(agents) => agents,
        Err(error) => return vec![error.to_string()],
    };
    let uid = pod.uid().unwrap_or_default();
    let mut lines = Vec::new();
    for agent in agents.iter().filter(|agent| node(agent) == node(pod)) {
        let spec = agent.spec.clone().unwrap_or_default();
        for container in &spec.containers {
            match log(client, agent, &container.name, AGENT_LOG_LINES).await {
                Ok(log) => lines.extend(
                    log.lines()
                        .filter(|line| line.contains(&uid))
                        .map(|line| format!("agent: {line}")),
                ),
                Err(error) => lines.push(format!("agent: no log: {}", super::reason(&error))),
            }
        }
    }
    lines.split_off(lines.len().saturating_sub(AGENT_LINES))
}

async fn log(
    client: &Client,
    pod: &Pod,
    container: &str,
    lines: i64,
) -> Result<String, kube::Error> {
    let api: Api<Pod> = match pod.namespace() {
        Some(namespace) => Api::namespaced(client.clone(), &namespace),
        None => Api::default_namespaced(client.clone()),
    };
    let parameters = LogParams {
        container: Some(container.to_owned()),
        tail_lines: Some(lines),
        ..LogParams::default()
    };
    api.logs(&pod.name_any(), &parameters).await
}
