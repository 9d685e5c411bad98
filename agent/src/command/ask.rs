//! The commands that ask the agent: what each asks, and how it ends.

use std::process::ExitCode;

use hyper::Method;

use super::{explain, gate, pods, print, status};
use crate::{
    admin::{Client, OrderBody, PodDetail},
    cli::{ExplainArgs, GateArgs, PodsArgs, StatusArgs},
    clock,
    core::{AgentState, NodeReport, PodName, PodReport, Stamp},
};

/// `holdfast status`: 1 if the node is not healthy.
///
/// # Errors
///
/// If the agent does not answer.
pub fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket.socket)?;
    let node: NodeReport = client.get("/v1/status")?;
    let pods: Vec<PodReport> = match node.state {
        AgentState::Working => client.get("/v1/pods")?,
        AgentState::Starting | AgentState::StandingBy | AgentState::Stuck => Vec::new(),
    };
    print(&args.output.render(&node, |style| status::table(&node, &pods, style))?)?;
    Ok(if node.is_healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `holdfast pods`.
///
/// # Errors
///
/// If the agent does not answer.
pub fn pods(args: &PodsArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket.socket)?;
    let mut pods: Vec<PodReport> = client.get("/v1/pods")?;
    pods.retain(|report| {
        let is_named = |namespace: &String| {
            report.pod.name.as_ref().is_some_and(|name| *name.namespace == **namespace)
        };
        (args.all || report.is_concerned()) && args.namespace.as_ref().is_none_or(is_named)
    });
    print(&args.output.render(&pods, |style| pods::table(&pods, now(), style))?)?;
    Ok(ExitCode::SUCCESS)
}

/// `holdfast explain`.
///
/// # Errors
///
/// If the agent does not answer, or there is no such pod.
pub fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let PodName { namespace, name } = &args.pod;
    let client = Client::new(&args.socket.socket)?;
    let detail: PodDetail = client.get(&format!("/v1/pods/{namespace}/{name}"))?;
    print(&args.output.render(&detail, |style| explain::text(&detail, now(), style))?)?;
    Ok(ExitCode::SUCCESS)
}

/// `holdfast gate`.
///
/// # Errors
///
/// If the agent does not answer, there is no such pod, or its gate cannot be closed.
pub fn gate(args: &GateArgs) -> anyhow::Result<ExitCode> {
    let PodName { namespace, name } = &args.pod;
    let body = OrderBody {
        namespace: namespace.to_string(),
        name: name.to_string(),
        order: args.order,
        limit_ms: args.limit().map(|limit| limit.as_millis() as u64),
    };
    let client = Client::new(&args.socket.socket)?;
    let report: PodReport = client.send(Method::POST, "/v1/gate", &body)?;
    print(&args.output.render(&report, |_| gate::words(&report, args.order))?)?;
    Ok(ExitCode::SUCCESS)
}

/// The agent's clock is this machine's.
fn now() -> Stamp {
    clock::epoch().stamp(clock::now())
}
