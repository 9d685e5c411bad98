//! The API server, and what it lets the agent do.

use std::{fmt::Display, time::Duration};

use futures::future::join_all;
use tokio::time::timeout;

use super::report::Check;
use crate::{
    cli::CheckArgs,
    cluster::{DaemonSetName, Right, Server, innermost},
};

const SERVER: &str = "API server";
const NODE: &str = "node name";

/// How long each request may take. An API server that takes longer would keep a rollout waiting.
const LIMIT: Duration = Duration::from_secs(5);

/// What the agent asks the API server for; deploy/ grants the same.
fn rights(daemonset: Option<&DaemonSetName>, removes_taint: bool) -> Vec<(Right, Need)> {
    let right = |group, resource, verbs| Right { group, resource, verbs, object: None };
    let mut rights = vec![
        (right("", "pods", &["list", "watch"]), Need::Always),
        (right("", "namespaces", &["list", "watch"]), Need::Always),
        (right("events.k8s.io", "events", &["create", "patch"]), Need::ForEvents),
    ];
    if let Some(DaemonSetName { namespace, name }) = daemonset {
        let object = Some((namespace.clone(), name.clone()));
        let right = Right { group: "apps", resource: "daemonsets", verbs: &["get"], object };
        rights.push((right, Need::ForEnding));
    }
    if removes_taint {
        rights.push((right("", "nodes", &["get", "patch"]), Need::ForTaint));
    }
    rights
}

/// What a right is needed for.
#[derive(Clone, Copy)]
enum Need {
    Always,
    ForEvents,
    ForEnding,
    ForTaint,
}

// === impl Need ===

impl Need {
    fn denied(self, check: &str, found: impl Display) -> Check {
        let mend = match self {
            Self::Always => {
                return Check::failed(
                    check,
                    found,
                    "grant it (deploy/holdfast.yaml, ClusterRole holdfast)",
                );
            }
            Self::ForEvents => {
                "pods get no Events; grant it (deploy/holdfast.yaml, ClusterRole holdfast)"
            }
            Self::ForEnding => {
                "an agent that ends takes its DaemonSet for gone and opens all gates; grant it \
                 (deploy/holdfast.yaml, Role holdfast-daemonset)"
            }
            Self::ForTaint => {
                "the start-up taint stays; grant it (the chart's startupTaint.enabled)"
            }
        };
        Check::warning(check, found, mend)
    }
}

/// All that concerns the API.
pub(super) async fn checks(args: &CheckArgs) -> Vec<Check> {
    let server = match Server::new(args.kubeconfig.as_deref()).await {
        Ok(server) => server,
        Err(error) => return vec![Check::error(SERVER, error, "name a kubeconfig")],
    };
    // Rights are asked for whether or not it has said its version: each says what it comes to.
    let needed = rights(args.daemonset.as_ref(), args.remove_startup_taint);
    let rights = needed.into_iter().map(|(right, need)| allowed(&server, right, need));
    let (version, rights, node) =
        tokio::join!(version(&server), join_all(rights), node(&server, args.node_name.as_deref()));
    std::iter::once(version).chain(rights).chain([node]).collect()
}

async fn version(server: &Server) -> Check {
    const MEND: &str =
        "check that it runs, that this node may reach it, and the credentials in the kubeconfig";
    let url = server.url();
    match timeout(LIMIT, server.version()).await {
        Ok(Ok(version)) => Check::ok(SERVER, format_args!("{url}: Kubernetes {version}")),
        Ok(Err(error)) => Check::failed(SERVER, format_args!("{url}: {}", innermost(&error)), MEND),
        Err(_) => Check::failed(SERVER, format_args!("{url}: {}", no_answer()), MEND),
    }
}

async fn allowed(server: &Server, right: Right, need: Need) -> Check {
    let check = right.to_string();
    match timeout(LIMIT, server.denied(&right)).await {
        Ok(Ok(denied)) if denied.is_empty() => {
            Check::ok(check, format_args!("granted: {}", right.verbs.join(", ")))
        }
        Ok(Ok(denied)) => need.denied(&check, format_args!("denied: {}", denied.join(", "))),
        Ok(Err(error)) => unknown(&check, innermost(&error)),
        Err(_) => unknown(&check, no_answer()),
    }
}

async fn node(server: &Server, name: Option<&str>) -> Check {
    let Some(name) = name else {
        return Check::skipped(NODE, "not given", "name this node with --node-name or NODE_NAME");
    };
    match timeout(LIMIT, server.has_pods(name)).await {
        Ok(Ok(true)) => Check::ok(NODE, format_args!("{name}, which has pods")),
        Ok(Ok(false)) => Check::warning(
            NODE,
            format_args!("{name}, on which the API knows no pod"),
            "kubectl get nodes lists the names; on a node without pods there is nothing to mend",
        ),
        Ok(Err(error)) => unknown(NODE, innermost(&error)),
        Err(_) => unknown(NODE, no_answer()),
    }
}

fn no_answer() -> String {
    format!("no answer within {} s", LIMIT.as_secs())
}

fn unknown(check: &str, reason: impl Display) -> Check {
    Check::skipped(
        check,
        format_args!("not known: {reason}"),
        format_args!("mend the {SERVER} first"),
    )
}
