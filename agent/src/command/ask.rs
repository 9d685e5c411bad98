//! The commands that ask the agent: what each asks, and how it ends.

use std::{process::ExitCode, sync::Arc, thread};

use hyper::Method;

use super::{
    Output,
    absent::{self, AbsentReport},
    diagnose, explain, gate, log_level, pods, print, report, status,
};
use crate::{
    admin::{
        Client, ClientError, FilterBody, FollowBody, LogReport, OrderBody, PodDetail, WatchBody,
    },
    bpf,
    cli::{DiagnoseArgs, ExplainArgs, GateArgs, LogLevelArgs, PodsArgs, ReportArgs, StatusArgs},
    clock,
    core::{Diagnosis, NodeReport, ObservedReport, PodName, PodReport, Stamp},
    exit,
};

/// `holdfast status`: 1 if the node is not healthy, 69 if no agent answers.
///
/// # Errors
///
/// If the agent does not answer, and none has left anything to tell of.
pub fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket.socket)?;
    let node: NodeReport = match client.get("/v1/status") {
        Ok(node) => node,
        Err(error @ ClientError::NoAgent { .. }) => return absent(args, error),
        Err(error) => return Err(error.into()),
    };
    print(&args.output.render(&node, |style| status::text(&node, style))?)?;
    Ok(if node.is_healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where no agent answers, as in the sentry's container: what can be seen without one.
fn absent(args: &StatusArgs, error: ClientError) -> anyhow::Result<ExitCode> {
    let bpffs = bpf::choose_bpffs(args.bpffs.clone())?;
    let report = bpffs.and_then(|bpffs| AbsentReport::take(&bpffs, &args.proc_root));
    let Some(report) = report else { return Err(error.into()) };
    print(&args.output.render(&report, |style| absent::text(&report, style))?)?;
    Ok(ExitCode::from(exit::UNAVAILABLE))
}

/// `holdfast pods`.
///
/// # Errors
///
/// If the agent does not answer.
pub fn pods(args: &PodsArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket.socket)?;
    let mut pods: Vec<PodReport> = client.get("/v1/pods")?;
    if let Some(namespace) = &args.namespace {
        let named = |pod: &PodReport| pod.pod.name.as_ref().map(|name| Arc::clone(&name.namespace));
        pods.retain(|pod| named(pod).is_some_and(|named| *named == **namespace));
    }
    let all = pods.len();
    pods.retain(|pod| args.all || pod.is_concerned());
    let left_out = all - pods.len();
    print(&args.output.render(&pods, |style| pods::table(&pods, left_out, now(), style))?)?;
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
    let PodDetail { pod, episodes } = &detail;
    print(&args.output.render(&detail, |style| explain::text(pod, episodes, now(), style))?)?;
    Ok(ExitCode::SUCCESS)
}

/// `holdfast report`.
///
/// # Errors
///
/// If the agent does not answer.
pub fn report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.socket.socket)?;
    let mut report: ObservedReport = client.get("/v1/observed")?;
    if let Some(namespace) = &args.namespace {
        report.workloads.retain(|facts| facts.namespace == *namespace);
    }
    print(&args.output.render(&report, |style| report::table(&report, style))?)?;
    Ok(ExitCode::SUCCESS)
}

/// `holdfast diagnose`.
///
/// # Errors
///
/// If the agent does not answer, or ends meanwhile, or there is no such pod.
pub fn diagnose(args: &DiagnoseArgs) -> anyhow::Result<ExitCode> {
    let PodName { namespace, name } = &args.pod;
    let client = Client::new(&args.socket.socket)?;
    let diagnosis: Diagnosis = client.get(&format!("/v1/diagnose/{namespace}/{name}"))?;
    let time = args.time.filter(|_| diagnosis.refusal.is_none());
    let is_table = args.output == Output::Table;
    if is_table || time.is_none() {
        let show = |style| diagnose::text(&diagnosis, now(), style);
        print(&args.output.render(&diagnosis, show)?)?;
    }
    let Some(time) = time else {
        if let (true, Some(_), Some(refusal)) = (is_table, args.time, diagnosis.refusal) {
            print(&format!("\nIts starts are not observed: {refusal}.\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let body = WatchBody {
        namespace: namespace.to_string(),
        name: name.to_string(),
        for_ms: time.as_millis() as u64,
    };
    let began: ObservedReport = client.get("/v1/observed")?;
    let _: PodReport = client.send(Method::POST, "/v1/watch", &body)?;
    if is_table {
        print(&diagnose::begins(&diagnosis, time))?;
    }
    thread::sleep(time);
    let ended: ObservedReport = client.get("/v1/observed")?;
    // Another agent knows nothing of what this one was told, or has seen.
    if ended.since != began.since {
        return Err(client.ended().into());
    }
    let facts = |report: ObservedReport| {
        report.workloads.into_iter().find(|facts| facts.concern(&diagnosis.pod.pod))
    };
    let (before, after) = (facts(began), facts(ended));
    if is_table {
        print(&diagnose::ends(&diagnosis, before.as_ref(), after.as_ref()))?;
    } else {
        let Diagnosis { pod, finding, observe, refusal, .. } = diagnosis;
        let told = Diagnosis::new(pod, finding, after, observe, refusal);
        print(&args.output.render(&told, |_| String::new())?)?;
    }
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

/// `holdfast log-level`.
///
/// # Errors
///
/// If the agent does not answer, there is no such pod, or the filter means nothing.
pub fn log_level(args: &LogLevelArgs) -> anyhow::Result<ExitCode> {
    if args.pod.is_some() && args.filter.as_deref().is_some_and(|filter| filter != "debug") {
        return Err(log_level::PodLevelError.into());
    }
    let client = Client::new(&args.socket.socket)?;
    let report: LogReport = match (&args.pod, &args.filter) {
        (Some(PodName { namespace, name }), _) => {
            let (namespace, name) = (namespace.to_string(), name.to_string());
            let body = FollowBody { namespace, name, on: !args.reset, kernel: args.kernel };
            client.send(Method::PUT, "/v1/log/pods", &body)?
        }
        (None, Some(filter)) => {
            client.send(Method::PUT, "/v1/log", &FilterBody { filter: filter.clone() })?
        }
        (None, None) if args.reset => client.send(Method::DELETE, "/v1/log", &())?,
        (None, None) => client.get("/v1/log")?,
    };
    print(&args.output.render(&report, |style| log_level::table(&report, style))?)?;
    Ok(ExitCode::SUCCESS)
}

/// The agent's clock is this machine's.
fn now() -> Stamp {
    clock::epoch().stamp(clock::now())
}
